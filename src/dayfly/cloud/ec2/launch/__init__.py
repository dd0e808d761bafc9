"""The launch: what it needs to know, which pool next, and the calls."""
