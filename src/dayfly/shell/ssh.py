"""Real SSH, by asyncssh: no agent, no configuration files, no passwords, no unknown hosts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncssh

from dayfly.errors import (
    AccessDeniedError,
    CommandError,
    HostKeyError,
    UnreachableError,
)
from dayfly.processes import runs, space
from dayfly.shell.base import CommandResult, Target

#: AES-GCM runs in hardware and needs no MAC of its own; the others are for old servers.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
#: Kinds of host keys. All are asked for: a machine that has none of the kind that is trusted would
#: hang up without a word, as one does that still boots.
_HOST_KEYS = (
    *("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    *("rsa-sha2-512", "rsa-sha2-256"),
)
_CERTIFIED = "-cert-v01@openssh.com"
#: Handshakes at the same time. One takes milliseconds of computing, so that of a thousand at once
#: none would end within its time; and in the order in which they came the first VMs serve early.
HANDSHAKES = 50
#: Seconds of silence before asking whether the VM is still there, and how often in vain.
_KEEPALIVE = 10.0
_KEEPALIVE_COUNT = 3
#: Seconds for the parting words of a connection, and of a command that is killed.
_PARTING = 1.0
#: Lines of a command's output that an error shows.
_SHOWN_LINES = 5
#: Bytes that the name of a Unix socket may have, with room to spare (Linux 107, macOS 103).
_SOCKET_NAME = 90
#: Folders of forwarded sockets are named by this and the process that made them.
_FOLDER_PREFIX = "dayfly-ssh-"


class SshShell:
    """The shell of VMs that answer SSH."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(HANDSHAKES)

    async def connect(self, target: Target, *, timeout: float = 5.0) -> SshConnection:  # noqa: D102
        try:
            key = asyncssh.import_private_key(target.private_key)
            known = asyncssh.import_known_hosts(target.known_hosts)
        except (asyncssh.KeyImportError, ValueError) as error:
            raise AccessDeniedError(
                f"{_where(target)}: our own keys cannot be read", cause=str(error)
            ) from error
        progress = _Progress()
        with _mapped(target, timeout, progress):
            async with asyncio.timeout(timeout) as attempt, _tcp(target) as channel:
                progress.connected = True
                attempt.reschedule(None)  # it is not the VM that is waited for
                async with self._turns:
                    attempt.reschedule(asyncio.get_running_loop().time() + timeout)
                    connection = await _handshake(target, key, known, channel)
        return SshConnection(target, connection)


