"""A job's results, as they are written to a file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.errors import CallError, SerializationError
from dayfly.storage.userfiles import users_file

if TYPE_CHECKING:
    from dayfly.serialize import Outcome


def in_order(outcomes: list[Outcome], total: int, missing: str) -> list[Any]:
    """The results in the order of the items; a call that failed gives its exception.

    Args:
        outcomes: What came, in any order.
        total: Calls in all.
        missing: Why the other calls have none.
    """
    results: list[Any] = [CallError(f"call {i} has no outcome: {missing}") for i in range(total)]
    for outcome in outcomes:
        results[outcome.index] = outcome.value if outcome.error is None else outcome.error
    return results


def in_json(results: list[Any]) -> bytes:
    """The list as JSON; a call that failed gives ``{"error": TYPE, "message": TEXT}``.

    Raises:
        SerializationError: A value is nothing that JSON has; the message names its index.
    """
    texts = []
    for index, value in enumerate(results):
        shown = value
        if isinstance(value, Exception):
            shown = {"error": type(value).__name__, "message": str(value)}
        try:
            texts.append(json.dumps(shown, allow_nan=False, ensure_ascii=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(
                f"the result of call {index} cannot be written as JSON",
                cause=str(error),
                hint="leave out --json: a pickle holds it as it is",
            ) from error
    lines = ",\n".join(f"  {text}" for text in texts)
    return f"[\n{lines}\n]\n".encode() if texts else b"[]\n"


def save(path: Path, data: bytes) -> None:
    """Write a file as a whole, or not at all; only this user can read it.

    Raises:
        StorageError: It cannot be written.
    """
    with users_file("written", path):
        # 0600, under a name that nobody can have put in its place.
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
