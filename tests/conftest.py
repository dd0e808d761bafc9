"""What every test stands on: a home of its own, and nothing left behind.

Sockets reach this machine only: ``--allow-hosts`` in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

# Where none was ever set, asyncio makes one for whoever asks, as the plugin does before the first
# asynchronous test of a process; nobody would close that, and a later test would be blamed.
asyncio.set_event_loop(None)

# A shell's background jobs are deaf to Ctrl-C, and so would be the programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what a plain run leaves out, and how it is run."""
    left_out = {
        "thorough": "tox -e thorough",
        "machines": "tox -e machines, as root on Linux (docs/machines.md)",
    }
    told = [
        f"{mark}: {how}"
        for mark, how in left_out.items()
        if f"not {mark}" in config.option.markexpr
    ]
    return [f"not run: {'; '.join(told)}"] if told else []


@dataclass(frozen=True)
class Home:
    """A user's home and embedded cloud, for one test.

    Attributes:
        path: ``$HOME``. Short, because Unix sockets lie below it and their paths end at 107
            bytes.
        config: What to hand to ``FunctionExecutor(config=...)``.
        config_file: The same as a file, found by every process that the test starts.
    """

    path: Path
    config: dict[str, dict[str, Any]]
    config_file: Path


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No test reads or writes the user's own ``~/.dayfly``, nor a configuration lying about."""
    for name in [name for name in os.environ if name.startswith("DAYFLY_")]:
        monkeypatch.delenv(name)
    path = Path(tempfile.mkdtemp(prefix="dfly-"))
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.chdir(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def home(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """An embedded cloud of the test's own; the test fails if a process of it is left."""
    config = {
        "localhost": {
            "directory": str(own_home / "cloud"),
            "storage_directory": str(own_home / "storage"),
        }
    }
    config_file = own_home / "config.yaml"
    config_file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("DAYFLY_CONFIG_FILE", str(config_file))
    yield Home(path=own_home, config=config, config_file=config_file)
    purge(config)
    left = processes_of(own_home)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"processes left behind: {left}"


def purge(config: dict[str, dict[str, Any]]) -> None:
    """Delete every VM of an embedded cloud, the user's own ones too."""
    from dayfly.config import load
    from dayfly.parts import open_parts
    from tests.embedded import raze

    async def delete_all() -> None:
        async with open_parts(load(config)) as parts:
            await raze(parts.cloud)

    # A thread, since a loop of the test's own may be running in this one.
    thread = threading.Thread(target=asyncio.run, args=(delete_all(),))
    thread.start()
    thread.join()


def processes_of(path: Path) -> dict[int, str]:
    """The processes that have a folder in their command line or environment: pid -> command."""
    needle = os.fsencode(path)
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            if needle in command or needle in (entry / "environ").read_bytes():
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is not ours
    return found
