"""The orchestrator's real code on virtual time, against simulated machines."""
