"""What will be done in a round, and when: drawn from its seed alone, without I/O.

Real processes are not deterministic: the same plan meets other moments each time it is carried
out. What a seed repeats is the choices.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["kill", "stop", "long stop", "cut", "drop", "notice"]
Victim: TypeAlias = Literal[
    "client",
    "master service",
    "master vm",
    "worker service",
    "worker vm",
    "runner",
    "consumed vm",
    "tunnel",
    "agent link",
    "ssh",
]
#: How a program waits for its results (client_program.py); ``slow`` reads its items slowly.
Style: TypeAlias = Literal["completed", "list", "futures", "slow", "submits", "reduce"]
Mode: TypeAlias = Literal["reuse", "create", "consume"]
Moment: TypeAlias = Literal["begun", "launched", "at work"]
#: ``clean``: the user cleans up. ``timers``: all are gone but the timers. ``abandoned``: the
#: clients are killed in mid-job and never come back.
Ending: TypeAlias = Literal["clean", "timers", "abandoned"]

#: Who may be struck how. A silence is noticed after 15 s and a worker is given up 5 s later
#: (HEARTBEAT in wire/link.py, COMEBACK in master/fleet.py): long stops outlast both.
SHORT, LONG = (0.05, 4.0), (16.5, 22.0)
QUICK: tuple[tuple[Kind, Victim], ...] = (
    ("kill", "client"),
    ("kill", "master service"),
    ("kill", "worker service"),
    ("kill", "master vm"),
    ("kill", "worker vm"),
    ("kill", "runner"),
    ("kill", "consumed vm"),
    ("stop", "client"),
    ("stop", "master service"),
    ("stop", "worker service"),
    ("stop", "master vm"),
    ("stop", "worker vm"),
    ("stop", "runner"),
    ("cut", "tunnel"),
    ("cut", "agent link"),
    ("drop", "ssh"),
    ("notice", "worker vm"),
)
SLOW: tuple[tuple[Kind, Victim], ...] = (
    ("long stop", "client"),
    ("long stop", "master service"),
    ("long stop", "worker service"),
    ("long stop", "worker vm"),
    ("long stop", "master vm"),
)
PAIRS = QUICK + SLOW
#: Which seeds begin with a long stop: these rounds take three times as long.
EVERY = 10


@dataclass(frozen=True)
class Call:
    """One call: how long it takes, what it returns, whether it fails."""

    nap: float
    size: int
    fails: bool = False


@dataclass(frozen=True)
class JobPlan:
    """One job of a client.

    Attributes:
        detached: It outlives its client, which attaches to it again in its next run.
    """

    name: str
    mode: Mode
    style: Style
    workers: int
    detached: bool
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class ClientPlan:
    """One program.

    Attributes:
        begins: Seconds into the round.
        returns: Seconds after its death by our hand until it is run again.
    """

    name: str
    begins: float
    returns: float
    jobs: tuple[JobPlan, ...]


@dataclass(frozen=True)
class Strike:
    """One blow.

    Attributes:
        after: From when on ``delay`` counts.
        lasts: Seconds until what is stopped goes on, or until what was announced happens.
        choice: Which of those who are there, as a fraction.
    """

    kind: Kind
    victim: Victim
    after: Moment
    delay: float
    lasts: float
    choice: float

    def __str__(self) -> str:
        lasts = f" for {self.lasts:.2f} s" if self.lasts else ""
        return f"{self.kind} {self.victim}{lasts}, {self.delay:.2f} s after {self.after}"


@dataclass(frozen=True)
class Plan:
    """A round."""

    seed: int
    clients: tuple[ClientPlan, ...]
    strikes: tuple[Strike, ...]
    ending: Ending
    soft: float
    hard: float
    #: In an abandoned round: whether the master's service is stopped for good, too.
    silenced: bool
    keeps_disks: bool
    spot: bool
    boot_time: float

    @property
    def modes(self) -> set[Mode]:
        """The modes of all jobs."""
        return {job.mode for client in self.clients for job in client.jobs}

    @property
    def patience(self) -> float:
        """Seconds within which every client must have ended, by whatever road.

        An idle machine needs five for the work, and a tenth of this for any recovery.
        """
        return 60.0 + sum(strike.lasts for strike in self.strikes)


def draw(seed: int) -> Plan:
    """Draw a round's plan; any fifty consecutive seeds have every kind of blow among them."""
    chance = random.Random(seed)
    number, slow = divmod(seed, EVERY)
    first = QUICK[seed % len(QUICK)] if slow else SLOW[number % len(SLOW)]
    pairs = [first, *_more(chance)]
    modes = _modes(chance, pairs)
    spot = ("notice", "worker vm") in pairs or chance.random() < 0.2
    ending = _ending(chance, pairs)
    return Plan(
        seed=seed,
        clients=_clients(chance, modes, longer=first in SLOW),
        strikes=tuple(_strike(chance, *pair) for pair in pairs),
        ending=ending,
        soft=round(chance.uniform(1.0, 3.0), 2),
        hard={"clean": 120.0, "timers": 25.0, "abandoned": 9.0}[ending],
        silenced=chance.random() < 0.5,
        keeps_disks=not spot and chance.random() < 0.15,  # a one-time spot VM cannot be stopped
        spot=spot,
        boot_time=round(chance.choice([0.0, 0.0, chance.uniform(0.2, 1.5)]), 2),
    )


