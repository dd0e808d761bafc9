"""Why an environment cannot be had, in words."""

from __future__ import annotations

import errno
import os


class Failure(Exception):  # noqa: N818 - it is not an error of this program
    """Why the environment cannot be had.

    Args:
        kind: ``order``, ``busy``, ``disk``, ``permission``, ``interpreter``, ``network``,
            ``file``, ``package``, ``import``, ``deadline``, ``stopped`` or ``defect``.
        what: What happened.
        cause: The evidence.
        advice: What to do.
        package: Which one it happened to.
    """

    def __init__(
        self, kind: str, what: str, *, cause: str = "", advice: str = "", package: str = ""
    ) -> None:
        super().__init__(what)
        self.kind, self.what, self.cause = kind, what, cause
        self.advice, self.package = advice, package

    def told(self) -> dict[str, str]:
        """As it is said; the step is known elsewhere."""
        return {
            "kind": self.kind,
            "package": self.package,
            "what": self.what,
            "cause": self.cause,
            "advice": self.advice,
        }


def of_machine(code: int, where: str) -> Failure | None:
    """The failure that an ``errno`` means on this disk, or ``None``."""
    if code in (errno.ENOSPC, errno.EDQUOT):
        return Failure(
            "disk",
            f"the VM's disk is full: {free(where)}",
            advice="give the VMs a larger volume (ebs_volumes), or clear the disk",
        )
    if code == errno.EROFS:
        return Failure(
            "disk",
            f"the VM's disk can only be read: {where}",
            advice="see the kernel's log (dmesg) for errors of the disk; take another VM",
        )
    if code in (errno.EACCES, errno.EPERM):
        return Failure(
            "permission",
            f"user {os.getuid()} may not write to {where} on the VM",
            advice=f"let the SSH user own {where}: sudo chown -R USER {where}",
        )
    return None


#: What programs print of these, as Rust, glibc and Python say it.
SPOKEN = (
    ("No space left on device", errno.ENOSPC),
    ("Disk quota exceeded", errno.EDQUOT),
    ("Read-only file system", errno.EROFS),
)


def spoken(output: str, where: str) -> Failure | None:
    """The failure of the machine that a program's output tells of, or ``None``."""
    for words, code in SPOKEN:
        if words in output:
            return of_machine(code, where)
    if "failed to map segment" in output:
        return noexec(where)
    return None


def noexec(where: str) -> Failure:
    """Programs may not be run from this disk."""
    return Failure(
        "permission",
        f"programs below {where} may not be run on the VM",
        advice=f"mount the disk of {where} without noexec",
    )


def free(where: str) -> str:
    """How much room there is, in words."""
    try:
        disk = os.statvfs(where)
    except OSError as error:
        return f"{where} cannot be asked ({error.strerror})"
    room = disk.f_bavail * disk.f_frsize
    return f"{megabytes(room)} and {disk.f_favail} files are left at {where}"


def megabytes(count: float) -> str:
    """A size, in words."""
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
