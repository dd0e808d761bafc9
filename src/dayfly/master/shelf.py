"""Chunks of items at hand: read from the journal when a span of them is handed out."""

from __future__ import annotations

from collections import OrderedDict

from dayfly.master.journal import Journal
from dayfly.wire import messages as m
from dayfly.wire.messages import Span

#: Chunks in memory; inline ones have at most ``INLINE_LIMIT`` bytes of items each.
KEPT = 128


class Shelf:
    """The chunks that were used last."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._chunks: OrderedDict[tuple[str, int], m.Items] = OrderedDict()
        self._latest: dict[str, m.Items] = {}

    def put(self, items: m.Items) -> None:
        """A chunk has just come."""
        self._chunks[items.job, items.start] = items
        if len(self._chunks) > KEPT:
            self._chunks.popitem(last=False)

    def assignment(self, job: str, span: Span) -> m.Assign | None:
        """The message that hands out a span; ``None`` when its items are gone with the job."""
        items = self._find(job, span.start)
        if items is None:
            return None
        first = span.start - items.start
        return m.Assign(
            job=job,
            span=span,
            items=items.data[first : first + span.stop - span.start],
            key=items.key,
            chunk_start=items.start if items.key else 0,
        )

    def forget(self, job: str) -> None:
        """A job is over."""
        self._latest.pop(job, None)
        for key in [key for key in self._chunks if key[0] == job]:
            del self._chunks[key]

    def _find(self, job: str, index: int) -> m.Items | None:
        latest = self._latest.get(job)
        if latest is not None and latest.start <= index < latest.start + latest.count:
            return latest
        for key, items in self._chunks.items():
            if key[0] == job and items.start <= index < items.start + items.count:
                self._chunks.move_to_end(key)
                self._latest[job] = items
                return items
        items_read = self._journal.chunk(job, index)
        if items_read is not None:
            self.put(items_read)
            self._latest[job] = items_read
        return items_read
