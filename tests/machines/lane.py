"""A Python in a box of its own: ``python -m tests.machines.lane ARGUMENTS``.

As a plugin of pytest: each of its workers is one.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any, Final

from xdist.workermanage import NodeManager

from tests.machines import box, root

#: What to say in place of ``python``.
PYTHON: Final = (sys.executable, "-m", "tests.machines.lane")


#: Seconds for a box to tidy up, before its first process is killed; pytest-xdist's own are 10.
TIDYING: Final = 60


def pytest_xdist_setupnodes(specs: Sequence[Any]) -> None:
    """Called by pytest-xdist with what its workers are to be."""
    NodeManager.EXIT_TIMEOUT = TIDYING
    for spec in specs:
        # It goes when pytest does, even if that is killed.
        spec.python = shlex.join(["setpriv", "--pdeathsig", "KILL", *PYTHON])


def main(arguments: list[str]) -> None:
    """Become the first process of the box; never returns."""
    run = box.open_run(root.cache_folder())
    os.environ.update(run.environment)
    inside = [sys.executable, "-m", "tests.machines.inside", *arguments]
    os.execvp("unshare", [*box.UNSHARE, *inside])  # noqa: S606 - no shell, as it should be


if __name__ == "__main__":
    main(sys.argv[1:])
