"""The metadata service at EC2's own address, which knows who asks by the address asked from."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.aws.imds import Keys, MetadataService
from tests.machines.network import METADATA

#: Every version that EC2 has ever had says the same here.
_VERSION = re.compile(r"/(latest|\d{4}-\d{2}-\d{2})(?=/)")


class LinkLocalMetadata(MetadataService):
    """The metadata of every machine at http://169.254.169.254/."""

    def __init__(
        self,
        *,
        region: str,
        account: str,
        zone: Callable[[str], str],
        issue: Callable[[str, str], Keys],
    ) -> None:
        super().__init__(
            region=region, account=account, zone=zone, issue=issue, listen=(METADATA, 80)
        )
        self._by_address: dict[str, str] = {}

    def locate(self, instance_id: str, address: str) -> None:
        super().locate(instance_id, address)
        self._by_address[address] = instance_id

    def below(self, peer: str, path: str) -> str:
        return f"/{self._by_address.get(peer, 'nobody')}{_VERSION.sub('/latest', path, count=1)}"
