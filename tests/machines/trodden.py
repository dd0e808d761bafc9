"""An image that dayfly has been on, and a storage that it has used: kept between runs.

A cold start on the bare image is what makes it. Machines of it have dayfly's own interpreter and a
small environment for functions, as VMs have that were stopped and are started again; so a test that
is about something else does not install them anew. Nothing else of that start is on it.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from dayfly import FunctionExecutor, environment
from dayfly.config import load
from dayfly.parts import open_parts
from dayfly.storage import keys
from tests.machines import images, root
from tests.machines.box import Run

if TYPE_CHECKING:
    from tests.machines.fixtures import Ec2Box

#: What the kit makes on a VM, below dayfly's own folder.
_KEPT: Final = ("env", "uv")
_OURS: Final = "opt/dayfly"
#: Seconds after which what nobody has used is deleted.
UNUSED: Final = 3 * 24 * 3600.0


@dataclass(frozen=True)
class Trodden:
    """What was kept.

    Args:
        folder: Of its own, with a layer, the objects and a requirements file.
    """

    folder: Path

    @property
    def requirements(self) -> Path:
        """What the functions' environment has."""
        return self.folder / "requirements.txt"

    def lay(self, box: Ec2Box) -> None:
        """Have a box use it."""
        release = images.RELEASES[images.OWN]
        box.images.add(images.TRODDEN, release, self.folder / "layer")
        box.write_config(target_ami=images.TRODDEN, environment=str(self.requirements))
        _run(self._fill(box))

    def take(self, box: Ec2Box) -> None:
        """Keep what the worker of a box and its storage have."""
        (worker,) = box.instances("worker", "running")
        layer = self.folder / "layer" / _OURS
        layer.mkdir(parents=True)
        for name in _KEPT:
            have = box.files(worker.id) / _OURS / name
            subprocess.run(["cp", "--archive", "--reflink=auto", have, layer], check=True)
        _run(self._empty(box))

    async def _fill(self, box: Ec2Box) -> None:
        async with open_parts(load(box.config)) as parts, asyncio.TaskGroup() as tasks:
            for path in (self.folder / "objects").iterdir():
                tasks.create_task(parts.storage.upload_file(path, unquote(path.name)))

    async def _empty(self, box: Ec2Box) -> None:
        objects = self.folder / "objects"
        objects.mkdir()
        async with open_parts(load(box.config)) as parts:
            async for key in parts.storage.list_keys(keys.ENVIRONMENTS):
                (objects / quote(key, safe="")).write_bytes(await parts.storage.get_object(key))


def trodden_by(run: Run, whole_box: Callable[[Run], AbstractContextManager[Ec2Box]]) -> Trodden:
    """What was kept of such a start, or a start now; others wait for it."""
    folder = run.cache / f"trodden-{_digest()}"
    with root.locked(run.cache / "trodden.lock"):
        if folder.is_dir():
            os.utime(folder)
        else:
            _tidy(run.cache)
            new = Path(tempfile.mkdtemp(prefix="trodden-new-", dir=run.cache))
            new.chmod(0o755)
            try:
                with whole_box(run) as box:
                    _start(box, Trodden(new))
                new.rename(folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    return Trodden(folder)


def _tidy(cache: Path) -> None:
    """Delete what nobody has used for days, and what whoever was at it has left when killed."""
    for path in cache.glob("trodden-*/"):
        unused = time.time() - path.stat().st_mtime > UNUSED
        if unused or path.name.startswith("trodden-new-"):
            shutil.rmtree(path)


def _start(box: Ec2Box, kept: Trodden) -> None:
    version = importlib.metadata.version("cloudpickle")
    kept.requirements.write_text(f"cloudpickle=={version}\n")
    box.index.open()
    box.write_config(environment=str(kept.requirements), package_index=[box.index.url])

    async def one_call() -> None:
        async with FunctionExecutor(config=box.config, progress=False, max_workers=1) as executor:
            assert await executor.map(abs, [-1]) == [1]

    _run(one_call())
    kept.take(box)


def _digest() -> str:
    """Two starts with the same digest leave the same."""
    digest = hashlib.sha256(
        f"{root.Recipe(images.RELEASES[images.OWN]).digest} {sys.version_info[:2]}".encode()
    )
    have = sorted(f"{one.name}=={one.version}" for one in importlib.metadata.distributions())
    digest.update(repr(have).encode())
    for path in sorted(Path(environment.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own, since one may be running in this thread."""
    failed: list[BaseException] = []

    def whole() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            failed.append(error)

    thread = threading.Thread(target=whole)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
