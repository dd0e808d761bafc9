"""dayfly beside ``multiprocessing.Pool`` and a bare asyncio floor: ``python -m benchmarks``."""
