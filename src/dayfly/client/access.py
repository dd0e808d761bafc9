"""The cluster's keys and secrets: made once, kept in storage, known to nobody else.

Whoever can read the owner's storage below ``dayfly/clusters/`` can use the cluster; the
roles of the VMs cannot. From another machine of the same user the same keys are found.
"""

from __future__ import annotations

import msgspec

from dayfly.bootstrap import HostIdentity
from dayfly.clock import Entropy
from dayfly.errors import ObjectExistsError, ObjectNotFoundError, StorageError
from dayfly.model import Access, Role
from dayfly.storage import keys
from dayfly.storage.base import Storage

_DECODER = msgspec.msgpack.Decoder(Access)


async def find_access(storage: Storage, name: str) -> Access | None:
    """Read the keys of a cluster; ``None`` if there is no such cluster.

    Raises:
        StorageError: Storage cannot be read, or holds something else.
    """
    try:
        data = await storage.get_object(keys.access(name))
    except ObjectNotFoundError:
        return None
    try:
        return _DECODER.decode(data)
    except msgspec.MsgspecError as error:
        raise StorageError(
            f"the object {keys.access(name)!r} does not hold a cluster's keys",
            cause=str(error),
            hint="dayfly clean --all makes a fresh start",
        ) from error


async def ensure_access(storage: Storage, name: str, owner: str, entropy: Entropy) -> Access:
    """Read the keys of a cluster, or make them; of two makers at once the first wins."""
    if found := await find_access(storage, name):
        return found
    user, authority = _new_key(), _new_key()
    serial = entropy.hex(16)
    access = Access(
        cluster=f"{owner}-{serial[:8]}",
        serial=serial,
        user_key=user[0],
        user_public_key=user[1],
        host_ca_key=authority[0],
        host_ca_public_key=authority[1],
        client_secret=entropy.hex(64),
        worker_secret=entropy.hex(64),
    )
    try:
        await storage.put_object(keys.access(name), msgspec.msgpack.encode(access), if_absent=True)
    except ObjectExistsError:
        if found := await find_access(storage, name):
            return found
        raise
    return access


def host_identity(access: Access, role: Role) -> HostIdentity:
    """Make a host key for one launch, signed by the cluster as good for its role only."""
    import asyncssh

    authority = asyncssh.import_private_key(access.host_ca_key)
    key = asyncssh.generate_private_key("ssh-ed25519")
    certificate = authority.generate_host_certificate(
        key, f"dayfly {access.cluster} {role}", principals=[role]
    )
    return HostIdentity(
        private_key=key.export_private_key().decode(),
        public_key=key.export_public_key().decode(),
        certificate=certificate.export_certificate().decode(),
    )


def _new_key() -> tuple[str, str]:
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519", comment="dayfly")
    return key.export_private_key().decode(), key.export_public_key().decode()