def _more(chance: random.Random) -> list[tuple[Kind, Victim]]:
    # Mostly few, so that each is seen alone too; sometimes a storm.
    return chance.choices(QUICK, k=chance.choice([0, 1, 1, 2, 2, 3, 5]))


def _modes(chance: random.Random, pairs: list[tuple[Kind, Victim]]) -> set[Mode]:
    """The modes of the jobs: those whose VMs are to be struck must be there."""
    modes: set[Mode] = set(chance.choice([("reuse",), ("create",), ("reuse", "create")]))
    victims = {victim for _, victim in pairs}
    if "consumed vm" not in victims:
        return modes | {"consume"} if chance.random() < 0.15 else modes
    if victims & {"worker vm", "master vm"} or chance.random() < 0.5:
        return modes | {"consume"}
    return {"consume"}


def _clients(chance: random.Random, modes: set[Mode], *, longer: bool) -> tuple[ClientPlan, ...]:
    wanted = sorted(modes) + chance.choices(sorted(modes), k=chance.choice([0, 0, 1]))
    count = min(len(wanted), chance.choice([1, 2]))
    jobs = [_job(chance, f"job-{n}", mode, longer=longer) for n, mode in enumerate(wanted)]
    return tuple(
        ClientPlan(
            name=f"client-{number}",
            begins=round(number * chance.uniform(0.0, 1.5), 2),
            returns=round(chance.uniform(0.0, 2.5), 2),
            jobs=tuple(jobs[number::count]),
        )
        for number in range(count)
    )


def _job(chance: random.Random, name: str, mode: Mode, *, longer: bool) -> JobPlan:
    style: Style = chance.choice(get_args(Style))
    submits = style == "submits"
    count = chance.randint(2, 2 if mode == "create" else 5) if submits else chance.randint(20, 150)
    # Seconds of work, for one process: workers have two each.
    most = chance.uniform(0.2, 1.0) * count if submits else chance.uniform(2.0, 6.0)
    weights = [chance.random() for _ in range(count)]
    large = chance.random() < 0.25
    fails = style != "reduce" and chance.random() < 0.3
    calls = tuple(
        Call(
            nap=round(weight / sum(weights) * most * (2 if longer else 1), 4),
            size=100_000 if large and chance.random() < 0.2 else 32,
            fails=fails and chance.random() < 0.1,
        )
        for weight in weights
    )
    # One whose items are still being read goes with its client, and the others have no handle.
    detached = style in {"completed", "list", "futures"} and chance.random() < 0.4
    return JobPlan(name, mode, style, chance.choice([1, 1, 2]), detached, calls)


def _strike(chance: random.Random, kind: Kind, victim: Victim) -> Strike:
    lasts = {
        "stop": chance.uniform(*SHORT),
        "long stop": chance.uniform(*LONG),
        "drop": chance.uniform(1.0, 3.0),
        "notice": chance.uniform(0.2, 5.0),
    }.get(kind, 0.0)
    after: Moment = chance.choice(["begun", "launched", "at work", "at work", "at work"])
    if victim == "runner" or kind == "long stop":
        after = "at work"
    delay = chance.uniform(0.0, 1.0) * (0.3 if kind == "long stop" else chance.choice([0.3, 1, 2]))
    return Strike(kind, victim, after, round(delay, 3), round(lasts, 3), chance.random())


def _ending(chance: random.Random, pairs: list[tuple[Kind, Victim]]) -> Ending:
    if any(kind == "long stop" for kind, _ in pairs):
        return "clean"  # the timers of the other endings are shorter than the stop
    drawn = chance.random()
    if drawn < 0.06:
        return "abandoned"
    # The job of a killed client lives on for a minute, unless the hard timer ends it.
    clients = any(victim == "client" and kind == "kill" for kind, victim in pairs)
    return "timers" if drawn < (0.15 if clients else 0.45) else "clean"
