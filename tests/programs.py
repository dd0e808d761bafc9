"""A user's other programs: ones that map, in processes of their own, and ``dayfly`` itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

#: Squares of numbers, each of which takes a while; the job's id is printed first.
PROGRAM = """
import asyncio, json, sys
from dayfly import FunctionExecutor

calls, seconds, detach, keys = json.loads(sys.argv[1])

def square(n, seconds=seconds):
    import time
    time.sleep(seconds)
    return n * n if n != 7 else b"7" * 100_000  # larger than what travels inline

async def main():
    async with FunctionExecutor(max_workers=2, progress=False, **keys) as executor:
        job = executor.map(square, range(calls), detach=detach)
        print(job.id, flush=True)
        if detach:
            return
        async for outcome in job.as_completed():
            print("came", outcome.index, flush=True)
        print("results", await job == [square(n, 0) for n in range(calls)], flush=True)

asyncio.run(main())
"""


class Terminal:
    """A program in another process, and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.spoke = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @property
    def job(self) -> str:
        return self.lines[0]

    @property
    def came(self) -> list[int]:
        return [int(line.split()[1]) for line in self.lines if line.startswith("came")]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def end(self, within: float = 60.0) -> None:
        """Wait for its end, and for all that it printed."""
        async with asyncio.timeout(within):
            await self._reader
            await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().strip())
            self.spoke.set()


@asynccontextmanager
async def program(
    calls: int,
    seconds: float,
    *,
    detach: bool = False,
    env: dict[str, str] | None = None,
    **keys: Any,
) -> AsyncIterator[Terminal]:
    """Run the program in the configuration that is found; yields once the job's id is known."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(PROGRAM),
        json.dumps([calls, seconds, detach, keys]),
        stdout=subprocess.PIPE,
        env=env,
    )
    terminal = Terminal(process)
    try:
        async with asyncio.timeout(30):
            await terminal.spoke.wait()
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
        await terminal.end()


async def dayfly_command(
    *words: str, env: dict[str, str] | None = None, status: int = 0, stdin: str = ""
) -> tuple[str, str]:
    """Run ``dayfly``; returns what it wrote to stdout and to stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dayfly", *words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode == status, err.decode()
    return out.decode(), err.decode()
