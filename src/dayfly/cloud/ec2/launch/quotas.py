"""EC2's quotas of running instances: which of them counts an instance type, and its code.

Source: Service Quotas, "Amazon EC2 instance quotas"; on-demand and spot are counted apart, in
vCPUs, by families of types.
"""

from __future__ import annotations

from typing import Final

from dayfly.cloud.ec2.launch.pools import VOLUMES

_STANDARD: Final = "Standard (A, C, D, H, I, M, R, T, Z)"
#: Family -> the codes of its quotas, on-demand and spot.
QUOTAS: Final = {
    _STANDARD: ("L-1216C47A", "L-34B43A08"),
    "G and VT": ("L-DB2E81BA", "L-3819A6DF"),
    "P": ("L-417A185B", "L-7212CCBC"),
    "X": ("L-7295265B", "L-E3A00192"),
    "F": ("L-74FC7D96", "L-88CF9481"),
    "Inf": ("L-1945791B", "L-B5D1601B"),
    "Trn": ("L-2C3B7624", "L-6B0D517C"),
    "DL": ("L-6E869C2A", "L-85EED4F7"),
}
_VOLUMES_CODE: Final = "L-7A658B76"
#: How the names of a family's types begin; the longer beginnings first.
_BEGINNINGS: Final = {
    "inf": "Inf",
    "trn": "Trn",
    "dl": "DL",
    "vt": "G and VT",
    "g": "G and VT",
    "p": "P",
    "x": "X",
    "f": "F",
}


def family(instance_type: str) -> str:
    """Which family of quotas counts an instance type."""
    for beginning, name in _BEGINNINGS.items():
        if instance_type.startswith(beginning):
            return name
    return _STANDARD


def code_of(quota: str) -> str:
    """The code of a quota, as :attr:`dayfly.cloud.ec2.launch.pools.Pool.purse` names it."""
    if quota == VOLUMES:
        return _VOLUMES_CODE
    market, _, name = quota.partition("/")
    return QUOTAS[name][market == "spot"]


def name_of(quota: str) -> str:
    """A quota by AWS's name and code, for people."""
    market, _, name = quota.partition("/")
    if quota == VOLUMES:
        told = "Storage for General Purpose SSD (gp3) volumes"
    elif market == "spot":
        told = f"All {name} Spot Instance Requests"
    else:
        told = f"Running On-Demand {name} instances"
    return f"{told} ({code_of(quota)})"
