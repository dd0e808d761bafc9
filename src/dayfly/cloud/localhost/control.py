"""What init answers to ``systemctl``, ``poweroff`` and ``shutdown`` (the other end of ctl.py).

A request is the words of a command line, joined by zero bytes and ended by end-of-file. The
answer is a status in digits, a line feed, what goes to standard output, a zero byte, and what
goes to standard error.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from dayfly.cloud.localhost import ctl, shadow
from dayfly.cloud.localhost.record import Layout
from dayfly.cloud.localhost.services import Services, UnitError

#: Relative to the VM's root, where init lives.
SOCKET = "run/init.sock"

#: "program is not running", by the LSB and systemctl(1).
_NOT_RUNNING = 3

_SUDO = """#!/bin/sh
# One user owns this machine; what remains is to drop sudo's own options.
while [ $# -gt 0 ]; do
  case $1 in
    --) shift; break ;;
    -u | -g) shift 2 ;;
    -*) shift ;;
    *) break ;;
  esac
done
exec env "$@"
"""


class Answer(NamedTuple):
    """What a command prints, and its exit status."""

    status: int = 0
    printed: str = ""
    complaint: str = ""


def write_commands(layout: Layout) -> None:
    """Put the commands on the VM's disk."""
    folder = layout.root / "usr" / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-ISE", ctl.__file__, str(layout.root)]
    for name in ("systemctl", "poweroff", "halt", "shutdown"):
        _write_command(folder / name, f'#!/bin/sh\nexec {shlex.join(words)} {name} "$@"\n')
    words = [sys.executable, "-ISE", shadow.__file__, str(layout.root)]
    _write_command(folder / "chpasswd", f"#!/bin/sh\nexec {shlex.join(words)}\n")
    _write_command(folder / "sudo", _SUDO)


def _write_command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


class Control:
    """Init's ear for commands.

    Args:
        services: Whom ``systemctl`` is about.
        power_off: Called once somebody asks for it.
        reload_sshd: Called when somebody asks for that.
    """

    def __init__(
        self,
        services: Services,
        *,
        power_off: Callable[[], None],
        reload_sshd: Callable[[], None],
    ) -> None:
        self._services = services
        self._power_off = power_off
        self._reload_sshd = reload_sshd
        self._verbs: dict[str, Callable[[str, set[str]], Awaitable[Answer]]] = {
            "start": self._start,
            "stop": self._stop,
            "restart": self._restart,
            "reload": self._reload,
            "enable": self._enable,
            "disable": self._disable,
            "is-active": self._is_active,
            "is-enabled": self._is_enabled,
            "status": self._status,
        }

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Answer commands within a ``with``; init's directory must be the VM's root."""
        server = await asyncio.start_unix_server(self._converse, SOCKET)
        os.chmod(SOCKET, 0o600)  # noqa: PTH101
        try:
            yield
        finally:
            server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            words = (await reader.read()).decode().split("\0")
            answer = await self.answer(words)
            writer.write(f"{answer.status}\n{answer.printed}\0{answer.complaint}".encode())
            await writer.drain()
        except ConnectionError:
            return  # whoever asked did not wait for the answer
        finally:
            writer.close()

    async def answer(self, words: list[str]) -> Answer:
        """Do what a command line asks for."""
        program, *arguments = words
        options = {word for word in arguments if word.startswith("-")}
        plain = [word for word in arguments if not word.startswith("-")]
        if program in ("poweroff", "halt"):
            return self._end()
        if program == "shutdown":
            if plain[:1] in ([], ["now"], ["+0"]) and not options - {"-P", "-h", "-H"}:
                return self._end()
            return Answer(1, "", f"shutdown: not understood here: {shlex.join(arguments)}\n")
        return await self._systemctl(options, plain)

    def _end(self) -> Answer:
        self._power_off()
        return Answer()

    async def _systemctl(self, options: set[str], plain: list[str]) -> Answer:
        verb, names = (plain[0] if plain else "list-units"), plain[1:]
        if verb in ("poweroff", "halt"):
            return self._end()
        if verb in ("daemon-reload", "reset-failed"):
            self._services.reload()
            return Answer()
        if verb == "is-system-running":
            return Answer(0, "running\n")
        do = self._verbs.get(verb)
        if do is None:
            return Answer(1, "", f"Unknown command verb {verb}.\n")
        if not names:
            return Answer(1, "", f"systemctl {verb}: a unit is needed\n")
        answers = []
        for name in names:
            try:
                answers.append(await do(name, options))
            except UnitError as error:
                answers.append(Answer(5 if "not found" in str(error) else 1, "", f"{error}\n"))
        quiet = bool(options & {"-q", "--quiet"})
        return Answer(
            max(answer.status for answer in answers),
            "" if quiet else "".join(answer.printed for answer in answers),
            "".join(answer.complaint for answer in answers),
        )

    async def _start(self, name: str, options: set[str]) -> Answer:
        if "--no-block" in options:
            self._services.start_soon(name)
        else:
            await self._services.start(name)
        return Answer()

    async def _stop(self, name: str, _options: set[str]) -> Answer:
        await self._services.stop(name)
        return Answer()

    async def _restart(self, name: str, _options: set[str]) -> Answer:
        await self._services.restart(name)
        return Answer()

    async def _reload(self, name: str, _options: set[str]) -> Answer:
        # The one service that is no process of its own here, by its name on Ubuntu.
        if name.removesuffix(".service") == "ssh":
            self._reload_sshd()
            return Answer()
        unit = self._services.get(name).unit.name
        raise UnitError(f"Job type reload is not applicable for unit {unit}.")

    async def _enable(self, name: str, options: set[str]) -> Answer:
        self._services.enable(name)
        return await self._start(name, options) if "--now" in options else Answer()

    async def _disable(self, name: str, options: set[str]) -> Answer:
        self._services.disable(name)
        return await self._stop(name, options) if "--now" in options else Answer()

    async def _is_active(self, name: str, _options: set[str]) -> Answer:
        service = self._services.known(name)
        active = service.active if service else "inactive"
        return Answer(0 if active == "active" else _NOT_RUNNING, f"{active}\n")

    async def _is_enabled(self, name: str, _options: set[str]) -> Answer:
        enabled = self._services.is_enabled(name)
        return Answer(0 if enabled else 1, "enabled\n" if enabled else "disabled\n")

    async def _status(self, name: str, _options: set[str]) -> Answer:
        service = self._services.known(name) or self._services.get(name)
        enabled = "enabled" if self._services.is_enabled(name) else "disabled"
        lines = [
            f"* {service.unit.name}",
            f"   Loaded: loaded ({enabled})",
            f"   Active: {service.active} ({service.detail})",
            f" Main PID: {service.pid or '-'}",
            f"      Log: {service.log}",
        ]
        status = 0 if service.active == "active" else _NOT_RUNNING
        return Answer(status, os.linesep.join(lines) + os.linesep)
