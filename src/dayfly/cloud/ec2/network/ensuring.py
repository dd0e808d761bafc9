"""Where instances are launched: subnets of one VPC, and a security group in it.

What the configuration names is used and never altered. What it does not name is dayfly's own
(:mod:`dayfly.cloud.ec2.network.making`), and found again by its tags from any machine. Two listings
tell whether all is there.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.marks import NETWORK, Labels, Told, matching, ours, tags_of
from dayfly.cloud.ec2.network import rules
from dayfly.cloud.ec2.network.given import check_group, check_subnets, list_groups, list_subnets
from dayfly.cloud.ec2.network.making import Ground, make_group, make_network
from dayfly.cloud.ec2.persistence import persist, together
from dayfly.config.sections import Ec2Section
from dayfly.config.shapes import several
from dayfly.errors import ApiError, ConfigError

log = logging.getLogger(__name__)

#: A group takes 60 rules by default. Source: the VPC user guide, "Amazon VPC quotas".
_FULL: Final = "RulesPerSecurityGroupLimitExceeded"

Source = Callable[[], Awaitable[str]]


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """One subnet.

    Attributes:
        free: Addresses that it still has, as of the look.
        public: Whether to ask for public addresses at launch; ``None``: the subnet's own setting.
    """

    id: str
    zone: str
    free: int
    public: bool | None


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """Where instances are launched."""

    vpc: str
    subnets: tuple[Subnet, ...]
    security_group: str


class _Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What one look has shown.

    Attributes:
        subnets: In order of preference; of one VPC, if they were given.
        group: The one to use, if there is one.
    """

    subnets: list[Told]
    group: Told | None

    @property
    def ground(self) -> Ground | None:
        """What there is, if it is complete."""
        if self.group is None:
            return None
        vpc = self.group["VpcId"]
        subnets = [subnet for subnet in self.subnets if subnet["VpcId"] == vpc]
        return Ground(subnets=subnets, group=self.group) if subnets else None


class _Origin(msgspec.Struct, frozen=True, kw_only=True):
    """From where the caller comes.

    Attributes:
        unknown: Why nobody knows.
    """

    cidrs: tuple[str, ...] = ()
    unknown: ConfigError | None = None


async def find_network(api: Ec2Api, section: Ec2Section, owner: str) -> Network | None:
    """The network, if it is complete; alters nothing.

    Raises:
        ConfigError: What the configuration names is not there, or does not belong together.
    """
    ground = (await _look(api, section, owner)).ground
    return _network(section, ground) if ground else None


async def ensure_network(
    api: Ec2Api, section: Ec2Section, owner: str, *, caller: str, source: Source
) -> Network:
    """The network, with what is missing made; the caller is let in by SSH.

    Killed anywhere and said again, it completes what there is, and makes nothing twice.

    Args:
        api: Where.
        section: Of the configuration.
        owner: Whose.
        caller: Who asks, as ``user@host``: it is the mark of its rules.
        source: Tells the address that the caller comes from, where ``ssh_cidr`` does not.

    Raises:
        ConfigError: What the configuration names is not there, or does not belong together; or
            the caller's address could not be found out.
    """
    looked, origin = await together(_look(api, section, owner), _origin(section, source))
    sight: _Sight | None = looked

    async def look() -> Ground | None:
        return (await _look(api, section, owner)).ground

    async def step() -> Network:
        nonlocal sight
        seen, sight = sight or await _look(api, section, owner), None
        ground = seen.ground
        if ground is None and origin.unknown is not None:
            raise origin.unknown
        if ground is None and _given(section):
            vpc = str(seen.subnets[0]["VpcId"])
            group = await make_group(api, Labels.of(section, owner, vpc), vpc)
            ground = Ground(subnets=seen.subnets, group=group)
        elif ground is None:
            ground = await make_network(api, section, owner, look)
        if not section.security_group_id:
            await _admit(api, section, ground.group, origin, caller)
        return _network(section, ground)

    return await persist(api, step)


def _given(section: Ec2Section) -> bool:
    """Whether the VPC is the user's."""
    return bool(section.vpc_id or section.subnet_id or section.security_group_id)


def _network(section: Ec2Section, ground: Ground) -> Network:
    public = None if _given(section) else True
    return Network(
        vpc=ground.group["VpcId"],
        subnets=tuple(
            Subnet(
                id=subnet["SubnetId"],
                zone=subnet["AvailabilityZone"],
                free=subnet["AvailableIpAddressCount"],
                public=public,
            )
            for subnet in ground.subnets
        ),
        security_group=ground.group["GroupId"],
    )


