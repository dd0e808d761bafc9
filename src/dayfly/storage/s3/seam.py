"""What the steps of making and judging a bucket need of it."""

from __future__ import annotations

from typing import Any, Final, Protocol

from dayfly.model import StorageConfig

#: How often something is said again by us: a put that met another, a stream that broke.
TRIES: Final = 6


class Door(Protocol):
    """The part of :class:`~dayfly.storage.s3.bucket.Bucket` that sends requests."""

    region: str

    async def place(self) -> StorageConfig:
        """Where it is and whose."""
        ...

    async def send(
        self, operation: str, key: str = "", *, checked: bool = True, **more: Any
    ) -> dict[str, Any]:
        """Send a request, as it is."""
        ...

    async def pause(self, attempt: int) -> None:
        """Wait before the next attempt."""
        ...
