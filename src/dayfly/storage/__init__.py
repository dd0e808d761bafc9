"""The seam to object storage and its forms."""
