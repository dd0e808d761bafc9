"""The master's interpreter is told to leave the loop alone."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from dayfly.master.__main__ import never_pause

collections = lambda: gc.get_stats()[2]["collections"]
never_pause()
before = collections()
connections = [[{"connection": number}] for number in range(200_000)]
print(gc.get_freeze_count() > 0, collections() - before, gc.isenabled())
"""


def test_the_objects_of_a_thousand_connections_are_not_searched_for_garbage_as_they_come() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True)
    assert said.stdout.split() == [b"True", b"0", b"True"]
