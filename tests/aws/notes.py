"""Notes for tests: they outlive the cloud that wrote them, as those in storage do."""

from __future__ import annotations


class MemoryNotes:
    """Notes in a mapping.

    Attributes:
        kept: Name -> note.
        writes: Names that were claimed, in order.
    """

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.writes: list[str] = []

    async def claim(self, name: str, note: bytes) -> bytes:
        self.writes.append(name)
        return self.kept.setdefault(name, note)

    async def read(self, name: str) -> bytes | None:
        return self.kept.get(name)
