"""What the rules listen for in the product's logs is what the product says there."""

from __future__ import annotations

from pathlib import Path

import dayfly
from tests.simulation.evidence import Evidence


def test_the_product_logs_every_line_that_the_rules_wait_for() -> None:
    sources = [path.read_text() for path in Path(dayfly.__file__).parent.rglob("*.py")]
    heard = Evidence(lambda: 0.0, print).listens_for
    assert len(heard) > 15
    assert [text for text in heard if not any(f'"{text}"' in source for source in sources)] == []
