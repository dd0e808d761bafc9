"""Who is let in by the security group that dayfly makes.

From outside: SSH, from the caller's addresses only. From the group itself: SSH and the master's
service. Nothing else, and the master's service never from outside.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import msgspec

from dayfly.cloud.ec2.marks import Told

log = logging.getLogger(__name__)

#: Where the master's service listens.
SERVICE_PORT: Final = 8080
#: EC2's limits of a rule's description.
_LONGEST: Final = 255
_MARK: Final = "dayfly: "
_FOREIGN: Final = re.compile(r"[^a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One way in, by TCP.

    Attributes:
        port: To which port.
        source: A block of addresses, or a group's id.
        description: Whose rule it is; no part of what it allows.
    """

    port: int
    source: str
    description: str = ""

    @property
    def way(self) -> tuple[int, str]:
        """What it allows."""
        return self.port, self.source


def mark(caller: str) -> str:
    """The description of a caller's own rules."""
    return _FOREIGN.sub("-", f"{_MARK}{caller}")[:_LONGEST]


def wanted(group: str, ssh_port: int, cidrs: Collection[str], caller: str) -> list[Rule]:
    """The rules of a group.

    Args:
        group: Its id.
        ssh_port: Of the VMs.
        cidrs: From where the caller comes.
        caller: Who that is.
    """
    inside = [
        Rule(port=port, source=group, description="dayfly")
        for port in sorted({ssh_port, SERVICE_PORT})
    ]
    blocks = dict.fromkeys(str(ipaddress.ip_network(cidr)) for cidr in cidrs)
    return inside + [
        Rule(port=ssh_port, source=block, description=mark(caller)) for block in blocks
    ]


def rules_of(group: Told) -> Iterator[Rule]:
    """The rules that a group has, as far as they are of our kind."""
    for permission in group.get("IpPermissions", ()):
        port = permission.get("FromPort")
        if permission.get("IpProtocol") != "tcp" or port != permission.get("ToPort"):
            continue
        for kind, name in _SOURCES.items():
            for source in permission.get(kind, ()):
                if name in source:
                    yield Rule(
                        port=port, source=source[name], description=source.get("Description", "")
                    )


def changes(have: Collection[Rule], want: Collection[Rule]) -> tuple[list[Rule], list[Rule]]:
    """What is missing, and what was its caller's and is not wanted any more."""
    there = {rule.way for rule in have}
    needed = {rule.way for rule in want}
    own = {rule.description for rule in want} - {"dayfly"}
    missing = [rule for rule in want if rule.way not in there]
    stale = [rule for rule in have if rule.description in own and rule.way not in needed]
    return missing, stale


def of_others(have: Collection[Rule], want: Collection[Rule]) -> list[Rule]:
    """The rules of callers that are not wanted now, this one's own of before included."""
    needed = {rule.way for rule in want}
    return [r for r in have if r.description.startswith(_MARK) and r.way not in needed]


#: How EC2 names the kinds of sources.
_SOURCES: Final = {"IpRanges": "CidrIp", "Ipv6Ranges": "CidrIpv6", "UserIdGroupPairs": "GroupId"}


def permissions(rules: Sequence[Rule], *, described: bool = True) -> list[dict[str, Any]]:
    """Rules as EC2's ``IpPermissions``.

    Args:
        rules: Which.
        described: With their descriptions; a rule is revoked without.
    """
    found: dict[int, dict[str, Any]] = {}
    for rule in rules:
        permission = found.setdefault(
            rule.port, {"IpProtocol": "tcp", "FromPort": rule.port, "ToPort": rule.port}
        )
        kind = _kind(rule.source)
        source = {_SOURCES[kind]: rule.source}
        if described:
            source["Description"] = rule.description
        permission.setdefault(kind, []).append(source)
    return list(found.values())


def _kind(source: str) -> str:
    if source.startswith("sg-"):
        return "UserIdGroupPairs"
    return "Ipv6Ranges" if ":" in source else "IpRanges"


def warn_of_the_world(cidrs: Collection[str]) -> None:
    """Tell the log when SSH is let in from everywhere, which only the user can have written."""
    for cidr in cidrs:
        if ipaddress.ip_network(cidr).prefixlen == 0:
            log.warning("ssh_cidr: %s lets SSH in from the whole Internet", cidr)
