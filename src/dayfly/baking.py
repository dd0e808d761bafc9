"""What a VM is told so that it becomes a machine image: texts for ``/bin/sh``, and their input.

The road is that of every master and worker (:mod:`dayfly.bootstrap`), without the services, and
with what makes one VM differ from another taken away in the end.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from string import Template
from typing import Final

import msgspec

from dayfly.bootstrap import Package, interpreter_of, pack
from dayfly.environment.program import program
from dayfly.errors import UsageError

#: Where all that is only needed for the building lies.
_WORK: Final = "${DAYFLY_ROOT:-}/var/tmp/dayfly-build"
#: Bytes that are sent at once.
_BLOCK: Final = 8 << 20

#: What cloud-init still does at a first boot would else be done to a half-made image.
SETTLE: Final = """if command -v cloud-init >/dev/null; then
  timeout 300 cloud-init status --wait >/dev/null 2>&1 || true
fi
"""

_LAY = Template("""set -eu
umask 077
R="$${DAYFLY_ROOT:-}"; me=$$(id -un)
sudo mkdir -p "$$R/opt/dayfly" "$$R/tmp/dayfly"
sudo chown "$$me" "$$R/opt/dayfly" "$$R/tmp/dayfly"
work="$work"
rm -rf "$$work"; mkdir -p -m 0700 "$$work"
tar -xzf - -C "$$work"
[ -d "$$R/opt/dayfly/$digest" ] || mv "$$work/package" "$$R/opt/dayfly/$digest"
""")


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A script for ``/bin/sh``, and its standard input."""

    script: str
    stdin: bytes = b""


def lay(package: Package) -> Text:
    """Put dayfly itself where every installation looks for it first, and the kit beside it."""
    files = {f"package/{name}": content for name, content in package.files.items()}
    files["kit.pyz"] = program()
    return Text(script=_LAY.substitute(work=_WORK, digest=package.digest), stdin=pack(files))


#: Its input is an :class:`~dayfly.environment.order.Order`; what it says is for
#: :mod:`dayfly.environment.report`.
KIT: Final = f'exec python3 -I "{_WORK}/kit.pyz"'


_COMPILE = Template("""R="$${DAYFLY_ROOT:-}"
for python in $pythons; do
  "$$python" -I -m compileall -q -j 0 "$${python%/bin/python}/lib" >/dev/null 2>&1
done
"$first" -I -m compileall -q -j 0 "$$R/opt/dayfly/$digest" >/dev/null 2>&1
exit 0
""")


def compile_all(package: Package, environments: Sequence[str]) -> str:
    """Have Python compile once what else each VM would compile at its first import.

    Args:
        package: dayfly itself.
        environments: Keys; dayfly's own first.
    """
    pythons = [f'"{interpreter_of(key)}"' for key in environments]
    return _COMPILE.substitute(
        pythons=" ".join(pythons), first=interpreter_of(environments[0]), digest=package.digest
    )


# -- what the user brings --


class Include(msgspec.Struct, frozen=True, kw_only=True):
    """A file or a folder of this machine, and where it goes.

    Attributes:
        source: Here.
        target: Its absolute path there.
    """

    source: Path
    target: PurePosixPath


def parse_include(text: str) -> Include:
    """Understand ``SRC:DST``; a DST that ends in a slash is the folder that SRC goes into.

    Raises:
        UsageError: It is nothing of the kind, or there is no SRC.
    """
    source, colon, target = text.rpartition(":")
    if not colon or not source or not target.startswith("/"):
        raise UsageError(
            f"--include {text}: this is not SRC:DST with an absolute DST",
            hint="--include model.bin:/opt/model.bin",
        )
    path = Path(source).expanduser()
    if not path.is_file() and not path.is_dir():
        raise UsageError(
            f"--include {text}: there is no file or folder {path}",
            hint="SRC is a path on this machine",
        )
    place = PurePosixPath(target)
    if target.endswith("/"):
        place /= path.resolve().name
    if ".." in place.parts or place == PurePosixPath("/"):
        raise UsageError(f"--include {text}: {place} cannot be replaced", hint="name a folder")
    return Include(source=path, target=place)


#: Takes a block of an archive; the first one begins it.
TAKE_FIRST: Final = f'cat >"{_WORK}/include.tar"'
TAKE_MORE: Final = f'cat >>"{_WORK}/include.tar"'
#: Root owns what comes; folders that are there, and links to such, stay as they are.
UNPACK: Final = (
    'R="${DAYFLY_ROOT:-}"; sudo tar -xpf "' + _WORK + '/include.tar" -C "$R/" --no-same-owner '
    f'--no-overwrite-dir --keep-directory-symlink && rm "{_WORK}/include.tar"'
)


