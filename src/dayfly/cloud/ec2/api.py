"""The one place of this room that talks to AWS: every call is limited, bounded and repeated here.

What may be repeated is repeated here and not by botocore, which would ask a pool that is
exhausted (HTTP 500) again and again, and would do so behind the limiter's back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from dayfly.aws.errors import in_our_words
from dayfly.aws.session import Aws
from dayfly.clock import Clock, Entropy
from dayfly.cloud.ec2.limits import READ_PREFIXES, SHARED, Limits
from dayfly.cloud.ec2.reactions import NO_ANSWER, Kind, Reaction, reaction
from dayfly.errors import ApiError, CloudError, ConfigError, DayflyError, DeniedError

log = logging.getLogger(__name__)

#: Seconds within which a call must have an answer that is not "later"; waiting for the limiter
#: comes on top, since its length is known and told.
DEADLINE: Final = 120.0
#: Seconds of the first and of the longest pause between two attempts, before jitter.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Seconds on top of the limiter's: calls do not reach EC2 evenly, and its clock decides.
MARGIN: Final = 0.25
#: Waits shorter than this are not worth telling.
WORTH_TELLING: Final = 1.0
#: Results per page; EC2's advice, and what parses without blocking the loop for long (a reply
#: of 1,000 instances takes half a second).
PAGE: Final = 100

#: Changes that are the same when they are made twice.
_REPEATABLE: Final = (
    "terminate_instances",
    "stop_instances",
    "start_instances",
    "create_tags",
    "delete_",
    "modify_",
    "cancel_",
)


def say(text: str) -> None:
    """Tell the log, where nobody else wants to know; a warning, which is shown by default."""
    log.warning("%s", text)


class Ec2Api:
    """The operations of AWS that this room uses, by botocore's names.

    Args:
        aws: The account.
        clock: Time.
        entropy: Chance.
        told: Told what is being waited for, in one line.
        limits: The rate limits to keep to; those of the process.
    """

    def __init__(
        self,
        aws: Aws,
        *,
        clock: Clock,
        entropy: Entropy,
        told: Callable[[str], None] = say,
        limits: Limits = SHARED,
    ) -> None:
        self.aws = aws
        self.region = aws.region
        self.clock = clock
        self.entropy = entropy
        self.told = told
        self.limits = limits

    async def call(
        self, operation: str, *, service: str = "ec2", **parameters: Any
    ) -> dict[str, Any]:
        """Make one call, repeating it where that is safe.

        Throttled calls are always repeated. Where the outcome is unknown (HTTP 5xx, a broken
        connection, no answer) those are repeated that change nothing, or nothing a second
        time, or carry a ``ClientToken``; a caller that creates without one looks by tag.

        Args:
            operation: By botocore's name; a literal, so that a test can hold the permissions
                against the calls.
            service: By botocore's name.
            **parameters: The operation's own.

        Raises:
            ConfigError: The credentials or the account will not do.
            DeniedError: A permission is missing.
            ApiError: Any other answer that is an error; ``code`` says which.
            CloudError: AWS could not be asked, or did not answer.
        """
        repeatable = may_repeat(operation, parameters)
        deadline, attempt = 0.0, 0
        client = await self._client(service)
        while True:
            await self._admitted(service, operation, parameters)
            deadline = deadline or self.clock.monotonic() + DEADLINE
            try:
                answer = await self._attempt(client, operation, parameters)
            except CloudError as error:
                meant = meaning(error)
                if meant.kind is not Kind.UNKNOWN:
                    self._settle(operation, parameters, 0)
                if meant.kind is Kind.THROTTLED:
                    now = self.clock.monotonic()
                    self.limits.refused(
                        self.region, _bucket(service, operation), now, again=attempt > 0
                    )
                pause = backoff(attempt, self.entropy.fraction())
                again = meant.kind is Kind.THROTTLED or (
                    meant.kind is Kind.UNKNOWN and repeatable and attempt < _attempts(error)
                )
                if not again or self.clock.monotonic() + pause > deadline:
                    raise in_words(error, meant) from error.__cause__
                doing = "throttles" if meant.kind is Kind.THROTTLED else "does not answer"
            else:
                self._settle(operation, parameters, len(answer.get("Instances", ())))
                return answer
            attempt += 1
            self._tell(f"AWS {doing} {action(operation)}: again in {pause:.0f} s", pause)
            await self.clock.sleep(pause)

    async def pages(
        self, operation: str, *, service: str = "ec2", **parameters: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """Make one call per page, until there is no further one.

        Args:
            operation: By botocore's name; a literal.
            service: By botocore's name.
            **parameters: The operation's own. ``MaxResults`` is added where it is taken, but
                not beside ids, which EC2 refuses.
        """
        more = dict(parameters)
        named = any(
            name.endswith(("Ids", "Names", "InstanceTypes")) and name != "OwnerIds"
            for name in parameters
        )
        if not named and await self._takes(service, operation, "MaxResults"):
            more.setdefault("MaxResults", PAGE)
        while True:
            answer = await self.call(operation, service=service, **more)
            yield answer
            token = answer.get("NextToken")
            if not token:
                return
            more["NextToken"] = token

    async def _takes(self, service: str, operation: str, parameter: str) -> bool:
        client = await self._client(service)
        shape = client.meta.service_model.operation_model(action(operation)).input_shape
        return shape is not None and parameter in shape.members

    async def _admitted(self, service: str, operation: str, parameters: Mapping[str, Any]) -> None:
        count = _launches(operation, parameters)
        wait = self.limits.take(
            self.region, _bucket(service, operation), self.clock.monotonic(), count
        )
        if wait <= 0:
            return
        self._tell(f"EC2's rate limit holds {action(operation)} back: {wait:.0f} s", wait)
        try:
            await self.clock.sleep(wait + MARGIN)
        except asyncio.CancelledError:
            self.limits.give(self.region, count)
            raise

    def _settle(self, operation: str, parameters: Mapping[str, Any], came: int) -> None:
        # Launches that did not happen draw nothing.
        if unused := _launches(operation, parameters) - came:
            self.limits.give(self.region, max(0, unused))

    def _tell(self, text: str, seconds: float) -> None:
        if seconds >= WORTH_TELLING:
            self.told(text)
        else:
            log.debug("%s", text)

    async def _attempt(
        self, client: Any, operation: str, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        with in_our_words(f"AWS did not do {action(operation)}"):
            answer: dict[str, Any] = await getattr(client, operation)(**parameters)
            return answer

    async def _client(self, service: str) -> Any:
        with in_our_words(f"{service} could not be asked"):
            return await self.aws.client(service, repeat=False)


def may_repeat(operation: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a call may be said again when nobody knows whether it was heard."""
    return operation.startswith((*READ_PREFIXES, *_REPEATABLE)) or "ClientToken" in parameters


