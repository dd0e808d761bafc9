"""Machines behind emulated instances: VMs of the embedded cloud, really reached by SSH.

An emulated EC2 instance is one VM of an embedded cloud in a directory of the test's own, with
the same user-data and the same shutdown behaviour. It answers SSH at an address of its own,
127.x.y.z, port 2222, to any user name. It is told what an EC2 instance is told, and nothing
else: the region is in its metadata, its keys are those of its role, and no more than that.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, cast

from dayfly.clock import SystemClock, SystemEntropy
from dayfly.cloud.localhost import LocalhostCloud
from dayfly.cloud.localhost.plane import Plane
from dayfly.cloud.localhost.registry import Registry
from dayfly.errors import CloudError, InstanceNotFoundError
from dayfly.model import Instance, InstanceSpec, InstanceState
from tests.aws.imds import MetadataService
from tests.aws.world import Birth
from tests.embedded import raze

#: Where a VM's SSH server listens.
SSH_PORT = 2222


class EmbeddedMachines:
    """The machines of an emulated EC2; ids are those of EC2 throughout.

    Any thread may call.

    Args:
        directory: Of their embedded cloud. Short, since Unix sockets lie below it.
        metadata: Their metadata service; it is opened and closed by whoever made it.
        endpoint: The URL of the AWS that they use.
        boot_time: Seconds from power-on until SSH answers, at least.

    Attributes:
        cloud: The embedded cloud, where the same machines have other ids.
    """

    def __init__(
        self,
        directory: Path,
        metadata: MetadataService,
        *,
        endpoint: str,
        boot_time: float = 0.0,
    ) -> None:
        self.directory = directory
        self.metadata = metadata
        self._endpoint = endpoint
        self._boot_time = boot_time
        self._registry = Registry(directory)
        self._plane = self._power_of()
        self.cloud = LocalhostCloud(directory, clock=SystemClock(), entropy=SystemEntropy())
        #: EC2's id -> the embedded cloud's.
        self._ids: dict[str, str] = {}

    def launch(self, births: Sequence[Birth]) -> dict[str, str]:
        """Power new machines on; returns their addresses.

        Raises:
            CloudError: One could not be made; then none is left.
        """
        try:
            return {birth.id: self._launch(birth) for birth in births}
        except CloudError:
            self.terminate(birth.id for birth in births if birth.id in self._ids)
            raise

    def start(self, ids: Iterable[str]) -> None:
        """Power stopped machines on; they keep their disks and addresses."""
        for instance_id in ids:
            self._power_of(instance_id).start([self._embedded(instance_id)])

    def stop(self, ids: Iterable[str]) -> None:
        """Press the power button of machines that keep their disks."""
        self._plane.stop([self._embedded(instance_id) for instance_id in ids])

    def terminate(self, ids: Iterable[str]) -> None:
        """End machines for good."""
        self._plane.terminate([self._embedded(instance_id) for instance_id in ids])

    def states(self) -> dict[str, str]:
        """The state of every machine that there ever was, by EC2's names, as of now."""
        ids = self._ids.copy()
        states = {record.id: record.state for record in self._plane.records()}
        gone = InstanceState.TERMINATED
        return {ours: states.get(theirs, gone).value for ours, theirs in ids.items()}

    def console(self, instance_id: str) -> str:
        """What a machine printed while booting."""
        return self._plane.console(self._embedded(instance_id))

    def instance(self, instance_id: str) -> Instance:
        """A machine as its embedded cloud tells of it; its id there is another one."""
        return self._plane.record(self._embedded(instance_id)).instance

    def folder(self, instance_id: str) -> Path:
        """A machine's folder; its disk is ``root`` therein."""
        return self._registry.layout(self._embedded(instance_id)).folder

    def raze(self) -> None:
        """End every machine and delete every file."""
        # A thread, since a loop of the test's own may be running in this one.
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(asyncio.run, raze(self.cloud)).result()

    def _launch(self, birth: Birth) -> str:
        profile = birth.details.get("IamInstanceProfile", {})
        name = profile.get("Name") or profile.get("Arn", "").rpartition("/")[2]
        self.metadata.add(birth.id, birth.instance_type, birth.user_data, name)
        spec = InstanceSpec(
            role="worker",
            instance_types=["local.1"],
            on_poweroff=cast("Literal['stop', 'terminate']", birth.on_poweroff),
            user_data=birth.user_data,
            tags=dict(birth.tags),
            spot=birth.spot,
        )
        launch = self._power_of(birth.id).launch(spec, 1, 1, token=birth.id)
        (instance,) = launch.instances
        self._ids[birth.id] = instance.id
        self.metadata.locate(birth.id, instance.address)
        return instance.address

    def _power_of(self, instance_id: str = "") -> Plane:
        """The embedded cloud's API, for a machine that is to be powered on or for none."""
        return Plane(
            self.directory,
            boot_time=self._boot_time,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            environment=self._environment(instance_id) if instance_id else None,
        )

    def _environment(self, instance_id: str) -> dict[str, str]:
        here = Path(sys.executable).parent
        return {
            "AWS_ENDPOINT_URL": self._endpoint,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.endpoint(instance_id),
            # By default one attempt of one second, which a busy machine that plays EC2 may miss.
            "AWS_METADATA_SERVICE_TIMEOUT": "10",
            "AWS_METADATA_SERVICE_NUM_ATTEMPTS": "3",
            # The image's python3 is this one: it has what dayfly imports.
            "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }

    def _embedded(self, instance_id: str) -> str:
        try:
            return self._ids[instance_id]
        except KeyError:
            raise InstanceNotFoundError(f"the instance {instance_id!r} has no machine") from None
