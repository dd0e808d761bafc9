"""What a round must have come to. Facts in, violations out; no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dayfly.master.scheduler import ROUNDS
from dayfly.master.suspects import CONVICTED
from tests.chaos.client_program import answer, together, told
from tests.chaos.plan import ClientPlan, JobPlan, Kind, Plan, Victim

Blow = tuple[Kind, Victim]

#: Blows that end a worker, or keep it from ever beginning.
ENDS_WORKERS: frozenset[Blow] = frozenset(
    {
        ("kill", "worker service"),
        ("kill", "worker vm"),
        ("kill", "consumed vm"),
        ("notice", "worker vm"),
        ("long stop", "worker vm"),
    }
)
#: Errors that a user may rightly be given: after so many of these blows, and no others. The
#: process of a call was killed: that is said of this one call. As many workers as a job is
#: patient with have ended before they had begun. Whatever else is struck comes back or is
#: replaced, and the timers of a round that is not abandoned are longer than any stop.
ERRORS: dict[str, tuple[int, frozenset[Blow]]] = {
    "CallCrashedError": (1, frozenset({("kill", "runner")})),
    "NoWorkersError": (ROUNDS, ENDS_WORKERS),
}
#: Blows after which a call may rightly be run again: its worker was lost, or was silent for
#: so long that it was given up.
LOSES_WORKERS: frozenset[Blow] = frozenset(
    {
        *ENDS_WORKERS,
        ("kill", "master vm"),
        ("kill", "master service"),
        ("long stop", "worker service"),
        ("long stop", "master service"),
        ("long stop", "master vm"),
    }
)


@dataclass
class Life:
    """One run of a client.

    Attributes:
        killed: Whether it died by our hand.
        status: Its exit status; ``None`` when it had to be ended because it hung.
        lines: What it wrote.
        complaints: What it should not have printed.
    """

    client: str
    number: int
    killed: bool
    status: int | None
    lines: list[dict[str, Any]]
    complaints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.client}, run {self.number}"


@dataclass
class Facts:
    """What was seen of a round.

    Attributes:
        blows: Those that hit somebody.
        started: Each start of a call, as the calls signed in.
        left: What should not be left, in words.
        complaints: Tracebacks in the services' logs.
    """

    plan: Plan
    lives: list[Life]
    blows: list[Blow]
    started: list[dict[str, Any]]
    left: list[str]
    complaints: list[str]


def judge(facts: Facts) -> list[str]:
    """All that is wrong, each as one line."""
    found = [*_lives(facts), *_again(facts), *_forgotten(facts)]
    found += [f"left behind: {text}" for text in facts.left]
    return found + [f"a service complains: {text}" for text in facts.complaints]


def run_again(facts: Facts) -> int:
    """Starts of calls beyond the first of each."""
    return sum(count - 1 for count in _starts(facts).values())


def _starts(facts: Facts) -> Counter[tuple[str, str, int]]:
    return Counter((line["life"], line["job"], line["index"]) for line in facts.started)


def _again(facts: Facts) -> Iterator[str]:
    if LOSES_WORKERS & set(facts.blows):
        return
    again = {call: count for call, count in _starts(facts).items() if count > 1}
    if again:
        yield f"calls were run again though no worker was struck: {dict(list(again.items())[:5])}"


def _lives(facts: Facts) -> Iterator[str]:
    plans = {client.name: client for client in facts.plan.clients}
    last = {life.client: life for life in facts.lives}
    crashes: set[tuple[str, str, str]] = set()  # told to each run of a client that asks
    for life in facts.lives:
        for job in plans[life.client].jobs:
            wrong, errors = _received(life, job)
            yield from wrong
            # Futures tell the error of their job, too, and that is judged once.
            of_job = {end["ended"] for end in _ends(life, job)}
            for (error, text), count in Counter(errors).items():
                meant = _allowed(error, facts) or _convicted(text, facts)
                if error not in of_job and not meant:
                    yield f"{life}, {job.name}: {count} calls failed by {error}: {text}"
            crashes |= {
                (life.client, job.name, text)
                for error, text in errors
                if error == "CallCrashedError" and not _convicted(text, facts)
            }
        if not life.killed:
            yield from (f"{life}: {text}" for text in life.complaints)
    allowed = facts.blows.count(("kill", "runner"))
    if len(crashes) > allowed:
        yield f"{len(crashes)} calls are said to have crashed, and {allowed} runners were killed"
    if facts.plan.ending != "abandoned":
        for name, client in plans.items():
            yield from _finished(last[name], client, facts) if name in last else [f"{name}: no run"]


def _convicted(text: str, facts: Facts) -> bool:
    """Whether a call was rightly given up that was on each of many workers that we ended."""
    ended = sum(blow in ENDS_WORKERS for blow in facts.blows)
    return ended >= CONVICTED and "it was in the hands of" in text


def _allowed(error: str, facts: Facts) -> bool:
    needed, blows = ERRORS.get(error, (0, frozenset()))
    return needed > 0 and sum(blow in blows for blow in facts.blows) >= needed


def _forgotten(facts: Facts) -> Iterator[str]:
    """Detached jobs of which something had come before, and which nobody knew afterwards."""
    heard = {
        (life.client, job, line["id"])
        for life in facts.lives
        for line in life.lines
        if "id" in line and (job := line["job"]) in {o["job"] for o in life.lines if "index" in o}
    }
    for life in facts.lives:
        for line in life.lines:
            if (life.client, line.get("job"), line.get("unknown")) in heard:
                yield f"{life}: {line['job']} was forgotten, though outcomes had come: {line}"


def _received(life: Life, job: JobPlan) -> tuple[list[str], list[tuple[str, str]]]:
    """What is wrong with what came of a job, and the errors of calls that were not meant."""
    wrong, errors = [], []
    lines = [line for line in life.lines if line.get("job") == job.name and "index" in line]
    for index, count in Counter(line["index"] for line in lines).items():
        if count > 1:
            wrong.append(f"{life}, {job.name}: the outcome of call {index} came {count} times")
    for line in lines:
        index = line["index"]
        expected = _expected(job, index)
        if "value" in line:
            if line["value"] != expected:
                wrong.append(f"{life}, {job.name}: call {index} gave something wrong: {line}")
        elif not (line["error"] == "ValueError" and expected is None):
            errors.append((line["error"], line["text"]))
    return wrong, errors


def _expected(job: JobPlan, index: int) -> str | None:
    """What is written down of a call's value; ``None`` when it fails on purpose."""
    if index == -1:
        values = [answer(job.name, number, call.size) for number, call in enumerate(job.calls)]
        return told(together(values))
    call = job.calls[index]
    return None if call.fails else told(answer(job.name, index, call.size))


