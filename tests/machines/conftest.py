"""Machine tests take ``box``, or one of the others where less is enough (docs/machines.md)."""

from __future__ import annotations

from tests.machines.fixtures import (
    aws,
    box,
    index,
    module_box,
    run,
    shared_box,
    trixie,
    trodden,
    warm_box,
)

__all__ = [
    "aws",
    "box",
    "index",
    "module_box",
    "run",
    "shared_box",
    "trixie",
    "trodden",
    "warm_box",
]
