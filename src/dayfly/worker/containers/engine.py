"""The container engine of this VM: found, or installed; how it is asked, and what it says."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from dayfly.environment import system
from dayfly.errors import EnvironmentFailedError

log = logging.getLogger(__name__)

#: In order of preference.
NAMES: Final = ("docker", "podman")
#: Debian's and Ubuntu's package of the first of them.
PACKAGE: Final = "docker.io"
#: Seconds for an engine to say that it is there, and for its service to be started.
HERE, STARTED = 20.0, 60.0
#: Seconds beyond apt's own deadline, and the status that tells of it.
GRACE, APT_LATE = 30.0, 124
#: Lines of an output that are told of a failure.
TAIL: Final = 12


class Done(NamedTuple):
    """What became of a command: ``status`` is ``None`` where it was still running."""

    status: int | None
    output: str
    errors: str

    @property
    def tail(self) -> str:
        """The end of all that it said."""
        lines = (self.output + "\n" + self.errors).strip().splitlines()
        return "\n".join(lines[-TAIL:])


#: Runs a command with a text on its standard input, within some seconds.
Execute = Callable[[Sequence[str], bytes, float], Awaitable[Done]]


class Engine(msgspec.Struct, frozen=True):
    """An engine that answers.

    Attributes:
        name: One of :data:`NAMES`.
        command: What its arguments follow: the engine is root's.
    """

    name: str
    command: tuple[str, ...]

    @property
    def gpus(self) -> tuple[str, ...]:
        """The arguments that give a container the VM's GPUs.

        Source: docker-run(1); podman's is of the Container Device Interface, as NVIDIA's
        container toolkit writes it down.
        """
        return ("--gpus", "all") if self.name == "docker" else ("--device", "nvidia.com/gpu=all")

    def login_file(self, folder: str) -> tuple[str, ...]:
        """How it is told to keep, and to look for, credentials in a folder: before its words."""
        variable = "DOCKER_CONFIG" if self.name == "docker" else "REGISTRY_AUTH_FILE"
        where = folder if self.name == "docker" else f"{folder}/auth.json"
        *root, name = self.command
        return (*root, "env", f"{variable}={where}", name)


async def run(command: Sequence[str], stdin: bytes, timeout: float) -> Done:
    """Run a command, and end it when its time is up."""
    quiet: Mapping[str, str] = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=quiet,
        )
    except OSError as error:
        return Done(127, "", f"{command[0]}: {error.strerror}")
    try:
        async with asyncio.timeout(timeout):
            output, errors = await process.communicate(stdin)
    except TimeoutError:
        return Done(None, "", f"it was still running after {timeout:.0f} s")
    finally:
        if process.returncode is None:
            await _end(process)
    return Done(
        process.returncode, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace")
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        process.terminate()
    except ProcessLookupError:
        return
    except PermissionError:  # sudo is root's: another one may end it, and it passes that on
        ender = await asyncio.create_subprocess_exec(
            *(*_root(), "kill", str(process.pid)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(HERE):
                await ender.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(HERE):
            await process.wait()


async def ensure(vm: str, execute: Execute = run) -> Engine:
    """The engine of this VM; without one it is installed.

    Args:
        vm: As people know it.
        execute: Runs a command.

    Raises:
        EnvironmentFailedError: There is none, and none can be had.
    """
    found = [name for name in NAMES if shutil.which(name)]
    said = ""
    for name in found:
        engine = Engine(name, (*_root(), name))
        done = await execute([*engine.command, "version"], b"", HERE)
        if done.status and name == "docker":
            await execute([*_root(), "systemctl", "start", "docker.service"], b"", STARTED)
            done = await execute([*engine.command, "version"], b"", HERE)
        if done.status == 0:
            return engine
        said = done.tail
    if found:
        raise EnvironmentFailedError(
            f"the container engine of {vm} does not answer: {', '.join(found)}",
            stage="engine",
            kind="broken",
            vm=vm,
            cause=said,
            hint="its service may be broken in the machine image: dayfly attach, then "
            f"sudo {found[0]} version on the worker",
        )
    await _install(vm, execute)
    return await ensure(vm, execute)


async def _install(vm: str, execute: Execute) -> None:
    log.info("there is no container engine: %s is installed", PACKAGE)
    done = await execute(["sh", "-c", system.script([PACKAGE])], b"", system.DEADLINE + GRACE)
    status = APT_LATE if done.status is None else done.status
    failed = system.failure(
        status, done.output + done.errors, [PACKAGE], vm=vm, platform=platform.machine()
    )
    if failed is not None:
        failed.hint = "use a target_ami that has docker or podman, or: " + failed.hint
        raise failed
    if shutil.which(NAMES[0]) is None:
        raise EnvironmentFailedError(
            f"{PACKAGE} is installed on {vm}, and there is no docker",
            stage="engine",
            kind="package",
            package=PACKAGE,
            vm=vm,
            hint="use a target_ami that has docker or podman",
        )


def _root() -> tuple[str, ...]:
    return () if os.geteuid() == 0 else ("sudo", "-n")
