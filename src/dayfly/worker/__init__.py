"""On the worker VMs: the agent and the runner processes."""
