"""The floor of one call through an SSH tunnel: what dayfly's road has, and nothing of dayfly.

The client holds an SSH connection and a local Unix socket that is forwarded through it, to a
process that hands each message on to one worker of the floor and each reply back. Client, SSH
server, "master" and worker are processes of their own. ``python -m benchmarks.tunnel ssh FOLDER``
and ``python -m benchmarks.tunnel master SOCKET`` are the two in the middle; both print their port.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.floor import HEAD

#: What ``dayfly.shell.ssh`` asks for first.
CIPHER: Final = "aes128-gcm@openssh.com"
_HOST: Final = "127.0.0.1"


@contextmanager
def servers(folder: Path, worker: str) -> Iterator[list[str]]:
    """The SSH server and the master; gives their ports."""
    import asyncssh

    for name in ("host", "user"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        key.write_public_key(str(folder / f"{name}.pub"))
    base = [sys.executable, "-m", "benchmarks.tunnel"]
    commands = [[*base, "ssh", str(folder)], [*base, "master", worker]]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        yield [process.stdout.readline().strip() for process in running if process.stdout]
    finally:
        for process in running:
            process.kill()
            process.communicate()


@asynccontextmanager
async def connect(
    folder: Path, ssh_port: str, master_port: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The client's end of the tunnel."""
    import asyncssh

    known = asyncssh.import_known_hosts(f"[{_HOST}]:{ssh_port} {(folder / 'host.pub').read_text()}")
    async with asyncssh.connect(
        _HOST,
        int(ssh_port),
        username="bench",
        client_keys=[str(folder / "user")],
        known_hosts=known,
        config=None,
        agent_path=None,
        encryption_algs=[CIPHER],
        compression_algs=["none"],
    ) as connection:
        path = str(folder / "tunnel")
        async with connection.forward_local_path_to_port(path, _HOST, int(master_port)):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                yield reader, writer
            finally:
                writer.close()
                await writer.wait_closed()


async def _ssh(folder: Path) -> None:
    import asyncssh

    class Server(asyncssh.SSHServer):
        def connection_requested(self, dest_host: str, *_: object) -> bool:
            return dest_host == _HOST

    acceptor = await asyncssh.create_server(
        Server,
        _HOST,
        0,
        server_host_keys=[str(folder / "host")],
        authorized_client_keys=str(folder / "user.pub"),
        encryption_algs=[CIPHER],
        compression_algs=["none"],
        config=None,
    )
    print(acceptor.get_port(), flush=True)
    await acceptor.wait_closed()


async def _master(worker: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        below, above = await asyncio.open_unix_connection(worker)
        try:
            while True:
                await _hand_on(reader, above)
                await _hand_on(below, writer)
        except (asyncio.IncompleteReadError, ConnectionError):  # the client has gone
            writer.close()
            above.close()

    server = await asyncio.start_server(serve, _HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _hand_on(reader: Any, writer: Any) -> None:
    head = await reader.readexactly(HEAD.size)
    writer.write(head + await reader.readexactly(HEAD.unpack(head)[0]))


if __name__ == "__main__":
    asyncio.run(_ssh(Path(sys.argv[2])) if sys.argv[1] == "ssh" else _master(sys.argv[2]))
