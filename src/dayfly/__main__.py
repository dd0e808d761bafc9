"""``python -m dayfly``: the command line."""

from dayfly.cli import main

main()
