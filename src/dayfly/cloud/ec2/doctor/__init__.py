"""What keeps a fleet from being had, found out beforehand."""
