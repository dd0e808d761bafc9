"""``ssh_password``: a way to look at a worker by hand, that leaves no trace of the secret."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import msgspec
import pytest

from dayfly import FunctionExecutor
from dayfly.client.access import find_access
from dayfly.client.ascent import cluster_key
from dayfly.config import load
from dayfly.model import Access, Instance, MasterConfig, Tag
from dayfly.parts import open_parts
from dayfly.provision import target_of
from tests.conftest import Home

pytestmark = pytest.mark.timeout(90)

PASSWORD = "open: sesame $HOME 'and' \"so\" on"


async def machines(home: Home) -> tuple[Access, dict[str, Instance]]:
    """The cluster's keys, and its VMs by their role."""
    async with open_parts(load(home.config)) as parts:
        key = cluster_key(parts.config)
        access = await find_access(parts.storage, key)
        assert access is not None
        return access, {i.tags[Tag.ROLE]: i for i in await parts.cloud.list()}


async def lets_in(instance: Instance, access: Access, password: str) -> bool:
    """Log in by password alone; the VM must prove by the cluster's CA that it is the one."""
    target = target_of(instance, access, "ubuntu")
    try:
        async with asyncssh.connect(
            target.address,
            target.port,
            username=target.username,
            password=password,
            preferred_auth="password,keyboard-interactive",
            client_keys=None,
            agent_path=None,
            known_hosts=asyncssh.import_known_hosts(target.known_hosts),
            host_key_alias=target.alias,
            config=None,
        ) as connection:
            said = await connection.run("echo $DAYFLY_INSTANCE", check=True)
            return str(said.stdout).strip() == instance.id
    except asyncssh.PermissionDenied:
        return False


def holders(home: Home, secret: str) -> list[Path]:
    """The files in which a secret stands, as it is or as JSON."""
    forms = (secret.encode(), msgspec.json.encode(secret)[1:-1])
    return [
        path
        for path in home.path.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]


@contextlib.asynccontextmanager
async def process_table() -> AsyncIterator[set[bytes]]:
    """Every command line and environment that is to be seen meanwhile."""
    seen: set[bytes] = set()

    async def watch() -> None:
        while True:
            for entry in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours
                        seen.add((entry / name).read_bytes())
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()


async def test_a_worker_lets_in_by_the_password_and_nothing_else_knows_it(home: Home) -> None:
    async with (
        process_table() as seen,
        FunctionExecutor(
            config=home.config, ssh_password=PASSWORD, max_workers=1, progress=False
        ) as executor,
    ):
        assert await executor.map(abs, [-1, -2]) == [1, 2]
    assert any(b"dayfly.worker" in text for text in seen)
    assert not [text for text in seen if PASSWORD.encode() in text]

    access, vms = await machines(home)
    assert await lets_in(vms["worker"], access, PASSWORD)
    assert not await lets_in(vms["worker"], access, PASSWORD + "!")
    assert not await lets_in(vms["master"], access, PASSWORD)

    cloud = home.path / "cloud" / "instances"
    config = cloud / vms["master"].id / "root/etc/dayfly/master.json"
    assert holders(home, PASSWORD) == [config]
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert msgspec.json.decode(config.read_bytes(), type=MasterConfig).ssh_password == PASSWORD


async def test_without_a_password_only_keys_are_let_in(home: Home) -> None:
    async with FunctionExecutor(config=home.config, max_workers=1, progress=False) as executor:
        assert await executor.map(abs, [-1]) == [1]
    access, vms = await machines(home)
    for guess in ("", "ubuntu", PASSWORD):
        assert not await lets_in(vms["worker"], access, guess)
    shadows = list((home.path / "cloud").rglob("shadow"))
    assert not shadows