class SshConnection:
    """An open SSH connection. It belongs to one event loop."""

    def __init__(self, target: Target, connection: asyncssh.SSHClientConnection) -> None:
        self._target = target
        self._connection = connection
        self._folders: list[Path] = []
        self._tidying = asyncio.create_task(self._tidy_when_closed())

    async def run(  # noqa: D102
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        heard: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        # sshd hands the text to the account's login shell, whichever that is.
        line = f"exec /bin/sh -c {shlex.quote(command)}"
        output = _Output(heard)
        try:
            async with asyncio.timeout(timeout):
                chan, _ = await self._connection.create_session(lambda: output, line, encoding=None)
                output.send(stdin)
                await output.closed
        except TimeoutError:
            await self._kill(output)
            raise CommandError(
                f"{self._target.name}: a command did not end within {timeout:g} s: "
                f"{command.strip():.80}",
                cause=f"it printed last: {output.tail() or 'nothing'}",
            ) from None
        except asyncio.CancelledError:
            await self._kill(output)
            raise
        except (OSError, asyncssh.Error) as error:
            raise self._broken(command, error) from error
        status = _status(chan)
        if status is None:
            raise self._broken(command, output.error)
        return CommandResult(
            status=status,
            stdout=output.stdout.decode(errors="replace"),
            stderr=output.stderr.decode(errors="replace"),
        )

    async def forward(self, host: str, port: int) -> Path:  # noqa: D102
        if self._tidying.done():
            raise UnreachableError(f"{_where(self._target)}: the connection is closed")
        folder = _new_folder()
        self._folders.append(folder)
        path = folder / "ssh"
        try:
            await self._connection.forward_local_path_to_port(str(path), host, port)
        except (OSError, asyncssh.Error) as error:
            raise UnreachableError(
                f"{_where(self._target)}: a socket to {host}:{port} could not be opened",
                cause=str(error),
            ) from error
        return path

    async def interactive(self) -> int:
        """Give the user a shell on the VM; see :func:`dayfly.shell.terminal.interactive`."""
        from dayfly.shell.terminal import interactive

        return await interactive(self._connection)

    async def wait_closed(self) -> None:  # noqa: D102
        await asyncio.shield(self._tidying)

    async def aclose(self) -> None:  # noqa: D102
        self._connection.close()
        done, _ = await asyncio.wait([self._tidying], timeout=_PARTING)
        if not done:  # the VM is gone without a word
            self._connection.abort()
            await self._tidying

    async def _tidy_when_closed(self) -> None:
        await self._connection.wait_closed()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    async def _kill(self, output: _Output) -> None:
        """End a command by force; a connection that does not even take that is left alone."""
        chan = output.chan
        if chan is None:
            return
        with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
            chan.send_signal("KILL")
            chan.close()
            async with asyncio.timeout(_PARTING):
                await chan.wait_closed()

    def _broken(self, command: str, error: Exception | None) -> UnreachableError:
        return UnreachableError(
            f"{_where(self._target)}: the connection broke during a command: {command.strip():.80}",
            cause=_words(error) if error else "the VM closed it",
            hint="dayfly worker list shows whether the VM is still up",
        )


class _Output(asyncssh.SSHClientSession[bytes]):
    """A command's channel: its input on the way out, its output as it comes."""

    def __init__(self, heard: Callable[[bytes], None] | None) -> None:
        self._heard = heard
        self._told = 0
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.error: Exception | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.chan: asyncssh.SSHClientChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self.chan = chan

    def send(self, data: bytes) -> None:
        """Send all of the input. The channel keeps what its window does not yet allow."""
        if self.chan is not None and not self.chan.is_closing():
            self.chan.write(data)
            self.chan.write_eof()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        (self.stderr if datatype == asyncssh.EXTENDED_DATA_STDERR else self.stdout).extend(data)
        while self._heard is not None and (end := self.stdout.find(b"\n", self._told)) >= 0:
            line, self._told = bytes(self.stdout[self._told : end]), end + 1
            self._heard(line)

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        if not self.closed.done():
            self.closed.set_result(None)

    def tail(self) -> str:
        """The last lines of what it printed."""
        text = (self.stderr or self.stdout).decode(errors="replace")
        return " | ".join(text.strip().splitlines()[-_SHOWN_LINES:])


class _Progress:
    """How far an attempt has come; it makes the difference in what a timeout means."""

    connected = False


async def _handshake(
    target: Target,
    key: asyncssh.SSHKey,
    known: asyncssh.SSHKnownHosts,
    channel: socket.socket,
) -> asyncssh.SSHClientConnection:
    try:
        return await asyncssh.connect(
            sock=channel,
            username=target.username,
            client_keys=[key],
            known_hosts=known,
            host_key_alias=target.alias,
            server_host_key_algs=_kinds(target, known),
            config=None,
            agent_path=None,
            preferred_auth="publickey",
            encryption_algs=_CIPHERS,
            compression_algs=["none"],
            keepalive_interval=_KEEPALIVE,
            keepalive_count_max=_KEEPALIVE_COUNT,
            login_timeout=0,  # the whole attempt has a deadline
        )
    except TypeError as error:
        # asyncssh unpacks the peer's name, and one that is gone by then has none.
        raise ConnectionResetError("the VM hung up at once") from error


def _kinds(target: Target, known: asyncssh.SSHKnownHosts) -> list[str]:
    """The kinds of host keys to ask for: first those of which a key is trusted."""
    keys, authorities, *_ = known.match(target.alias, "", None)
    trusted = [kind.decode() for key in keys for kind in key.sig_algorithms]
    certified = [f"{kind}{_CERTIFIED}" for kind in _HOST_KEYS] if authorities else []
    return [*dict.fromkeys([*certified, *trusted, *_HOST_KEYS])]


@contextlib.asynccontextmanager
async def _tcp(target: Target) -> AsyncIterator[socket.socket]:
    """A TCP connection, closed unless the body takes it over."""
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(target.address, target.port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = addresses[0]
    channel = socket.socket(family, kind, protocol)
    try:
        channel.setblocking(False)
        await loop.sock_connect(channel, address)
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield channel
    except BaseException:
        channel.close()
        raise


@contextlib.contextmanager
def _mapped(target: Target, timeout: float, progress: _Progress) -> Iterator[None]:
    where = _where(target)
    try:
        yield
    except TimeoutError as error:
        cause = (
            "the port answers, but not in SSH: the VM is overloaded, or something else listens"
            if progress.connected
            else "nothing answers at all: the VM is still booting, or a firewall drops packets"
        )
        raise UnreachableError(f"{where}: no answer within {timeout:g} s", cause=cause) from error
    except ConnectionRefusedError as error:
        raise UnreachableError(
            f"{where}: connection refused",
            cause="the VM is up but its SSH server is not, yet or any more",
        ) from error
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostKeyError(
            f"{where}: its host key is not the one of {target.alias!r}",
            cause=f"{error.reason}; another machine answers at this address, or a middleman",
            hint="nothing was sent to it; dayfly worker list shows what is up",
        ) from error
    except asyncssh.PermissionDenied as error:
        raise AccessDeniedError(
            f"{where}: it refused our key",
            cause=f"for the user {target.username!r}: {error.reason}",
            hint="check ssh_username, and ssh_key_filename where it applies",
        ) from error
    except (OSError, asyncssh.Error) as error:
        raise UnreachableError(f"{where}: {_words(error)}", cause=_words(error)) from error


def sweep() -> None:
    """Delete the sockets of programs that were killed."""
    for folder in _base().glob(f"{_FOLDER_PREFIX}*"):
        owner, _, rest = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")
        # Containers may share a folder, and count their processes each by itself.
        ours = rest.partition("-")[0] == space()
        if ours and owner.isdecimal() and not runs(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)  # another user's is not ours to delete


def _new_folder() -> Path:
    """A folder for a socket, that only this user can enter."""
    sweep()
    prefix = f"{_FOLDER_PREFIX}{os.getpid()}-{space()}-"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_base()))


def _base() -> Path:
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _SOCKET_NAME - len(_FOLDER_PREFIX) - 36:
        return Path("/tmp")  # noqa: S108  (mkdtemp makes a folder of mode 0700 in it)
    return base


def _where(target: Target) -> str:
    return f"{target.name} at {target.address}:{target.port}"


def _words(error: Exception) -> str:
    return getattr(error, "reason", "") or str(error) or type(error).__name__


def _status(chan: asyncssh.SSHClientChannel[bytes]) -> int | None:
    """The exit status; 128 + n for a signal, as shells count; ``None`` when none was told."""
    ended_by = chan.get_exit_signal()
    if ended_by is not None:
        number = getattr(signal, f"SIG{ended_by[0]}", None)
        return 128 + int(number) if number else 128
    return chan.get_exit_status()
