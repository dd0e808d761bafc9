"""What the tests of the EC2 backend share: a clock that tests turn, and an account that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from dayfly.aws.session import Aws
from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.limits import Limits

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]


class TurnedClock:
    """A clock that a sleep turns forward at once."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return 1_700_000_000.0 + self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class Fixed:
    """Chance that always draws the same."""

    def __init__(self, fraction: float = 0.5) -> None:
        self._fraction = fraction

    def hex(self, count: int) -> str:
        return "0" * count

    def fraction(self) -> float:
        return self._fraction


class AnsweringAws(Aws):
    """An account whose services answer what a test says."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("us-east-1")
        self.answer = answer
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def client(self, service: str, *, repeat: bool = True, region: str = "") -> Any:
        return _Client(self)


class _Client:
    def __init__(self, aws: AnsweringAws) -> None:
        self._aws = aws
        shape = SimpleNamespace(members={"MaxResults": None, "NextToken": None})
        model = SimpleNamespace(operation_model=lambda name: SimpleNamespace(input_shape=shape))
        self.meta = SimpleNamespace(service_model=model)

    def __getattr__(self, operation: str) -> Any:
        async def call(**parameters: Any) -> dict[str, Any]:
            self._aws.calls.append((operation, parameters))
            await asyncio.sleep(0)
            return self._aws.answer(operation, parameters)

        return call


def refusal(code: str, message: str = "", status: int = 400) -> ClientError:
    """An error as botocore raises it."""
    about = {"HTTPStatusCode": status}
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": about}, "Operation"
    )


def new_api(
    answer: Answer, *, clock: TurnedClock | None = None, told: list[str] | None = None
) -> Ec2Api:
    """An API on an account that answers what a test says, with buckets of its own."""
    return Ec2Api(
        AnsweringAws(answer),
        clock=clock or TurnedClock(),
        entropy=Fixed(),
        told=(told if told is not None else []).append,
        limits=Limits(),
    )


def calls_of(api: Ec2Api) -> list[str]:
    """The operations that were called, in order."""
    assert isinstance(api.aws, AnsweringAws)
    return [operation for operation, _ in api.aws.calls]
