"""Steps that are taken at once, and the errors that are gone when one looks again.

What is made here is found by its tags before it is made, so a step that failed because
somebody else was faster, or because EC2 does not know yet what it has just made, or did not
answer, needs no remedy of its own: look again, and go on from what there is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from dayfly.cloud.ec2.api import Ec2Api, backoff, meaning, message_of
from dayfly.cloud.ec2.reactions import Kind
from dayfly.errors import ApiError, CloudError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds within which EC2 knows everywhere what it has made (its developer guide, "Eventual
#: consistency": up to minutes; in practice seconds), and a race with other clients is over.
PATIENCE: Final = 60.0

#: Somebody else was faster.
_RACED: Final = frozenset(
    {
        "InvalidGroup.Duplicate",
        "InvalidPermission.Duplicate",
        "InvalidSubnet.Conflict",
        "Resource.AlreadyAssociated",
        "RouteAlreadyExists",
        "DependencyViolation",
        "IncorrectState",
    }
)


def passes(error: CloudError) -> bool:
    """Whether an error is gone when one looks again and goes on from there."""
    if isinstance(error, ApiError):
        if error.code in _RACED or error.code.endswith(".NotFound"):
            return True
        if "already has an internet gateway" in message_of(error):  # an InvalidParameterValue
            return True
    return meaning(error).kind is Kind.UNKNOWN


async def persist(api: Ec2Api, step: Callable[[], Awaitable[T]], patience: float = PATIENCE) -> T:
    """Take a step that looks before it makes anything, until no passing error stops it.

    Raises:
        CloudError: The last error, when ``patience`` seconds are over; any other one at once.
    """
    by = api.clock.monotonic() + patience
    attempt = 0
    while True:
        try:
            return await step()
        except CloudError as error:
            pause = backoff(attempt, api.entropy.fraction())
            if not passes(error) or api.clock.monotonic() + pause > by:
                raise
            log.debug("again in %.1f s: %s", pause, error)
        attempt += 1
        await api.clock.sleep(pause)


async def together(*steps: Awaitable[Any]) -> list[Any]:
    """Take steps at once and wait for all, so that none is cut short by another's failure.

    Raises:
        Exception: That of the first step in order that failed.
    """
    ends = await asyncio.gather(*steps, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return ends
