"""A live session on a VM, as ``dayfly attach`` gives it: with a terminal, and without one."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

import msgspec
import pytest

from dayfly.model import Instance
from tests.embedded import Embedded, eventually

PROGRAM = """
import asyncio, sys, msgspec
from dayfly.shell.base import Target
from dayfly.shell.ssh import SshShell

async def main():
    connection = await SshShell().connect(msgspec.json.decode(sys.argv[1], type=Target))
    try:
        return await connection.interactive()
    finally:
        await connection.aclose()

sys.exit(asyncio.run(main()))
"""


@pytest.fixture
async def command(embedded: Embedded) -> list[str]:
    (instance,) = await embedded.launch()
    await ready(embedded, instance)
    target = msgspec.json.encode(embedded.target(instance)).decode()
    return [sys.executable, "-c", PROGRAM, target]


async def ready(embedded: Embedded, instance: Instance) -> None:
    async with embedded.connected(instance):
        pass


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}


@pytest.mark.parametrize("kind", ["pipe", "file"])
async def test_piped_commands_run_on_the_vm(command: list[str], kind: str) -> None:
    script = b"echo here is $DAYFLY_INSTANCE\necho err >&2\nexit 5\n"
    reading, writing = os.pipe()
    if kind == "file":
        with open("script", "wb") as file:  # noqa: ASYNC230, PTH123
            file.write(script)
        os.close(reading)
        reading = os.open("script", os.O_RDONLY)
    else:
        os.write(writing, script)
    os.close(writing)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=reading,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    os.close(reading)
    printed, complained = await asyncio.wait_for(process.communicate(), 10)
    assert printed.startswith(b"here is i-"), complained
    assert complained == b"err\n"
    assert process.returncode == 5


async def test_a_terminal_reaches_through_with_its_size_and_ctrl_c(command: list[str]) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment()
    )
    seen = bytearray()
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, lambda: seen.extend(os.read(ours, 65536)))

    async def until(text: bytes) -> None:
        await eventually(lambda: text in seen, f"{text!r} on the terminal")

    try:
        await until(b"$" if os.geteuid() else b"#")
        os.write(ours, b"stty size\n")
        await until(b"31 97")
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        process.send_signal(signal.SIGWINCH)  # its terminal is not its controlling one here
        wait = b"until test \"$(stty size)\" = '40 80'; do sleep 0.02; done"
        os.write(ours, wait + b"; echo now $(stty size); cat\n")
        await until(b"now 40 80")
        os.write(ours, b"to cat\n")
        await eventually(lambda: seen.count(b"to cat") == 2, "cat's copy of what was typed")
        before = len(seen)
        os.write(ours, b"\x03")  # for the VM's cat, not for our own program
        prompt = b"$" if os.geteuid() else b"#"
        await eventually(lambda: prompt in seen[before:], "the shell's prompt again")
        os.write(ours, b"exit 9\n")
        assert await asyncio.wait_for(process.wait(), 10) == 9
        assert termios.tcgetattr(theirs)[3] & termios.ECHO, "the terminal was left raw"
    finally:
        loop.remove_reader(ours)
        os.close(ours)
        os.close(theirs)
