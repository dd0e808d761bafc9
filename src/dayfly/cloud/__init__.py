"""The seam to clouds and its forms."""
