"""The seam to VM shells and its forms."""
