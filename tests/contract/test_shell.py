"""What every shell promises (dayfly.shell.base), over real SSH to a VM of the embedded cloud."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from dayfly.cloud.localhost import Faults
from dayfly.errors import AccessDeniedError, CommandError, HostKeyError, UnreachableError
from dayfly.model import Instance
from dayfly.shell.base import Connection, Target
from tests.embedded import Embedded, Pair, eventually


@pytest.fixture
async def vm(embedded: Embedded) -> Instance:
    (instance,) = await embedded.launch()
    connection = await embedded.connect(instance)
    await connection.aclose()
    return instance


@pytest.fixture
async def connection(embedded: Embedded, vm: Instance) -> AsyncIterator[Connection]:
    async with embedded.connected(vm) as connection:
        yield connection


@pytest.fixture
def target(embedded: Embedded, vm: Instance) -> Target:
    return embedded.target(vm)


def but(target: Target, **changes: object) -> Target:
    return msgspec.structs.replace(target, **changes)


async def test_a_command_gives_its_output_errors_and_status(connection: Connection) -> None:
    result = await connection.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.status) == ("out\n", "err\n", 3)
    assert (await connection.run("true")).status == 0
    assert (await connection.run("no-such-command")).status == 127


async def test_a_command_that_a_signal_ends_has_a_status_above_128(connection: Connection) -> None:
    assert (await connection.run("kill -9 $$")).status == 137
    assert (await connection.run("kill -TERM $$")).status == 143


async def test_quotes_and_line_feeds_reach_the_shell_as_they_are(connection: Connection) -> None:
    result = await connection.run("""printf '%s|' "a 'b'" 'c "d"' $((1+1))\nprintf end""")
    assert result.stdout == """a 'b'|c "d"|2|end"""


async def test_a_large_input_arrives_byte_for_byte(connection: Connection) -> None:
    data = os.urandom(5_000_000)
    result = await connection.run("sha256sum; echo done", stdin=data)
    assert result.stdout == f"{hashlib.sha256(data).hexdigest()}  -\ndone\n"


async def test_a_large_output_arrives_whole(connection: Connection) -> None:
    result = await connection.run("head -c 3000000 /dev/zero | tr '\\0' x; head -c 9 /dev/zero >&2")
    assert len(result.stdout) == 3_000_000
    assert result.stderr == "\0" * 9


async def test_a_command_may_leave_its_input_unread(connection: Connection) -> None:
    result = await connection.run("exec true", stdin=bytes(5_000_000))
    assert result.status == 0


async def test_commands_run_side_by_side(connection: Connection) -> None:
    started = time.monotonic()
    results = await asyncio.gather(*(connection.run(f"sleep 0.3; echo {n}") for n in range(8)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(8)]
    assert time.monotonic() - started < 10


async def test_a_command_over_its_time_is_killed_and_named_with_its_last_words(
    embedded: Embedded, vm: Instance, connection: Connection
) -> None:
    with pytest.raises(CommandError, match=r"did not end within 0\.3 s") as caught:
        await connection.run("echo halfway; sleep 98765; echo never", timeout=0.3)
    assert "halfway" in caught.value.cause
    await eventually(lambda: not embedded.processes(vm, "98765"), "the command to be gone")
    assert (await connection.run("echo on")).stdout == "on\n"


async def test_a_cancelled_command_is_killed(
    embedded: Embedded, vm: Instance, connection: Connection
) -> None:
    command = asyncio.create_task(connection.run("sleep 98765"))
    await eventually(lambda: bool(embedded.processes(vm, "98765")), "the command to be there")
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    await eventually(lambda: not embedded.processes(vm, "98765"), "the command to be gone")


async def test_a_host_with_another_key_is_not_trusted(embedded: Embedded, target: Target) -> None:
    stranger = Pair().public
    with pytest.raises(HostKeyError, match="host key"):
        await embedded.shell.connect(but(target, known_hosts=f"worker {stranger}"))
    with pytest.raises(HostKeyError):
        await embedded.shell.connect(but(target, known_hosts=f"@cert-authority * {stranger}"))
    with pytest.raises(HostKeyError):
        await embedded.shell.connect(but(target, known_hosts=""))


async def test_a_worker_cannot_pass_for_the_master(embedded: Embedded, target: Target) -> None:
    with pytest.raises(HostKeyError, match="master"):
        await embedded.shell.connect(but(target, alias="master"))


async def test_a_plain_host_key_is_trusted_by_its_line(embedded: Embedded, vm: Instance) -> None:
    key = (await embedded.cloud.console(vm.id)).split("KEY KEYS-----\n")[1].splitlines()[0]
    trusting = but(embedded.target(vm), known_hosts=f"worker {key}\n")
    connection = await embedded.shell.connect(trusting)
    await connection.aclose()


async def test_a_user_with_another_key_is_refused(embedded: Embedded, target: Target) -> None:
    with pytest.raises(AccessDeniedError, match="refused our key"):
        await embedded.shell.connect(but(target, private_key=Pair().private))
    with pytest.raises(AccessDeniedError, match="cannot be read"):
        await embedded.shell.connect(but(target, private_key="garbage"))


async def test_nobody_listening_is_told_apart_from_silence(
    embedded: Embedded, target: Target
) -> None:
    with pytest.raises(UnreachableError) as refused:
        await embedded.shell.connect(but(target, port=1))
    assert "its SSH server is not" in refused.value.cause

    with silent_port(target.address) as port:
        started = time.monotonic()
        with pytest.raises(UnreachableError) as silent:
            await embedded.shell.connect(but(target, port=port), timeout=0.3)
        assert time.monotonic() - started < 10
    assert "not in SSH" in silent.value.cause


async def test_a_port_that_speaks_something_else_is_unreachable(
    embedded: Embedded, target: Target
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, target.address, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnreachableError) as caught:
            await embedded.shell.connect(but(target, port=port), timeout=1.0)
    assert caught.value.cause


async def test_a_forwarded_socket_leads_to_the_vm_and_goes_with_the_connection(
    embedded: Embedded, vm: Instance
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, vm.address, vm.service_port)
    async with server, embedded.connected(vm) as connection:
        for host in (vm.address, "127.0.0.1"):
            path = await connection.forward(host, vm.service_port)
            folder = path.parent
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
            writer.close()
            await writer.wait_closed()
    assert not folder.exists()


async def test_a_vm_leads_nowhere_but_to_itself(
    embedded: Embedded, vm: Instance, connection: Connection
) -> None:
    path = await connection.forward("127.0.0.2", vm.ssh_port)
    reader, writer = await asyncio.open_unix_connection(str(path))
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_connection_that_drops_is_noticed(
    embedded: Embedded, vm: Instance, connection: Connection
) -> None:
    await connection.forward(vm.address, vm.service_port)
    running = asyncio.create_task(connection.run("sleep 98765"))
    closed = asyncio.create_task(connection.wait_closed())
    await eventually(lambda: bool(embedded.processes(vm, "98765")), "the command to be there")
    assert not closed.done()

    os.kill(embedded.init(vm), 9)
    async with asyncio.timeout(5):
        await closed
    with pytest.raises(UnreachableError, match="broke"):
        await running
    with pytest.raises(UnreachableError):
        await connection.run("true")
    with pytest.raises(UnreachableError):
        await connection.forward(vm.address, vm.service_port)


async def test_a_server_that_drops_connections_is_noticed(embedded: Embedded, vm: Instance) -> None:
    await embedded.cloud.set_faults(Faults(ssh_drops_after=0.3))
    async with embedded.connected(vm) as connection, asyncio.timeout(5):
        await connection.wait_closed()


async def test_closing_twice_is_no_error(embedded: Embedded, vm: Instance) -> None:
    connection = await embedded.connect(vm)
    await connection.aclose()
    await connection.aclose()
    await connection.wait_closed()


@contextlib.contextmanager
def silent_port(address: str) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen()
        yield listener.getsockname()[1]