class _Blocks(io.RawIOBase):
    """What an archive is written to, and taken from in blocks."""

    def __init__(self) -> None:
        self.held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self.held += view
        return view.nbytes


def archive(include: Include) -> Iterator[bytes]:
    """An include as a tar archive, some megabytes at a time.

    Raises:
        OSError: It cannot be read.
    """
    source, name = include.source.resolve(), include.target.relative_to("/")
    held = _Blocks()
    with tarfile.open(fileobj=held, mode="w|", bufsize=_BLOCK) as tar:
        tar.add(source, str(name), recursive=False)
        for path in sorted(source.rglob("*")) if source.is_dir() else ():
            tar.add(path, str(name / path.relative_to(source)), recursive=False)
            if held.held:
                yield bytes(held.held)
                held.held.clear()
    yield bytes(held.held)


#: The user's script, from standard input; as root, as itself (by its first line), with no input.
RUN_SCRIPT: Final = f"""set -eu
file="{_WORK}/script"
cat >"$file"
chmod 0700 "$file"
cd /
sudo env DEBIAN_FRONTEND=noninteractive "$file" </dev/null 2>&1
"""

# Nothing that one VM has may be found on another one: user-data holds the builder's own host
# key, machine-id and random-seed make machines differ. dayfly's unit is deleted and its deadline
# runs on, since nobody tells systemd. What comes after that is logged nowhere that lasts.
_CLEAN = r"""set -eu
R=$1
rm -rf "$R/var/tmp/dayfly-build" "$R/etc/dayfly" "$R/var/lib/dayfly" "$R/opt/dayfly/uv-cache" \
  "$R/opt/dayfly/deadline.sh" "$R"/opt/dayfly/new.* "$R"/opt/dayfly/env/*/log \
  "$R"/opt/dayfly/env/*/lock "$R"/etc/systemd/system/dayfly-*.service \
  "$R/etc/ssh/sshd_config.d/00-dayfly.conf"
if [ -z "$R" ]; then
  for unit in rsyslog.service syslog.socket systemd-random-seed.service; do
    systemctl stop "$unit" 2>/dev/null || true
  done
  if command -v apt-get >/dev/null; then apt-get clean || true; fi
  journalctl --relinquish-var >/dev/null 2>&1 || true
fi
for each in "$R"/var/lib/cloud/*; do
  case ${each##*/} in seed | scripts) ;; *) rm -rf "$each" ;; esac
done
sed -i '/^HostCertificate .*\/ssh_host_/d' "$R"/etc/ssh/sshd_config \
  "$R"/etc/ssh/sshd_config.d/*.conf 2>/dev/null || true
rm -f "$R"/etc/ssh/ssh_host_*
for home in "$R"/root "$R"/home/*; do
  rm -rf "$home"/.ssh/authorized_keys "$home"/.ssh/authorized_keys2 "$home"/.bash_history \
    "$home"/.ash_history "$home"/.zsh_history "$home"/.python_history "$home"/.lesshst \
    "$home"/.viminfo "$home"/.wget-hsts "$home"/.sudo_as_admin_successful
done
rm -rf "$R"/var/lib/apt/lists/* "$R"/var/cache/apt/*.bin "$R"/var/log/journal/* \
  "$R"/var/lib/systemd/random-seed "$R"/var/lib/systemd/credential.secret \
  "$R"/var/lib/dhcp/* "$R"/var/lib/NetworkManager/secret_key "$R"/var/crash/*
find "$R/var/log" -type f \( -name '*.gz' -o -name '*.[0-9]' -o -name '*.old' \) -delete
find "$R/var/log" -type f -exec truncate -s 0 {} +
find "$R/tmp" "$R/var/tmp" -mindepth 1 -maxdepth 1 ! -name 'systemd-private-*' \
  -exec rm -rf {} +
[ -L "$R/var/lib/dbus/machine-id" ] || rm -f "$R/var/lib/dbus/machine-id"
: >"$R/etc/machine-id"
sync
"""
#: After this the VM takes no new SSH connection.
CLEAN: Final = Text(
    script='exec sudo sh -s -- "${DAYFLY_ROOT:-}"',
    stdin=_CLEAN.encode(),
)
