"""Runs the machine tests, some boxes at a time: ``python -m tests.machines [pytest's]``.

Each box has namespaces of its own (network, mounts, processes), which have no names: they, and
with them every machine, mount and link, are gone when its first process ends, however it ends.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.machines import host, network, root

_HERE = Path(__file__).parent
#: A boot is two seconds of one processor; the rest is waiting.
_BOXES = 4


def main(arguments: list[str]) -> None:
    """Become pytest; returns only if this machine cannot be host to machines."""
    parser = argparse.ArgumentParser(prog="python -m tests.machines", add_help=False)
    seen = not {"-s", "--pdb"}.isdisjoint(arguments)  # by whoever sits before it
    boxes = 0 if seen else _BOXES
    parser.add_argument("-n", "--numprocesses", type=int, default=boxes, dest="boxes")
    parser.add_argument("--check", action="store_true", help="see whether they can run here")
    parser.add_argument("--images", action="store_true", help="make the images, and run nothing")
    ours, others = parser.parse_known_args(arguments)
    if why := host.refusal():
        sys.exit(f"the machine tests cannot run here: {why}")
    if ours.check:
        return
    cache = root.cache_folder()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda release: root.ensure(root.Recipe(release), cache), root.RELEASES))
    if ours.images:
        return
    from tests.machines import lane  # images can be made where pytest is not

    pytest = ["-m", "pytest", *_options(others), f"--numprocesses={ours.boxes}"]
    if ours.boxes:
        # A module's tests may share machines.
        command = [sys.executable, *pytest, "-p", lane.__name__, "--dist=loadscope"]
    else:
        command = [*lane.PYTHON, *pytest]
    os.execv(command[0], command)  # noqa: S606 - it has no shell, and that is as it should be


def _options(arguments: list[str]) -> list[str]:
    named = any(Path(each.partition("::")[0]).exists() for each in arguments)
    reached = f"{network.NETWORK},{network.METADATA}/32,{network.INDEX}/32"
    return [
        *("-m", "machines"),
        f"--allow-hosts=127.0.0.0/8,::1,{reached}",
        *([] if named else [str(_HERE)]),
        *arguments,
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
