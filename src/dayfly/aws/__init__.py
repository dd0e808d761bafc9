"""An AWS account in a region: its services' clients, and their errors in our words."""
