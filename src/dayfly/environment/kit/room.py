"""Whether the disk has room for an environment, before anything is fetched."""

from __future__ import annotations

import os

from dayfly.environment.kit.failure import Failure, megabytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

#: Wheels, what they unpack to, and room to work: bytes of disk per byte of wheel. 311 MB of
#: wheels were seen to become 1.0 GB.
SWELL = 4
#: Files on disk per MB of wheels; twice what was seen.
INODES = 150
#: Bytes that every environment takes, uv among them.
FLOOR = 100 << 20

ADVICE = "give the VMs a larger volume (ebs_volumes), or clear the disk"


def look(root: Path, size: int) -> tuple[int, int]:
    """The bytes that are free, and those that are needed.

    Args:
        root: On which disk.
        size: Bytes of wheels that are to come.

    Raises:
        Failure: There are too few.
    """
    bytes_needed = FLOOR + SWELL * size
    inodes_needed = 1000 + INODES * (bytes_needed // SWELL >> 20)
    disk = os.statvfs(root)
    bytes_free = disk.f_bavail * disk.f_frsize
    if bytes_free < bytes_needed:
        raise Failure(
            "disk",
            f"the VM's disk is too small: about {megabytes(bytes_needed)} are needed at "
            f"{root}, {megabytes(bytes_free)} are free",
            advice=ADVICE,
        )
    # Some file systems have as many files as there is room for, and say 0.
    if disk.f_files and disk.f_favail < inodes_needed:
        raise Failure(
            "disk",
            f"the VM's disk cannot hold enough files: about {inodes_needed} more are needed "
            f"at {root}, it has room for {disk.f_favail}",
            advice=ADVICE,
        )
    return bytes_free, bytes_needed
