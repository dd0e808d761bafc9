"""Instances with no machine behind them: so many workers that nobody could power them on.

Masters are real machines. Everything else has an address at which nobody listens, on the
loopback: whoever calls there is refused at once, and no packet leaves this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from dayfly.model import Tag
from tests.aws.machines import EmbeddedMachines
from tests.aws.world import Birth

#: Where no machine of the embedded cloud is, which begin at 127.16.0.0.
_NOBODY = ipaddress.IPv4Address("127.9.0.1")


class HollowMachines:
    """The machines of an emulated EC2, of which only the masters are there.

    Args:
        real: Makes the masters.
    """

    def __init__(self, real: EmbeddedMachines) -> None:
        self._real = real
        #: By id, what EC2 is told of the others.
        self._hollow: dict[str, str] = {}

    def launch(self, births: Sequence[Birth]) -> dict[str, str]:
        masters = [birth for birth in births if birth.tags.get(Tag.ROLE) == "master"]
        addresses = self._real.launch(masters)
        for birth in births:
            if birth.id not in addresses:
                addresses[birth.id] = str(_NOBODY + len(self._hollow))
                self._hollow[birth.id] = "running"
        return addresses

    def start(self, ids: Iterable[str]) -> None:
        self._real.start(self._set(ids, "running"))

    def stop(self, ids: Iterable[str]) -> None:
        self._real.stop(self._set(ids, "stopped"))

    def terminate(self, ids: Iterable[str]) -> None:
        self._real.terminate(self._set(ids, "terminated"))

    def states(self) -> dict[str, str]:
        return self._hollow | self._real.states()

    def console(self, instance_id: str) -> str:
        return "" if instance_id in self._hollow else self._real.console(instance_id)

    def _set(self, ids: Iterable[str], state: str) -> list[str]:
        """Say so of those that are hollow; returns the others."""
        ids = list(ids)
        self._hollow |= {each: state for each in ids if each in self._hollow}
        return [each for each in ids if each not in self._hollow]
