"""Files of the user's, which objects are made from and written to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dayfly.errors import StorageError


@contextlib.contextmanager
def users_file(verb: str, path: str | Path) -> Iterator[None]:
    """Map what goes wrong with a file of the user's.

    Args:
        verb: What was to be done to it: ``read`` or ``written``.
        path: Which one.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the file {path} could not be {verb}",
            cause=str(error.strerror or error),
            hint=f"ls -ld {Path(path).parent if verb == 'written' else path}",
        ) from error
