"""EC2, as :mod:`dayfly.cloud.base` wants a cloud to be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

from dayfly.aws.session import Aws
from dayfly.clock import Clock, Entropy
from dayfly.cloud.base import Finding, Notes, Resource
from dayfly.cloud.ec2.api import Ec2Api, say
from dayfly.cloud.ec2.clean.inventory import inventory
from dayfly.cloud.ec2.clean.purge import purge
from dayfly.cloud.ec2.doctor.examination import examine
from dayfly.cloud.ec2.imaging import Ec2Imaging
from dayfly.cloud.ec2.instances import changing
from dayfly.cloud.ec2.instances.listing import Listing
from dayfly.cloud.ec2.instances.terminating import terminate
from dayfly.cloud.ec2.launch.images import Image, find_chosen, find_image
from dayfly.cloud.ec2.launch.instancetypes import find_types
from dayfly.cloud.ec2.launch.launching import Launcher
from dayfly.cloud.ec2.launch.pools import RESTING, Outlook, Resting
from dayfly.cloud.ec2.launch.preparing import Findings, find_out, new_order
from dayfly.cloud.ec2.launch.releases import platform_of, python_of
from dayfly.cloud.ec2.launch.waves import Order
from dayfly.cloud.ec2.limits import SHARED, Limits
from dayfly.cloud.ec2.network.caller import public_address
from dayfly.cloud.ec2.network.ensuring import Network, ensure_network
from dayfly.cloud.ec2.persistence import together
from dayfly.cloud.ec2.prices import find_prices
from dayfly.cloud.ec2.reactions import Kind, reaction
from dayfly.config.sections import Ec2Section
from dayfly.environment.lock import Platform
from dayfly.errors import ApiError, ConfigError, DayflyError
from dayfly.model import ALIVE, ExecMode, Instance, InstanceSpec, InstanceState, Launch, Price

#: Seconds for which a network that was found is taken to be there still.
_NETWORK_KEPT: Final = 120.0


class Ec2Cloud:
    """EC2 in one region, for one account.

    Args:
        section: What the configuration says of it.
        aws: The account; closed with the cloud.
        notes: Where launches are written down before they are called.
        clock: Time.
        entropy: Chance.
        caller: Who asks, for the rule that lets this machine in: ``user@host``.
        source: Finds this machine's public address.
        told: Told what is being waited for, in one line.
        limits: The rate limits to keep to; those of the process.
        resting: The pools that were dry minutes ago; those of the process.
    """

    def __init__(
        self,
        section: Ec2Section,
        aws: Aws,
        notes: Notes,
        *,
        clock: Clock,
        entropy: Entropy,
        caller: str = "user@host",
        source: Callable[[], Awaitable[str]] = public_address,
        told: Callable[[str], None] = say,
        limits: Limits = SHARED,
        resting: Resting = RESTING,
    ) -> None:
        self._section = section
        self._aws = aws
        self._clock = clock
        self._caller = caller
        self._source = source
        self._resting = resting
        self._api = Ec2Api(aws, clock=clock, entropy=entropy, told=told, limits=limits)
        self._listing = Listing(self._api, ssh_port=section.ssh_port)
        self._launcher = Launcher(self._api, notes, self._listing, self.terminate, resting=resting)
        self._network: tuple[Network, float] | None = None
        self._looking = asyncio.Lock()
        self._asking = asyncio.Lock()

    @property
    def name(self) -> str:  # noqa: D102
        return "aws_ec2"

    @property
    def region(self) -> str:  # noqa: D102
        return self._aws.region

    @property
    def pace(self) -> float:  # noqa: D102
        return 1.0

    async def owner(self) -> str:  # noqa: D102
        caller = await self._aws.caller()
        return f"{caller.name}@{caller.account}"

    async def processes(self, instance_type: str) -> int:  # noqa: D102
        section = self._section
        with suppress(ConfigError):  # of another key's type; this one's is told below
            # One call for all that will be asked for.
            await find_types(
                self._api, [*section.worker_instance_types, section.master_instance_type]
            )
        return (await find_types(self._api, [instance_type]))[instance_type].vcpus

    async def platform(self, instance_type: str) -> Platform:  # noqa: D102
        section = self._section
        await self.processes(instance_type)  # in one call with all that will be asked for
        facts = (await find_types(self._api, [instance_type]))[instance_type]
        if section.exec_mode is ExecMode.CONSUME:
            own = await self._own_image(facts.architecture)
            return platform_of(facts.architecture, own.name if own else "")
        image = await find_image(self._api, section.target_ami, facts.architecture)
        return image.platform or platform_of(facts.architecture, image.name)

    async def _own_image(self, architecture: str) -> Image | None:
        """What the user's own VM was made from, where that can still be seen."""
        try:
            answer = await self._api.call(
                "describe_instances", InstanceIds=[self._section.instance_id]
            )
        except ApiError as error:
            if not error.code.startswith("InvalidInstanceID."):
                raise
            return None  # that is told where it is to be started
        for reservation in answer["Reservations"]:
            for told in reservation["Instances"]:
                return await find_chosen(self._api, told["ImageId"], architecture)
        return None

    async def python(self, instance_type: str) -> str:  # noqa: D102
        section = self._section
        if section.exec_mode is ExecMode.CONSUME:
            return ""
        facts = (await find_types(self._api, [instance_type]))[instance_type]
        image = await find_image(self._api, section.target_ami, facts.architecture)
        return python_of(image.name, image.owner, self._api.region)

    async def launch(  # noqa: D102
        self, spec: InstanceSpec, count: int, *, minimum: int = 1, token: str
    ) -> Launch:
        async def prepare() -> tuple[Order, Outlook]:
            network, findings = await together(self._find_network(), self._find_out(spec))
            return new_order(
                self._section, spec, count, minimum, token, network=network, findings=findings
            )

        try:
            return await self._launcher.launch(token, prepare)
        except DayflyError:
            self._network = None  # what was found before may be the reason
            raise

    async def list(  # noqa: D102
        self,
        *,
        tags: Mapping[str, str] | None = None,
        ids: Collection[str] | None = None,
        states: Collection[InstanceState] | None = None,
    ) -> list[Instance]:
        found = await self._listing.find(tags=tags, ids=ids, states=states)
        self._learn(found)
        return found

    def _learn(self, found: Sequence[Instance]) -> None:
        """A launch may fail after it was answered, for want of capacity: its pool is dry too."""
        clock = self._clock
        for instance in found:
            code = instance.state_reason.partition(":")[0]
            if instance.state not in ALIVE and reaction(code).kind is Kind.DRY:
                ago = clock.now() - instance.launched_at
                self._resting.add(self.region, instance, clock.monotonic(), ago)

    async def start(self, ids: Sequence[str]) -> None:  # noqa: D102
        await changing.start(self._api, self._listing, ids)

    async def stop(self, ids: Sequence[str]) -> None:  # noqa: D102
        await changing.stop(self._api, self._listing, ids)

    async def terminate(self, ids: Sequence[str]) -> None:  # noqa: D102
        await terminate(self._api, self._listing, ids)

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:  # noqa: D102
        await changing.tag(self._api, self._listing, ids, tags)

    async def console(self, instance_id: str) -> str:  # noqa: D102
        return await changing.console(self._api, instance_id)

    @property
    def imaging(self) -> Ec2Imaging:  # noqa: D102
        return Ec2Imaging(self._api, self._section, self.owner)

    async def admit(self) -> None:  # noqa: D102
        if self._section.exec_mode is ExecMode.CONSUME:
            return  # the user's own network is not altered
        self._network = None
        await self._find_network()

    async def check_consumable(self, instance: Instance) -> None:  # noqa: D102
        await changing.check_consumable(self._api, instance)

    async def prices(  # noqa: D102
        self, instance_types: Collection[str], *, spot: bool
    ) -> dict[str, Price]:
        found = await find_prices(self._api, instance_types, spot=spot)
        return {name: found[name, ""] for name in instance_types}

    async def examine(self, workers: int) -> Sequence[Finding]:  # noqa: D102
        return await examine(self._api, self._section, workers)

    async def inventory(self) -> Sequence[Resource]:  # noqa: D102
        return await inventory(self._api, await self.owner())

    async def purge(self) -> None:  # noqa: D102
        self._network = None
        self._listing.changed()
        await purge(self._api, await self.owner())

    async def aclose(self) -> None:  # noqa: D102
        await self._listing.aclose()
        await self._aws.aclose()

    async def _find_out(self, spec: InstanceSpec) -> Findings:
        # One at a time: master and workers want to know the same.
        async with self._asking:
            return await find_out(self._api, self._section, spec)

    async def _find_network(self) -> Network:
        async with self._looking:
            if self._network is None or self._network[1] < self._clock.monotonic():
                found = await ensure_network(
                    self._api,
                    self._section,
                    await self.owner(),
                    caller=self._caller,
                    source=self._source,
                )
                self._network = found, self._clock.monotonic() + _NETWORK_KEPT
            return self._network[0]
