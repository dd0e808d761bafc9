"""What the embedded VM's sshd is told by its settings: whether passwords count.

Source: sshd_config(5). Files are read at the start and at a reload; the first value holds.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = "etc/ssh/sshd_config.d"
#: What Ubuntu's images come with.
_IMAGE = ("60-cloudimg-settings.conf", "PasswordAuthentication no\n")


class SshdConfig:
    """The settings as sshd has read them; none before the first :meth:`read`.

    Args:
        root: The VM's disk.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / _FOLDER
        self.passwords = False

    def install(self) -> None:
        """Put the image's own settings on the disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name, text = _IMAGE
        (self._folder / name).write_text(text)

    def read(self) -> None:
        """Read the settings anew."""
        files = sorted(self._folder.glob("*.conf"))
        self.passwords = _first(files, "passwordauthentication") == "yes"


def _first(files: list[Path], keyword: str) -> str:
    for file in files:
        for line in file.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0].lower() == keyword:
                return words[1]
    return ""
