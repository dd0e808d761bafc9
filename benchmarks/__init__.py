"""dayfly, its peers and bare floors side by side: ``python -m benchmarks``."""
