"""What AWS takes as an id, a block of addresses, a bucket or a volume: told from the text alone.

Each check returns what is wrong, for people, or an empty string. Whether the thing exists is
another question, and not asked here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dayfly.model import Tag

#: Sources: the S3 user guide, "General purpose bucket naming rules".
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET_PREFIXES: Final = ("xn--", "sthree-", "amzn-s3-demo-")
_BUCKET_SUFFIXES: Final = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
#: Of a resource, and the characters of each. Source: the EC2 user guide, "Tag restrictions".
_MOST_TAGS, _LONGEST_NAME, _LONGEST_VALUE = 50, 128, 256
#: The sizes that EC2 allows for a subnet (the VPC user guide, "Subnet CIDR blocks").
_LARGEST, _SMALLEST = 16, 28
#: EC2's ``EbsBlockDevice`` and ``BlockDeviceMapping``, in snake case, less what places a volume
#: elsewhere than its VM.
_EBS: Final[Mapping[str, type]] = {
    "volume_size": int,
    "volume_type": str,
    "iops": int,
    "throughput": int,
    "volume_initialization_rate": int,
    "encrypted": bool,
    "kms_key_id": str,
    "snapshot_id": str,
    "delete_on_termination": bool,
}
_VOLUME_TYPES: Final = ("gp3", "gp2", "io1", "io2", "st1", "sc1", "standard")
_DEVICE: Final = ("device_name", "ebs", "virtual_name", "no_device")
_KINDS: Final = {str: "text", int: "a whole number", bool: "True or False"}


def several(given: str | Sequence[str]) -> tuple[str, ...]:
    """The values of a key that takes one or a list; an empty text is none."""
    if isinstance(given, str):
        return (given,) if given else ()
    return tuple(given)


def check_id(kind: str, text: str) -> str:
    """Whether a text has the form of a resource's id.

    Args:
        kind: The id's prefix: ``vpc``, ``subnet``, ``sg``, ``ami``, ``i``.
        text: The id.
    """
    if re.fullmatch(rf"{kind}-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}})", text):
        return ""
    return f"{text!r} is not an id such as {kind}-0123456789abcdef0"


def check_image(text: str) -> str:
    """Whether a text has the form of a machine image's id, or of a name that EC2 takes."""
    if text.startswith("ami-"):
        return check_id("ami", text)
    if re.fullmatch(r"[A-Za-z0-9()\[\] ./'@_-]{3,128}", text):
        return ""
    return f"{text!r} is neither an image's id, such as ami-0123456789abcdef0, nor a name"


def check_cidr(text: str) -> str:
    """Whether a text is a block of IPv4 or IPv6 addresses, or one address."""
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{text!r} is not a block of addresses such as 203.0.113.0/24"
    given = ipaddress.ip_address(text.partition("/")[0])
    if given == meant.network_address:
        return ""
    return f"{text!r} is an address within a block; {str(meant)!r} is the block"


def check_subnet(text: str) -> str:
    """Whether a text is a block of IPv4 addresses that a subnet can have."""
    wrong = check_cidr(text)
    if wrong:
        return wrong
    block = ipaddress.ip_network(text)
    if block.version == 4 and _LARGEST <= block.prefixlen <= _SMALLEST:
        return ""
    return f"{text!r} is not an IPv4 block from /{_LARGEST} to /{_SMALLEST}"


def check_bucket(name: str) -> str:
    """Whether S3 takes a text as the name of a bucket."""
    wrong = f"{name!r} is not the name of a bucket: "
    if not _BUCKET.fullmatch(name):
        return (
            f"{wrong}3 to 63 lower-case letters, digits, dots and hyphens, with a letter or a "
            "digit at either end"
        )
    if ".." in name:
        return f"{wrong}no two dots may be neighbours"
    if re.fullmatch(r"\d+\.\d+\.\d+\.\d+", name):
        return f"{wrong}it looks like an address"
    for reserved in (*_BUCKET_PREFIXES, *_BUCKET_SUFFIXES):
        at_the_end = reserved in _BUCKET_SUFFIXES
        if name.endswith(reserved) if at_the_end else name.startswith(reserved):
            return f"{wrong}S3 keeps names that {'end' if at_the_end else 'begin'} with {reserved}"
    return ""


def check_tags(tags: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with tags of the user's own."""
    room = _MOST_TAGS - len(Tag)
    if len(tags) > room:
        yield f"{len(tags)} are given, and beside dayfly's own there is room for {room}"
    for name, value in tags.items():
        if name.lower().startswith(("aws:", "dayfly:")) or name == Tag.NAME:
            yield f"{name!r} is reserved; choose another name"
        elif not 1 <= len(name) <= _LONGEST_NAME:
            yield f"{name[:20]!r}: a name has 1 to {_LONGEST_NAME} characters"
        if len(value) > _LONGEST_VALUE:
            yield f"the value of {name!r} has more than {_LONGEST_VALUE} characters"


def check_volumes(volumes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with block device mappings in snake case."""
    seen = set()
    for number, volume in enumerate(volumes, start=1):
        name = volume.get("device_name")
        which = f"volume {number}"
        for key in volume:
            if key not in _DEVICE:
                yield f"{which}: there is no key {key!r}; it has {', '.join(_DEVICE)}"
        if not isinstance(name, str) or not name:
            yield f"{which}: device_name is missing, e.g. /dev/sdf"
        elif name in seen:
            yield f"{which}: device_name {name} is given twice"
        else:
            seen.add(name)
        ebs = volume.get("ebs", {})
        if isinstance(ebs, Mapping):
            yield from _check_ebs(which, ebs)
        else:
            yield f"{which}: ebs takes a mapping, such as {{volume_size: 100}}"


def _check_ebs(which: str, ebs: Mapping[str, Any]) -> Iterator[str]:
    for key, value in ebs.items():
        kind = _EBS.get(key)
        if kind is None:
            yield f"{which}: ebs has no key {key!r}; it has {', '.join(_EBS)}"
        elif type(value) is not kind:
            yield f"{which}: ebs.{key}: {value!r} is not allowed; it takes {_KINDS[kind]}"
        elif kind is int and isinstance(value, int) and value < 1:
            yield f"{which}: ebs.{key}: {value} is not allowed; it takes a number from 1"
        elif key == "volume_type" and value not in _VOLUME_TYPES:
            yield f"{which}: ebs.{key}: {value!r} is none of {', '.join(_VOLUME_TYPES)}"
