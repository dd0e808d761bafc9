"""What a VM is told to become: texts and archives made from values.

Nothing here talks to anybody: the texts travel in user-data and over SSH, by others.

Everything lies below ``$DAYFLY_ROOT``, which is empty on a VM that has a disk of its own and
names the VM's directory on the embedded cloud.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Literal

import msgspec

from dayfly.environment.order import Order
from dayfly.environment.program import program
from dayfly.model import DismantlePolicy, Guarded, MasterConfig, WorkerConfig

Service = Literal["master", "worker"]

#: Files of the package that only clients read: they stay where they are.
CLIENT_ONLY = frozenset({"dayfly/cloud/ec2/catalogue.json"})


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """The dayfly that runs here, as it is installed on a VM.

    Attributes:
        digest: Of its content.
        files: Path relative to the package's parent -> content.
    """

    digest: str
    files: dict[str, bytes]


class HostIdentity(Guarded, frozen=True, kw_only=True):
    """A VM's own SSH key, signed by the cluster, in OpenSSH's formats."""

    private_key: str
    public_key: str
    certificate: str


@functools.cache
def read_package() -> Package:
    """Read the package that this process runs; the same content has the same digest."""
    root = Path(__file__).parent
    files = {
        name: path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and (name := path.relative_to(root.parent).as_posix()) not in CLIENT_ONLY
    }
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return Package(digest=digest.hexdigest()[:16], files=files)


# The VM's own deadline. It needs no network, no credentials and no Python: a file that is
# missing or garbled means the cap, which counts from boot. /run is empty at each boot, so the
# cap is set anew at each start. `poweroff -ff` is for a service manager that is stuck.
_DEADLINE_SCRIPT = r"""#!/bin/sh
# Powers this VM off at its deadline; told by whoever holds the lease, bounded by the cap.
run="${DAYFLY_ROOT:-}/run/dayfly"
cap=$1
clock() { if [ -r /proc/uptime ]; then IFS=. read -r seconds _ </proc/uptime
          else seconds=$(date +%s); fi; }
mkdir -p "$run"
clock
if [ ! -s "$run/cap" ]; then
  if [ "$cap" = never ]; then echo never; else echo $((seconds + cap)); fi >"$run/cap"
fi
read -r cap <"$run/cap"
while :; do
  due=
  if [ -r "$run/deadline" ]; then read -r due <"$run/deadline"; fi
  due=${due%%.*}
  case $due in never) ;; '' | *[!0-9]*) due=$cap ;; esac
  clock
  if [ "$due" != never ] && [ "$seconds" -ge "$due" ]; then
    echo "deadline $due reached at $seconds: powering off"
    systemctl poweroff
    sleep 120
    poweroff -ff
  fi
  sleep 1
done
"""

# It waits for nothing at boot, where a stuck cloud-init is in the way of most units; and it is not
# stopped as the VM goes down, where a stuck unit may be in the way too.
_DEADLINE_UNIT = Template("""[Unit]
Description=dayfly: this VM's own deadline
DefaultDependencies=no

[Service]
Type=simple
ExecStart=/bin/sh -c 'exec /bin/sh $${DAYFLY_ROOT}/opt/dayfly/deadline.sh $cap'
Restart=always
RestartSec=1
""")

_ARM = Template("""set -eu
R="$${DAYFLY_ROOT:-}"
mkdir -p "$$R/opt/dayfly" "$$R/etc/systemd/system"
cat >"$$R/opt/dayfly/deadline.sh" <<'DAYFLY_END'
$script
DAYFLY_END
cat >"$$R/etc/systemd/system/dayfly-deadline.service" <<'DAYFLY_END'
$unit
DAYFLY_END
systemctl daemon-reload
systemctl start --no-block dayfly-deadline.service
""")


def arm_deadline(policy: DismantlePolicy) -> str:
    """The shell script, for root, that arms the VM's own deadline; idempotent."""
    cap = str(max(1, round(policy.hard))) if policy.auto else "never"
    return _ARM.substitute(
        script=_DEADLINE_SCRIPT.strip(), unit=_DEADLINE_UNIT.substitute(cap=cap).strip()
    )


