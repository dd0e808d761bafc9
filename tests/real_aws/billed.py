"""An executor whose jobs are booked."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, TypeVar

from dayfly import FunctionExecutor, Job
from tests.real_aws.ledger import Ledger

R = TypeVar("R")


class BilledExecutor(FunctionExecutor):
    """Books its jobs when it is left."""

    def __init__(self, ledger: Ledger, **keys: Any) -> None:
        super().__init__(**keys)
        self._ledger = ledger
        self._begun: list[Job[Any]] = []

    def map(
        self,
        fn: Callable[..., R],
        iterdata: Iterable[Any] | AsyncIterable[Any],
        **options: Any,
    ) -> Job[list[R]]:
        job = super().map(fn, iterdata, **options)
        self._begun.append(job)
        return job

    async def aclose(self) -> None:
        await super().aclose()
        begun, self._begun = self._begun, []
        for job in begun:
            self._ledger.job(job.cost)
