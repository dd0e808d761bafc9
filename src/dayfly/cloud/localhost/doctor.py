"""What the embedded cloud needs of this machine, looked at: its disk, its addresses, SSH."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import asyncssh

from dayfly.clock import Entropy
from dayfly.cloud.base import Finding
from dayfly.cloud.localhost.addresses import Endpoint, draw_endpoint
from dayfly.errors import CloudError

#: Bytes per VM: the package, its state and its logs, generously.
_PER_VM = 50 * 1024 * 1024
#: Seconds for one's own machine to answer.
_ANSWER = 10.0


async def examine(directory: Path, workers: int, entropy: Entropy) -> list[Finding]:
    """Look whether so many VMs can be had below a directory, and leave nothing there."""
    found = [await asyncio.to_thread(examine_directory, directory, workers)]
    found.append(await examine_ssh(entropy))
    found.append(examine_processors(workers, os.cpu_count() or 1))
    return found


def examine_directory(directory: Path, workers: int) -> Finding:
    """Whether the VMs' disks can be written, and have room."""
    what = "directory"
    there = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(
            what=what,
            verdict="wrong",
            detail=f"{there} cannot be written: {error}",
            hint="give another one: localhost: {directory: ...}",
        )
    room, need = f"{free / 2**30:.1f} GiB free", _PER_VM * (workers + 1)
    if free < need:
        return Finding(
            what=what,
            verdict="warning",
            detail=f"{directory}: {room}; {workers + 1} VMs may take {need / 2**30:.1f} GiB",
            hint="make room, or ask for fewer workers",
        )
    return Finding(what=what, verdict="ok", detail=f"{directory}: can be written, {room}")


async def examine_ssh(entropy: Entropy) -> Finding:
    """Whether an SSH server can be started at an address of its own, and answers there."""
    what = "SSH on a loopback address"
    try:
        endpoint = draw_endpoint((), entropy)
        greeting = await _greeting_of_a_server(endpoint)
    except (OSError, TimeoutError, CloudError) as error:
        return Finding(
            what=what,
            verdict="wrong",
            detail=f"no server could be reached: {str(error) or type(error).__name__}",
            hint="VMs need addresses of their own in 127.0.0.0/8: look at ip addr show lo, "
            "and at what a firewall does to them",
        )
    return Finding(
        what=what, verdict="ok", detail=f"{endpoint.address} answers as {greeting.strip()}"
    )


async def _greeting_of_a_server(endpoint: Endpoint) -> str:
    async with asyncio.timeout(_ANSWER):
        key = asyncssh.generate_private_key("ssh-ed25519")
        acceptor = await asyncssh.create_server(
            asyncssh.SSHServer,
            endpoint.address,
            endpoint.ssh_port,
            server_host_keys=[key],
            config=None,
        )
        try:
            reader, writer = await asyncio.open_connection(endpoint.address, endpoint.ssh_port)
            greeting = await reader.readline()
            writer.close()
            await writer.wait_closed()
        finally:
            acceptor.close()
            await acceptor.wait_closed()
    return greeting.decode(errors="replace")


def examine_processors(workers: int, processors: int) -> Finding:
    """Whether more VMs are asked for than this machine has processors."""
    what, detail = "processors", f"{processors} for {workers} workers and the master"
    if workers > 4 * processors:
        return Finding(
            what=what,
            verdict="warning",
            detail=f"{detail}: the VMs are processes that share them",
            hint=f"localhost: {{max_workers: {4 * processors}}}",
        )
    return Finding(what=what, verdict="ok", detail=detail)