def backoff(attempt: int, fraction: float) -> float:
    """Seconds before the next attempt: exponential with full jitter.

    Args:
        attempt: How many were repeated before this one.
        fraction: Drawn evenly from [0, 1).
    """
    return fraction * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 10))


def action(operation: str) -> str:
    """An operation by AWS's name: ``run_instances`` -> ``RunInstances``."""
    return "".join(part.capitalize() for part in operation.split("_"))


def message_of(error: ApiError) -> str:
    """What AWS itself said."""
    response = getattr(error.__cause__, "response", {})
    return str(response.get("Error", {}).get("Message", "") or error.cause)


def meaning(error: CloudError) -> Reaction:
    """What an error of :meth:`Ec2Api.call` asks of us."""
    if isinstance(error, ApiError):
        return reaction(error.code, message_of(error), error.status)
    return NO_ANSWER


def in_words(error: CloudError, meant: Reaction) -> DayflyError:
    """An error with what it means to the user, as the class that it is."""
    if not isinstance(error, ApiError) or not meant.words:
        return error
    cause = f"{meant.words}; {error.cause}"
    hint = meant.hint or error.hint
    if meant.kind is Kind.ACCOUNT:
        return ConfigError(error.what, cause=cause, hint=hint)
    if meant.kind is Kind.DENIED:
        # Its own hint names the action, unless the code says more.
        hint = meant.hint if meant.keys else error.hint or meant.hint
        return DeniedError(error.what, code=error.code, status=error.status, cause=cause, hint=hint)
    return ApiError(error.what, code=error.code, status=error.status, cause=cause, hint=hint)


def _attempts(error: CloudError) -> float:
    """How often a call without an answer is repeated: one that was never sent, not for long."""
    names = {kind.__name__ for kind in type(error.__cause__).__mro__}
    if names & {"SSLError", "ProxyConnectionError"}:
        return 0
    return 4 if names & {"EndpointConnectionError", "ConnectTimeoutError"} else float("inf")


def _launches(operation: str, parameters: Mapping[str, Any]) -> int:
    return int(parameters.get("MaxCount", 1)) if operation == "run_instances" else 0


def _bucket(service: str, operation: str) -> str:
    return operation if service == "ec2" else f"{service}:{operation}"
