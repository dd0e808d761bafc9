"""What ran, and when: to tell whether two runs were one and the same."""

from __future__ import annotations

import hashlib
from collections import Counter


class Diary:
    """The names of the steps in their order, and each time that they came to.

    Attributes:
        lines: What was not taken down yet; the loop appends to it.
        record: All lines from the beginning, if they are kept: to see where two runs part.
    """

    def __init__(self, *, recorded: bool) -> None:
        self.lines: list[str] = []
        self.record: list[str] | None = [] if recorded else None
        self._hash = hashlib.blake2b(digest_size=16)

    def take_down(self) -> None:
        """Put the lines so far into the digest, and forget them."""
        if self.lines:
            self._hash.update("\n".join([*self.lines, ""]).encode())
            if self.record is not None:
                self.record += self.lines
            self.lines.clear()

    def digest(self) -> str:
        """A short text that is the same after every equal run, in whatever process."""
        self.take_down()
        return self._hash.hexdigest()

    def busiest(self) -> str:
        """Of what most of the last steps were."""
        often = Counter(line for line in self.lines if not line.startswith("@"))
        return ", ".join(f"{name} ({count})" for name, count in often.most_common(5))
