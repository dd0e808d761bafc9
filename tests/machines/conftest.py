"""Machine tests take ``box``, or only a part of what it is made of."""

from __future__ import annotations

from tests.machines.fixtures import aws, box, index, run, trixie

__all__ = ["aws", "box", "index", "run", "trixie"]
