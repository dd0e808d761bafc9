"""How the calls of a job are made: the keywords of ``map``, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dayfly.errors import UsageError


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the keywords of ``map`` say of its calls.

    Attributes:
        environment: Variables of every call.
        chunksize: Calls handed out together; 0 for as the master sees fit.
        timeout: Seconds that one call may run; ``None`` for no limit.
        retries: How many more times a call that fails is run.
        include: Local modules to ship beside those that are found.
        exclude: Local modules not to ship.
        single: Whether awaiting the job gives the value of its one call, and not a list.
        return_exceptions: Whether failed calls give their exception as result.
        detach: Whether the job runs to its end when its client goes.
    """

    environment: dict[str, str] = {}
    chunksize: int = 0
    timeout: float | None = None
    retries: int = 0
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    single: bool = False
    return_exceptions: bool = False
    detach: bool = False


def call_options(
    extra_env: Mapping[str, str] | None,
    chunksize: int,
    timeout: float | None,
    retries: int,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    *,
    single: bool = False,
    return_exceptions: bool = False,
    detach: bool = False,
) -> CallOptions:
    """Check the keywords of a ``map``.

    Raises:
        UsageError: It names the keyword, and what is allowed.
    """
    environment = dict(extra_env or {})
    for name, value in environment.items():
        if not all(isinstance(each, str) for each in (name, value)):
            raise UsageError(
                f"extra_env must map strings to strings, and has {name!r}: {value!r}",
                hint=f"extra_env={{{str(name)!r}: {str(value)!r}}}",
            )
    if type(chunksize) is not int or chunksize < 0:
        raise UsageError(
            f"chunksize must be a whole number of calls, not {chunksize!r}",
            hint="leave it out, and the master sizes what it hands out",
        )
    if timeout is not None and not (type(timeout) in (int, float) and timeout > 0):
        raise UsageError(
            f"timeout must be a positive number of seconds, not {timeout!r}",
            hint="leave it out for no limit per call",
        )
    if type(retries) is not int or retries < 0:
        raise UsageError(
            f"retries must be a whole number of further tries, not {retries!r}",
            hint="retries=2 runs a call that fails up to three times",
        )
    for names in (include, exclude):
        if isinstance(names, str):
            raise UsageError(
                f"modules are given as a list of names, not as {names!r}", hint=f"[{names!r}]"
            )
    return CallOptions(
        environment=environment,
        chunksize=chunksize,
        timeout=timeout,
        retries=retries,
        include=include,
        exclude=exclude,
        single=single,
        return_exceptions=return_exceptions,
        detach=detach,
    )
