"""Packages of a VM's system: the script that installs them, and what its failure means.

Text and words only. apt and dpkg hold locks, which a VM that has just booted may not have yet:
cloud-init and unattended upgrades take them. So each try waits, and what is locked is tried again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from string import Template
from typing import Final

from dayfly.errors import EnvironmentFailedError

#: Seconds for all of it; for one fetch without a byte; between tries while something is locked.
DEADLINE: Final = 600
SILENCE: Final = 20
PAUSE: Final = 3
#: Where the output is kept, below ``$DAYFLY_ROOT``.
LOG: Final = "/tmp/dayfly/apt.log"  # noqa: S108 - see bootstrap.py
#: Lines of it that are told.
_TAIL: Final = 15

#: ``name``, ``name:architecture``, ``name=version``, by Debian's policy (5.6.1, 5.6.12). A name
#: that ends with a minus sign would be removed by apt-get.
_PACKAGE: Final = re.compile(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9][a-z0-9-]*)?(=([0-9]+:)?[0-9][A-Za-z0-9.+~-]*)?"
)

# What is there is seen without root and without apt. An update that fails in part may be enough.
_SCRIPT: Final = Template(r"""set -u
log="$${DAYFLY_ROOT:-}$log"; mkdir -p "$${log%/*}" 2>/dev/null
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
lacking() {
  for wanted in $packages; do
    name=$${wanted%%=*}; version=$${wanted#"$$name"}
    has=$$(dpkg-query -W -f='$${db:Status-Status}=$${Version} ' "$$name" 2>/dev/null)
    case " $$has" in
    *" installed$$version "*) ;;
    *" installed="*) [ -z "$$version" ] || echo "$$wanted" ;;
    *) echo "$$wanted" ;;
    esac
  done
}
missing=$$(lacking)
[ -n "$$missing" ] || exit 0
command -v apt-get >/dev/null || { echo "dayfly: there is no apt-get"; exit 127; }
until=$$(($$(date +%s) + $deadline))
apt() {
  while :; do
    left=$$((until - $$(date +%s)))
    [ "$$left" -gt 0 ] || return 124
    sudo -n timeout --kill-after=10 "$$left" env LC_ALL=C DEBIAN_FRONTEND=noninteractive \
      NEEDRESTART_SUSPEND=1 apt-get -qy -o DPkg::Lock::Timeout="$$left" -o Acquire::Retries=2 \
      -o Acquire::http::Timeout=$silence -o Acquire::https::Timeout=$silence \
      -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$$@" \
      </dev/null >"$$said" 2>&1
    status=$$?
    tee -a "$$log" <"$$said" 2>/dev/null || :
    [ "$$status" -ne 0 ] || return 0
    if grep -q "dpkg --configure -a" "$$said"; then
      sudo -n env DEBIAN_FRONTEND=noninteractive timeout "$$left" dpkg --configure -a \
        </dev/null || return "$$status"
    elif ! grep -Eq "Could not get lock|Unable to (lock|acquire)" "$$said"; then
      return "$$status"
    fi
    sleep $pause
  done
}
said=$$(mktemp) || exit 1
trap 'rm -f "$$said"' EXIT
apt update
apt install --no-install-recommends $$missing
""")


def unusable(package: str) -> str:
    """Why apt-get cannot be asked for a package by this name; empty: it can."""
    if _PACKAGE.fullmatch(package):
        return ""
    return (
        f"{package!r} is not the name of a package: lower-case letters, digits, '+', '-' and '.', "
        "then perhaps :architecture or =version"
    )


def script(packages: Iterable[str], *, deadline: int = DEADLINE) -> str:
    """What ``sh`` is to run on the VM, by a user with sudo; nothing happens twice.

    Args:
        packages: What :func:`unusable` has nothing against.
        deadline: Seconds.

    Raises:
        ValueError: It has.
    """
    wanted = sorted(set(packages))
    for package in wanted:
        if wrong := unusable(package):
            raise ValueError(wrong)
    return _SCRIPT.substitute(
        packages=" ".join(wanted), log=LOG, deadline=deadline, silence=SILENCE, pause=PAUSE
    )


#: What apt, dpkg, sudo and the kernel say, and of which kind that is: the first that is found.
_WORDS: Final[Sequence[tuple[str, str, str]]] = (
    (
        r"sudo: (?!unable to resolve)",
        "permission",
        "the SSH user must be allowed to use sudo without a password",
    ),
    (
        r"No space left on device|enough free space|Disk quota exceeded",
        "disk",
        "give the VMs a larger volume (ebs_volumes), or clear the disk",
    ),
    (
        r"Read-only file system",
        "disk",
        "see the kernel's log (dmesg) for errors of the disk; take another VM",
    ),
    (
        r"Could not get lock|Unable to (?:lock|acquire)",
        "busy",
        "wait until the VM's own upgrades are done, or choose a target_ami without them",
    ),
    (
        r"sources could not be read|Malformed|is not known on line|unmet dependencies",
        "broken",
        "mend apt in the image (target_ami), or have one built that has all (dayfly image build)",
    ),
    (
        r"without --allow-downgrades",
        "package",
        "the VM has a newer version: leave the version out, or choose a target_ami without it",
    ),
    (r"there is no apt-get", "package", "choose a target_ami of Debian or Ubuntu"),
)
_UNREACHABLE: Final = re.compile(
    r"Could not (?:connect|resolve)|Temporary failure|Unable to connect|Connection (?:timed|failed)"
    r"|Failed to fetch|Cannot initiate the connection"
)
_UNKNOWN: Final = re.compile(
    r"Unable to locate package (\S+)|Package '?([^ ']+)'? has no installation candidate"
    r"|Version '.*' for '(\S+)' was not found|Couldn't find any package by \w+ '(\S+)'"
)
#: sudo says so wherever no DNS server knows the VM, and goes on.
_HARMLESS: Final = re.compile(r"sudo: unable to resolve host")
_FAILED: Final = re.compile(r"Errors were encountered while processing:\n (\S+)")


def failure(
    status: int, output: str, packages: Sequence[str], *, vm: str, platform: str
) -> EnvironmentFailedError | None:
    """Why the packages could not be installed; ``None``: they are there.

    Args:
        status: With which :func:`script` ended.
        output: All that it printed.
        packages: What it was to install.
        vm: Where, as people know it.
        platform: Of the VM.
    """
    unknown, failed = _UNKNOWN.search(output), _FAILED.search(output)
    if not status:
        return None
    package = next(filter(None, unknown.groups()), "") if unknown else ""
    hosts = sorted(set(re.findall(r"https?://([^/\s:]+)", "\n".join(_troubles(output)))))
    kind, hint = _kind(output)
    what = f"{', '.join(packages)} could not be installed by apt-get on {vm}"
    if not kind and status in (124, 137):
        kind, hint = "deadline", f"see {LOG} on the VM"
        what += f" within {DEADLINE} s"
    elif not kind and hosts:
        kind = "network"
        what += f": {', '.join(hosts)} cannot be reached"
        hint = (
            "let the VM reach that host (routes, security groups, proxy, DNS), or use an image "
            "that has the packages (dayfly image build)"
        )
    elif not kind and unknown:
        kind, what = "package", f"{what}: its sources have no {package}"
        hint = "correct extra_apt_packages: apt-cache policy NAME on such a VM shows what there is"
    elif not kind:
        kind, package = "package", failed[1] if failed else ""
        hint = f"see {LOG} on the VM; correct extra_apt_packages, or leave it out"
    return EnvironmentFailedError(
        what,
        stage="system",
        kind=kind,
        package=package,
        vm=vm,
        platform=platform,
        cause="\n".join(_told(output)),
        hint=hint,
    )


def _kind(output: str) -> tuple[str, str]:
    for words, kind, hint in _WORDS:
        if re.search(words, output):
            return kind, hint
    return "", ""


def _troubles(output: str) -> list[str]:
    return [line for line in output.splitlines() if _UNREACHABLE.search(line)]


def _told(output: str) -> list[str]:
    """What apt-get itself calls an error, or the last lines."""
    lines = [line for line in output.splitlines() if line.strip() and not _HARMLESS.match(line)]
    errors = [line for line in lines if line.startswith(("E:", "dpkg:", "dayfly:"))]
    errors += [line for line in lines if re.match(_WORDS[0][0], line)]
    troubles = _troubles("\n".join(lines))
    return list(dict.fromkeys([*troubles[-3:], *errors]))[-_TAIL:] or lines[-_TAIL:]
