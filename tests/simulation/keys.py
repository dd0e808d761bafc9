"""Keys that are names: making real ones takes chance and time that are not ours."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import re
from collections.abc import Iterator
from unittest import mock

import msgspec

from dayfly.bootstrap import HostIdentity
from dayfly.client import access, launches
from dayfly.model import Access, Role
from tests.simulation.shell import Greeting


def public_of(private_key: str) -> str:
    """The public half of a simulated key."""
    return private_key.replace("private", "public")


@contextlib.contextmanager
def simulated_keys(stream: random.Random) -> Iterator[None]:
    """Let the product make such keys while the context is open."""

    def new_key() -> tuple[str, str]:
        private = f"private {stream.getrandbits(64):016x}"
        return private, public_of(private)

    def host_identity(made: Access, role: Role) -> HostIdentity:
        authority = made.host_ca_public_key.strip()
        return HostIdentity(
            private_key=f"private host key of a {role}",
            public_key=f"public host key of a {role}",
            certificate=f"{authority}|{role}",
        )

    with (
        mock.patch.object(access, "_new_key", new_key),
        mock.patch.object(launches, "host_identity", host_identity),
    ):
        yield


class Identity(msgspec.Struct, frozen=True):
    """What user-data makes of a VM.

    Attributes:
        cap: Seconds from boot to its own deadline, or ``never``; empty: none is armed.
        authorized: Public keys.
    """

    greeting: Greeting
    authorized: frozenset[str]
    cap: str


@functools.lru_cache(maxsize=256)
def identity_of(user_data: str) -> Identity:
    document = json.loads(user_data.partition("\n")[2])
    authority, role = document["ssh_keys"]["ed25519_certificate"].split("|")
    arming = " ".join(document["bootcmd"][0])
    return Identity(
        greeting=Greeting(authority=authority, role=role, key=""),
        authorized=frozenset(document["ssh_authorized_keys"]),
        cap=cap_of(arming),
    )


def cap_of(script: str) -> str:
    """How long bootstrap's script of the deadline lets the VM run; empty where it has none."""
    found = re.search(r"deadline\.sh (\w+)'", script)
    return found[1] if found else ""