def user_data(*, host: HostIdentity, authorized_keys: list[str], policy: DismantlePolicy) -> str:
    """The ``#cloud-config`` document of a VM: its identity, our key, its own deadline.

    The deadline is armed by ``bootcmd``, which cloud-init runs at every boot, before it
    writes files or starts sshd (cloud-init's ``cloud_init_modules``); hence the script
    carries its own files. There is no secret here but the VM's own host key: user-data is
    readable by whatever runs on the VM.
    """
    document = {
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": host.private_key,
            "ed25519_public": host.public_key,
            "ed25519_certificate": host.certificate,
        },
        "ssh_authorized_keys": authorized_keys,
        "bootcmd": [["sh", "-c", arm_deadline(policy)]],
    }
    # JSON is YAML, and needs no quoting rules of ours.
    return "#cloud-config\n" + json.dumps(document, indent=1) + "\n"


_UNIT = Template("""[Unit]
Description=dayfly: $service
After=network-online.target

[Service]
Type=notify
User=@USER@
Environment=PYTHONUNBUFFERED=1
ExecStart=/bin/sh -c 'PYTHONPATH=$${DAYFLY_ROOT}/opt/dayfly/$digest exec $python -P -m dayfly.$service'
Restart=always
RestartSec=1
TimeoutStartSec=60
StandardOutput=append:/tmp/dayfly/$service-service.log
StandardError=append:/tmp/dayfly/$service-service.log
""")  # noqa: E501

# Who may log in to a worker, each time anew: the mark of an installation knows of no password.
# The first of sshd's settings holds, and Ubuntu's images say "no" in 60-cloudimg-settings.conf.
_LOGINS = """\
reload_sshd() { sudo systemctl reload ssh || sudo systemctl reload sshd; }
settings="$R/etc/ssh/sshd_config.d"
if [ -e "$new/password" ]; then
  sudo chpasswd <"$new/password"
  sudo mkdir -p "$settings"
  echo "PasswordAuthentication yes" | sudo tee "$settings/00-dayfly.conf" >/dev/null
  reload_sshd
elif sudo test -e "$settings/00-dayfly.conf"; then
  sudo rm "$settings/00-dayfly.conf"
  reload_sshd
fi"""

# Each step has a name and a deadline; what it prints is kept, and told where it fails. sudo asks
# nobody for a password. A script whose connection broke goes on to its end.
_STEPS = r"""set -eu
umask 077
R="$${DAYFLY_ROOT:-}"; me=$$(id -un); new=
said=$$(mktemp 2>/dev/null) || said=
if [ -n "$$said" ]; then exec 3>&2 2>"$$said"; fi
step() { step=$$1; limit=$$2; }
leave() {
  status=$$?
  [ "$$status" = 0 ] || echo "dayfly-step $$step $$status $$limit" >&2
  if [ -n "$$said" ]; then
    if [ -w "$$R/tmp/dayfly" ]; then
      { echo "--- $$(date -u +%FT%TZ) $service: $$step: status $$status"; cat "$$said"; } \
        >>"$$R/tmp/dayfly/bootstrap.log" || :
    fi
    cat "$$said" >&3
  fi
  rm -rf "$$said" "$$new"
}
trap leave EXIT
within() { if command -v timeout >/dev/null; then timeout -k 5 "$$limit" "$$@"; else "$$@"; fi; }
sudo() {
  if command -v timeout >/dev/null; then timeout -k 5 "$$limit" sudo -n "$$@"
  else command sudo -n "$$@"; fi
}
"""

# One client at a time installs (two may come at once); a service that runs this very package
# for this very cluster is left alone.
_INSTALL = Template(
    _STEPS
    + """step folders 30
sudo mkdir -p "$$R/opt/dayfly" "$$R/etc/dayfly" "$$R/etc/systemd/system" "$$R/tmp/dayfly" \
  "$$R/var/lib/dayfly" "$$R/run/dayfly"
sudo chown "$$me" "$$R/opt/dayfly" "$$R/etc/dayfly" "$$R/tmp/dayfly" "$$R/var/lib/dayfly" \
  "$$R/run/dayfly"
step unpacking 60
new=$$(mktemp -d "$$R/opt/dayfly/new.XXXXXX")
within tar -xzf - -C "$$new"
step turn $timeout
exec 9>"$$R/run/dayfly/install.lock"
if command -v flock >/dev/null; then flock -w $timeout -E 124 9; fi
step logins 30
$logins
mark="$$R/etc/dayfly/$service.mark"
if [ "$$(cat "$$mark" 2>/dev/null)" = "$mark" ] \
  && systemctl is-active --quiet dayfly-$service.service; then exit 0; fi
step environment 0
$kit
step files 30
[ -d "$$R/opt/dayfly/$digest" ] || mv "$$new/package" "$$R/opt/dayfly/$digest"
mv -f "$$new/config.json" "$$R/etc/dayfly/$service.json"
sed "s/@USER@/$$me/" "$$new/unit" \
  | sudo tee "$$R/etc/systemd/system/dayfly-$service.service" >/dev/null
$arm
step service 90
sudo systemctl daemon-reload
sudo systemctl restart dayfly-$service.service || {
  status=$$?
  echo "the service's log ends:" >&2
  tail -n 15 "$$R/tmp/dayfly/$service-service.log" >&2 || :
  exit "$$status"; }
echo "$mark" >"$$mark"
"""
)