async def _origin(section: Ec2Section, source: Source) -> _Origin:
    """From where the caller is let in; nobody is asked where the group is the user's."""
    given = several(section.ssh_cidr)
    if given or section.security_group_id:
        rules.warn_of_the_world(given)
        return _Origin(cidrs=given)
    try:
        return _Origin(cidrs=(await source(),))
    except ConfigError as error:
        return _Origin(unknown=error)


async def _admit(
    api: Ec2Api,
    section: Ec2Section,
    group: Told,
    origin: _Origin,
    caller: str,
) -> None:
    """Let the caller in by our own group, and no longer from where it came before.

    Raises:
        ConfigError: It is not known from where, and never was.
    """
    have = list(rules.rules_of(group))
    cidrs = origin.cidrs
    if origin.unknown is not None:
        cidrs = tuple(r.source for r in have if r.description == rules.mark(caller))
        if not cidrs:
            raise origin.unknown
        log.warning("SSH is let in from %s, as before: %s", ", ".join(cidrs), origin.unknown)
    want = rules.wanted(group["GroupId"], section.ssh_port, cidrs, caller)
    missing, stale = rules.changes(have, want)
    try:
        await _authorize(api, group, missing)
    except ApiError as error:
        others = rules.of_others(have, want)
        if error.code != _FULL or not others:
            raise
        # Of hosts that lived for a day, most often. Whoever is locked out comes in here again.
        api.told(f"the security group is full: {len(others)} rules of other clients are removed")
        await _revoke(api, group, others)
        await _authorize(api, group, missing)
        stale = []
    await _revoke(api, group, stale)


async def _authorize(api: Ec2Api, group: Told, wanted: Sequence[rules.Rule]) -> None:
    if wanted:
        await api.call(
            "authorize_security_group_ingress",
            GroupId=group["GroupId"],
            IpPermissions=rules.permissions(wanted),
        )


async def _revoke(api: Ec2Api, group: Told, unwanted: Sequence[rules.Rule]) -> None:
    if unwanted:
        await api.call(
            "revoke_security_group_ingress",
            GroupId=group["GroupId"],
            IpPermissions=rules.permissions(unwanted, described=False),
        )


async def _look(api: Ec2Api, section: Ec2Section, owner: str) -> _Sight:
    """Look at what there is, by two calls.

    Raises:
        ConfigError: What the configuration names is not there, or does not belong together.
    """
    given = several(section.subnet_id)
    labels = Labels.of(section, owner)
    group_id = section.security_group_id
    of_group = [matching("group-id", group_id)] if group_id else ours(owner)
    if group_id and not given and not section.vpc_id:
        groups = await list_groups(api, of_group)
        vpc = await check_group(api, group_id, groups, "")
        subnets = await list_subnets(api, [matching("vpc-id", vpc)])
    else:
        if given:
            of_subnets = [matching("subnet-id", *given)]
        elif section.vpc_id:
            of_subnets = [matching("vpc-id", section.vpc_id)]
        else:
            of_subnets = labels.filters()
        subnets, groups = await together(list_subnets(api, of_subnets), list_groups(api, of_group))
        if not _given(section):
            return _own(labels, subnets, groups)
        vpc = section.vpc_id
    subnets = await check_subnets(api, section, vpc, subnets)
    vpc = vpc or str(subnets[0]["VpcId"])
    if group_id:
        await check_group(api, group_id, groups, vpc)
    return _Sight(subnets=subnets, group=_first(groups, vpc))


def _own(labels: Labels, subnets: list[Told], groups: list[Told]) -> _Sight:
    """Our own network; of two, which only a client that slept long can have made, the first."""
    whole = {subnet["VpcId"] for subnet in subnets}
    found = [
        group
        for group in groups
        if tags_of(group).get(NETWORK) == labels.network and group["VpcId"] in whole
    ]
    vpc = min((str(group["VpcId"]) for group in found), default="")
    by_zone = sorted(subnets, key=lambda subnet: (subnet["AvailabilityZone"], subnet["SubnetId"]))
    return _Sight(subnets=by_zone, group=_first(found, vpc))


def _first(groups: Sequence[Told], vpc: str) -> Told | None:
    here = [group for group in groups if group["VpcId"] == vpc]
    return min(here, key=lambda group: str(group["GroupId"]), default=None)
