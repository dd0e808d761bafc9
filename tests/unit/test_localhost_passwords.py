"""Passwords on an embedded VM: ``chpasswd``, sshd's settings, and who is let in."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from dayfly.model import Instance, InstanceState
from dayfly.shell.base import Connection
from tests.embedded import Embedded, embedded_cloud

ALLOW = (
    'echo "PasswordAuthentication yes" >$DAYFLY_ROOT/etc/ssh/sshd_config.d/00-ours.conf; '
    "sudo systemctl reload ssh"
)


class Guest:
    """A VM, and whoever comes to it with a password."""

    def __init__(self, embedded: Embedded, instance: Instance, connection: Connection) -> None:
        self.embedded = embedded
        self.instance = instance
        self.connection = connection
        self.root = embedded.folder(instance) / "root"

    async def ok(self, command: str, stdin: bytes = b"") -> None:
        result = await self.connection.run(command, stdin=stdin)
        assert result.status == 0, result

    async def lets_in(self, password: str, username: str = "ubuntu") -> bool:
        target = self.embedded.target(self.instance)
        try:
            async with asyncssh.connect(
                target.address,
                target.port,
                username=username,
                password=password,
                preferred_auth="password,keyboard-interactive",
                client_keys=None,
                agent_path=None,
                known_hosts=asyncssh.import_known_hosts(target.known_hosts),
                host_key_alias=target.alias,
                config=None,
            ) as connection:
                return (await connection.run("echo in", check=True)).stdout == "in\n"
        except asyncssh.PermissionDenied:
            return False


@pytest.fixture
async def guest(own_home: Path) -> AsyncIterator[Guest]:
    async with (
        embedded_cloud(own_home / "cloud") as embedded,
        embedded.vm(on_poweroff="stop") as (instance, connection),
    ):
        yield Guest(embedded, instance, connection)


async def test_a_password_counts_once_sshd_was_told_so(guest: Guest) -> None:
    await guest.ok("sudo chpasswd", b"ubuntu:open: sesame\nother:two\n")
    assert not await guest.lets_in("open: sesame"), "the image's settings say no"
    await guest.ok(ALLOW.replace("sudo systemctl reload ssh", "true"))
    assert not await guest.lets_in("open: sesame"), "sshd was not told to reload"
    await guest.ok("sudo systemctl reload ssh")

    assert await guest.lets_in("open: sesame")
    assert await guest.lets_in("two", username="other")
    for wrong in ("open: sesam", "two", "", "OPEN: SESAME"):
        assert not await guest.lets_in(wrong)
    assert not await guest.lets_in("open: sesame", username="nobody")

    await guest.ok("sudo chpasswd", b"ubuntu:changed\n")
    assert not await guest.lets_in("open: sesame")
    assert await guest.lets_in("changed")
    assert await guest.lets_in("two", username="other"), "others keep theirs"

    await guest.ok("rm $DAYFLY_ROOT/etc/ssh/sshd_config.d/00-ours.conf; systemctl reload ssh")
    assert not await guest.lets_in("changed")


async def test_an_account_without_a_password_has_none_that_is_right(guest: Guest) -> None:
    await guest.ok(ALLOW)
    for guess in ("", "!", "*", "ubuntu"):
        assert not await guest.lets_in(guess)


async def test_only_salted_hashes_are_kept_and_only_for_the_owner(guest: Guest) -> None:
    await guest.ok("sudo chpasswd", b"ubuntu:sesame\nother:sesame\n")
    shadow = guest.root / "etc/shadow"
    assert stat.S_IMODE(shadow.stat().st_mode) == 0o600
    one, other = (line.partition(":")[2] for line in shadow.read_text().splitlines())
    assert "sesame" not in one + other
    assert one.startswith("$scrypt$")
    assert one != other


async def test_what_chpasswd_does_not_understand_changes_nothing_and_is_not_repeated(
    guest: Guest,
) -> None:
    await guest.ok("sudo chpasswd", b"ubuntu:sesame\n")
    before = (guest.root / "etc/shadow").read_text()
    refused = await guest.connection.run("sudo chpasswd", stdin=b"ubuntu:new\nhush\n")
    assert refused.status == 1
    assert "line 2" in refused.stderr
    assert "hush" not in refused.stderr
    assert (guest.root / "etc/shadow").read_text() == before


async def test_passwords_and_settings_outlive_a_stop(guest: Guest) -> None:
    await guest.ok(f"sudo chpasswd; {ALLOW}", b"ubuntu:sesame\n")
    embedded, instance = guest.embedded, guest.instance
    await embedded.cloud.stop([instance.id])
    await embedded.until(instance, InstanceState.STOPPED)
    await embedded.cloud.start([instance.id])
    await embedded.run(instance, "true")
    assert await guest.lets_in("sesame")


async def test_only_ssh_can_be_reloaded_and_by_its_name_on_ubuntu(guest: Guest) -> None:
    assert (await guest.connection.run("systemctl reload ssh.service")).status == 0
    unknown = await guest.connection.run("systemctl reload sshd")
    assert unknown.status == 5
    assert "sshd.service not found" in unknown.stderr