#: Seconds for all steps together, but for the turn and the environment.
STEPS = 30.0 + 60.0 + 30.0 + 30.0 + 90.0

#: Before the service is touched; what it says is for :mod:`dayfly.environment.report`.
_KIT = """python3 -I "$new/kit.pyz" <"$new/order.json\""""

# An environment alone, for a service that will come and find it.
_AHEAD = (
    """set -eu
umask 077
R="${DAYFLY_ROOT:-}"
sudo mkdir -p "$R/opt/dayfly" "$R/tmp/dayfly"
sudo chown "$(id -un)" "$R/opt/dayfly" "$R/tmp/dayfly"
new=$(mktemp -d "$R/opt/dayfly/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
tar -xzf - -C "$new"
"""
    + _KIT
)


def interpreter_of(environment: str) -> str:
    """The Python of an environment, as a shell on the VM finds it."""
    return f"${{DAYFLY_ROOT}}/opt/dayfly/env/{environment}/venv/bin/python"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be done on a VM: a script for ``/bin/sh`` and its standard input.

    Secrets are in ``stdin`` only, never in ``script``, which others on the VM may see.
    """

    script: str
    stdin: bytes


class Installation(Plan, frozen=True, kw_only=True):
    """One service, ready to be installed."""

    service: Service


def installation(
    service: Service,
    config: MasterConfig | WorkerConfig,
    package: Package,
    *,
    runtime: str,
    mark: str,
    kit: Order | None = None,
    login: str = "",
    arm: DismantlePolicy | None = None,
    timeout: float = 60.0,
) -> Installation:
    """Make the installation of a service.

    Args:
        service: Which one.
        config: What it reads at its start.
        package: The dayfly to install.
        runtime: The interpreter for the service, where there is no ``kit``.
        mark: Two installations with the same mark are the same one.
        kit: The environment to be had first, in whose interpreter the service runs.
        login: ``user:password`` that a worker's sshd is to accept; empty: keys only.
        arm: Also arm the VM's own deadline, on a VM whose user-data is not ours.
        timeout: Seconds to wait for another client's installation.
    """
    arm_line = ""
    if arm is not None:
        arm_line = f"sudo sh <<'DAYFLY_ARM'\n{arm_deadline(arm)}DAYFLY_ARM"
    script = _INSTALL.substitute(
        service=service,
        digest=package.digest,
        mark=f"{package.digest} {mark} {kit.key if kit else runtime}",
        kit=_KIT if kit else "",
        logins=_LOGINS if service == "worker" else "",
        arm=arm_line,
        timeout=max(1, round(timeout)),
    )
    interpreter = interpreter_of(kit.key) if kit else runtime
    unit = _UNIT.substitute(service=service, digest=package.digest, python=interpreter)
    files = {f"package/{name}": content for name, content in package.files.items()}
    files["config.json"] = msgspec.json.encode(config)
    files["unit"] = unit.encode()
    if kit is not None:
        files |= _kit_of(kit)
    if login:
        files["password"] = f"{login}\n".encode()
    return Installation(service=service, script=script, stdin=pack(files))


def ahead(order: Order) -> Plan:
    """Make the installation of an environment, whose service comes later."""
    return Plan(script=_AHEAD, stdin=pack(_kit_of(order)))


def _kit_of(order: Order) -> dict[str, bytes]:
    return {"order.json": order.encode(), "kit.pyz": program()}


def pack(files: Mapping[str, bytes]) -> bytes:
    """Files as a compressed tar archive, for their owner alone."""
    buffer = io.BytesIO()
    # The fastest level: the archive crosses one connection once, and VMs boot meanwhile.
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o600
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
