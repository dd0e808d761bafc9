"""The command line.

Its modules import click and nothing heavier; each command imports what it needs when it runs.
"""

from dayfly.cli.root import main

__all__ = ["main"]