def _finished(life: Life, client: ClientPlan, facts: Facts) -> Iterator[str]:
    """Whether the last run of a client got everything."""
    if life.status is None:
        yield f"{life}: hung; it had to be ended after {facts.plan.patience:.0f} s"
    elif life.killed:
        yield f"{life}: was killed and not run again"
    elif life.status:
        yield f"{life}: ended with status {life.status}"
    for job in client.jobs:
        yield from _complete(life, job, facts)


def _ends(life: Life, job: JobPlan) -> list[dict[str, Any]]:
    return [line for line in life.lines if line.get("job") == job.name and "ended" in line]


def _complete(life: Life, job: JobPlan, facts: Facts) -> Iterator[str]:
    mine = [line for line in life.lines if line.get("job") == job.name]
    ends = _ends(life, job)
    for end in ends:
        crashed = end["ended"] == "CallCrashedError" and job.style != "reduce"
        # A reduction fails as a call of its map does; no other job fails with one call.
        meant = _allowed(end["ended"], facts) or _convicted(end.get("text", ""), facts)
        if end["ended"] and (crashed or not meant):
            yield f"{life}, {job.name}: failed by {end['ended']}: {end['text']}"
    if not ends and life.status == 0:
        yield f"{life}, {job.name}: it never ended"
    if any(end["ended"] for end in ends):
        return
    wanted = {-1} if job.style == "reduce" else set(range(len(job.calls)))
    missing = wanted - {line["index"] for line in mine if "index" in line}
    if missing and ends:
        yield f"{life}, {job.name}: {len(missing)} outcomes never came: {sorted(missing)[:5]}"
