"""The accounts' passwords on an embedded VM: ``chpasswd`` writes their hashes, sshd asks.

A line of ``/etc/shadow`` is ``NAME:$scrypt$ln=14,r=8,p=1$SALT$HASH`` (the format of PHC strings).
It runs by its path, as ctl.py does, on the standard library alone.
"""

import base64
import hashlib
import hmac
import os
import sys
from collections.abc import Iterable
from pathlib import Path

#: Where it lies, relative to the VM's root.
SHADOW = "etc/shadow"
#: Cost of one guess: 16 MiB and some 50 ms. Source: RFC 7914, section 2.
_COST = {"n": 2**14, "r": 8, "p": 1}
_SCHEME = "$scrypt$ln=14,r=8,p=1$"


def is_password(root: Path, account: str, password: str) -> bool:
    """Whether an account has this password; one without a password has none that is right."""
    kept = _read(root).get(account, "")
    salt, _, _ = kept.removeprefix(_SCHEME).partition("$")
    return hmac.compare_digest(kept.encode(), _hash(password, salt).encode())


def set_passwords(root: Path, lines: Iterable[str]) -> None:
    """Set passwords, one ``NAME:PASSWORD`` per line, as chpasswd(8) does: all of them or none.

    Raises:
        ValueError: A line is not of that form; the message gives its number, not its text.
    """
    kept = _read(root)
    for number, line in enumerate(lines, start=1):
        account, colon, password = line.partition(":")
        if not (account and colon and password):
            raise ValueError(f"line {number}: not NAME:PASSWORD")
        kept[account] = _hash(password, _text(os.urandom(16)))
    shadow = root / SHADOW
    draft = shadow.with_name(f"shadow.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text("".join(f"{account}:{hashed}\n" for account, hashed in kept.items()))
    draft.replace(shadow)


def _read(root: Path) -> dict[str, str]:
    shadow = root / SHADOW
    lines = shadow.read_text().splitlines() if shadow.exists() else []
    return {account: hashed for account, _, hashed in (line.partition(":") for line in lines)}


def _hash(password: str, salt: str) -> str:
    hashed = hashlib.scrypt(password.encode(), salt=salt.encode(), **_COST)
    return f"{_SCHEME}{salt}${_text(hashed)}"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def main() -> int:
    """Read standard input as ``chpasswd`` does."""
    try:
        set_passwords(Path(sys.argv[1]), sys.stdin.read().splitlines())
    except ValueError as error:
        sys.stderr.write(f"chpasswd: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
