"""On the master VM: the scheduler, the fleet and the service."""
