"""Everything that one seed draws, as one frozen value that prints itself."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from dayfly.model import ExecMode
from tests.simulation.chance import Chance

T = TypeVar("T")

#: How a program asks for the outcomes of a job.
Reading = Literal["await", "as_completed", "futures", "map_reduce", "submit", "attach"]
#: How a program stops a job before its end.
Stop = Literal["", "task", "timeout", "job.cancel", "futures", "leave"]
#: What the items come from.
Source = Literal["list", "generator", "async generator"]
#: What is done once all programs are over.
Ending = Literal["timers", "clean", "clean --all"]

#: Every kind of fault, with the rates between which it is drawn: strikes per opportunity, or
#: per hour of virtual time for those that are :data:`SPONTANEOUS`.
RATES: Mapping[str, tuple[float, float]] = {
    "throttled": (0.002, 0.1),
    "no capacity": (0.03, 0.4),
    "some capacity": (0.05, 0.6),
    "ambiguous launch": (0.1, 0.5),
    "launch lost before": (0.1, 0.6),
    "listing lag": (0.05, 0.5),
    "console empty": (0.1, 0.9),
    "slow boot": (0.05, 0.5),
    "never boots": (0.02, 0.3),
    "ssh hangs": (0.005, 0.2),
    "ssh drops": (0.005, 0.2),
    "storage error": (0.0005, 0.03),
    "slow storage": (0.05, 0.5),
    "storage ambiguous put": (0.003, 0.05),
    "runner crash": (0.005, 0.1),
    "late wake-up": (0.01, 0.3),
    "vm dies": (1.0, 60.0),
    "spot notice": (4.0, 240.0),
    "spot loss": (1.0, 60.0),
    "master service killed": (1.0, 90.0),
    "master vm lost": (1.0, 40.0),
    "master vm stopped": (0.5, 20.0),
    "worker service killed": (1.0, 90.0),
    "client killed": (0.5, 20.0),
    "client asleep": (0.3, 6.0),
    "client paused": (1.0, 30.0),
    "partition": (1.0, 40.0),
    "lease expiry race": (1.0, 40.0),
    "connection reset": (2.0, 120.0),
    "clock step": (1.0, 30.0),
    "journal tail lost": (0.2, 1.0),
}

#: Kinds that no part draws for itself: :mod:`tests.simulation.faults` strikes them in time.
SPONTANEOUS = (
    "vm dies",
    "spot notice",
    "spot loss",
    "master service killed",
    "master vm lost",
    "master vm stopped",
    "worker service killed",
    "client killed",
    "client asleep",
    "client paused",
    "partition",
    "lease expiry race",
    "connection reset",
    "clock step",
)

#: Kinds that the programs bring along; they are counted with the others.
OF_PROGRAMS = ("cancel", "two clients", "poisonous call")

#: Vms of the fixed classes.
CLASSES = (10, 100)


@dataclass(frozen=True, kw_only=True)
class JobKnobs:
    """One ``map`` (or ``submit``, or ``map_reduce``) of a program.

    Attributes:
        after: Seconds between the end of the job before it and this one.
        durations: Seconds that each call takes, in the order of the items.
        failing: Indices of calls that raise.
        large: Indices of calls whose value goes through storage.
        poisonous: Indices of calls that take their worker's service down.
        stop_after: Seconds until :attr:`stop` happens.
    """

    after: float
    durations: tuple[float, ...]
    failing: frozenset[int] = frozenset()
    large: frozenset[int] = frozenset()
    reading: Reading = "await"
    source: Source = "list"
    return_exceptions: bool = False
    chunksize: int = 0
    timeout: float | None = None
    retries: int = 0
    poisonous: frozenset[int] = frozenset()
    detach: bool = False
    stop: Stop = ""
    stop_after: float = 0.0

    @property
    def calls(self) -> int:
        return len(self.durations)

    @property
    def work(self) -> float:
        """Seconds that its calls take in all, one after another."""
        return sum(self.durations)


@dataclass(frozen=True, kw_only=True)
class ClientKnobs:
    """One program: its jobs, one after another, in one executor.

    Attributes:
        laptop: The machine that it runs on; two may share it.
        after: Seconds after the beginning at which it is started.
        together: Its jobs are begun at once, not one after another.
    """

    laptop: str
    after: float
    jobs: tuple[JobKnobs, ...]
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """One story's circumstances.

    Attributes:
        faults: The kinds that strike, and how often (:data:`RATES`).
        heal: Seconds after which no fault strikes any more.
        network: Seconds that a message takes, about; heavy-tailed.
        boot: Seconds that a VM takes to answer SSH, about.
        skew: Seconds by which wall clocks differ at most.
        late: Seconds by which a timer fires late at most.
        shuffle: Whether ready tasks run in a drawn order.
    """

    seed: int
    vms: int
    processes: int
    mode: ExecMode
    soft: float
    hard: float
    start_timeout: float
    auto: bool
    delete: bool
    spot: bool
    fallback: bool
    max_cost: float | None
    clients: tuple[ClientKnobs, ...]
    ending: Ending
    faults: Mapping[str, float] = field(default_factory=dict)
    heal: float
    network: float
    boot: float
    skew: float
    late: float
    shuffle: bool = True

    @property
    def calls(self) -> int:
        return sum(job.calls for client in self.clients for job in client.jobs)

    def config(self, **consumed: str) -> dict[str, dict[str, Any]]:
        """The configuration of every client, as a user would write it.

        Args:
            **consumed: The keys that name the VM of ``consume`` mode, and its key.
        """
        compute: dict[str, Any] = {
            "region": "us-east-1",
            "instance_role": "dayfly",
            "environment": "image",
            "worker_instance_type": "t3.medium",
            "worker_processes": self.processes,
            "max_workers": self.vms,
            "exec_mode": self.mode.value,
            "soft_dismantle_timeout": self.soft,
            "hard_dismantle_timeout": self.hard,
            "start_timeout": self.start_timeout,
            "auto_dismantle": self.auto,
            "delete_on_dismantle": self.delete,
            "request_spot_instances": self.spot,
            "on_demand_fallback": self.fallback,
            **consumed,
        }
        if self.max_cost is not None:
            compute["max_cost"] = self.max_cost
        return {
            "dayfly": {"backend": "aws_ec2", "storage": "aws_s3"},
            "aws": {"region": "us-east-1", "account_id": "123456789012"},
            "aws_ec2": compute,
        }

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(knobs: Knobs) -> Iterator[str]:
    for each in dataclasses.fields(knobs):
        value = getattr(knobs, each.name)
        if each.name == "faults":
            told = ", ".join(f"{kind} {rate:.3g}" for kind, rate in value.items())
            yield f"{each.name:>14}  {told or 'none'}"
        elif each.name == "clients":
            for number, client in enumerate(value):
                together = ", all at once" if client.together else ""
                yield f"{'client ' + str(number):>14}  on {client.laptop}, after"
                yield f"{'':>14}    {client.after:.3f} s{together}"
                for job in client.jobs:
                    yield f"{'':>14}    {_job_words(job)}"
        else:
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            yield f"{each.name:>14}  {shown}"


def _job_words(job: JobKnobs) -> str:
    words = [
        f"{job.calls} calls",
        f"{job.work:.1f} s in all, the longest {max(job.durations, default=0.0):.1f} s",
        f"{job.after:.2f} s later",
        f"from a {job.source}, by {job.reading}",
    ]
    words += [f"{len(job.failing)} raise"] * bool(job.failing)
    words += [f"{len(job.poisonous)} kill their worker"] * bool(job.poisonous)
    words += [f"{len(job.large)} large"] * bool(job.large)
    words += [f"{name}={value}" for name in ("return_exceptions", "chunksize", "timeout", "retries",
              "detach") if (value := getattr(job, name))]  # fmt: skip
    words += [f"{job.stop} after {job.stop_after:.2f} s"] * bool(job.stop)
    return ", ".join(words)


# -- drawing --


def heavy(random: random.Random, low: float, high: float) -> float:
    """A number between ``low`` and ``high``, each of its magnitudes as likely."""
    return math.exp(random.uniform(math.log(low), math.log(high)))


def one_in(random: random.Random, count: float) -> bool:
    return random.random() * count < 1.0


def pick(random: random.Random, choices: Mapping[T, float]) -> T:
    """One of ``choices``, by their weights."""
    names = list(choices)
    return random.choices(names, [choices[name] for name in names])[0]


def draw(seed: int, *, vms: int | None = None) -> Knobs:
    """The knobs of a seed; ``vms`` fixes the size of the fleet."""
    chance = Chance(seed)
    random = chance.stream("knobs")
    size = pick(random, {0: 90, 10: 7, 100: 3})
    fleet = vms or size or random.randint(1, 12)
    mode = pick(random, {ExecMode.REUSE: 6, ExecMode.CREATE: 3, ExecMode.CONSUME: 1})
    if vms or size:
        mode = pick(random, {ExecMode.REUSE: 2, ExecMode.CREATE: 1})
    soft = random.choice([20.0, 60.0, 120.0, 300.0])
    hard = random.choice([400.0, 1200.0, 3600.0])
    delete = not one_in(random, 4)
    spot = delete and one_in(random, 2)
    processes = random.randint(1, 4)
    clients = _clients(chance, fleet, processes, mode, soft, hard)
    return Knobs(
        seed=seed,
        vms=fleet,
        processes=processes,
        mode=mode,
        soft=soft,
        hard=hard,
        start_timeout=random.choice([60.0, 120.0, 300.0]),
        auto=not one_in(random, 25),
        delete=delete,
        spot=spot,
        fallback=spot and one_in(random, 3),
        max_cost=_max_cost(random, fleet, hard) if mode is not ExecMode.CONSUME else None,
        clients=clients,
        ending=pick(random, {"timers": 5, "clean": 2, "clean --all": 1}),
        faults=_faults(chance.stream("faults")),
        heal=heavy(random, 60.0, 7200.0),
        network=heavy(random, 0.0005, 0.5),
        boot=heavy(random, 2.0, 30.0),
        skew=random.choice([0.0, 0.0, 0.5, 5.0, 90.0]),
        late=random.choice([0.0, 0.01, 0.3]),
        shuffle=not one_in(random, 10),
    )


def _max_cost(random: random.Random, fleet: int, hard: float) -> float | None:
    """Dollars between what the launch alone costs and what the hard timer lets be spent."""
    if not one_in(random, 4):
        return None
    hourly = 0.06 * fleet + 0.02
    return round(heavy(random, 0.03 * hourly, 1.2 * hourly * hard / 3600.0), 6)


def _faults(random: random.Random) -> dict[str, float]:
    """A random half of the kinds, or only a few of them; one story in eight has none at all."""
    if one_in(random, 8):
        return {}
    chosen = [kind for kind in RATES if random.random() < 0.5]
    if one_in(random, 4):  # what follows from one is not lost among what follows from others
        chosen = random.sample(list(RATES), random.randint(1, 4))
    return {kind: heavy(random, *RATES[kind]) for kind in chosen}


def _clients(
    chance: Chance, fleet: int, processes: int, mode: ExecMode, soft: float, hard: float
) -> tuple[ClientKnobs, ...]:
    random = chance.stream("clients")
    count = 2 if one_in(random, 4) else 1
    shared = one_in(random, 3)
    made = []
    for number in range(count):
        jobs = pick(random, {1: 5, 2: 3, 3: 1})
        made.append(
            ClientKnobs(
                laptop="laptop" if shared or not number else "desk",
                after=0.0 if not number else random.choice([0.0, heavy(random, 0.1, 300.0)]),
                jobs=tuple(
                    _job(random, fleet, processes, soft, hard, first=not place)
                    for place in range(jobs)
                ),
                together=jobs > 1 and one_in(random, 4),
            )
        )
    return tuple(made)


def _job(
    random: random.Random, fleet: int, processes: int, soft: float, hard: float, *, first: bool
) -> JobKnobs:
    reading: Reading = pick(
        random,
        {"await": 5, "as_completed": 3, "futures": 2, "map_reduce": 1, "submit": 1, "attach": 2},
    )
    calls = 1 if reading == "submit" else _calls(random, fleet * processes)
    typical = heavy(random, 0.01, 60.0)
    durations = tuple(
        min(heavy(random, typical / 10, typical * 10), hard * 2) for _ in range(calls)
    )
    if one_in(random, 12):  # one that no timer lets end
        durations = (*durations[:-1], hard * 3)
    stop: Stop = ""
    if one_in(random, 3):
        stops: Sequence[Stop] = ("task", "timeout", "job.cancel", "futures", "leave")
        stop = random.choice(stops)
        if reading == "attach" and stop == "timeout":
            stop = ""  # it would end just as its program leaves it
    return JobKnobs(
        after=0.0 if first else _gap(random, soft),
        durations=durations,
        failing=_some(random, calls) if one_in(random, 4) else frozenset(),
        large=_some(random, calls) if one_in(random, 4) else frozenset(),
        reading=reading,
        source=pick(random, {"list": 4, "generator": 1, "async generator": 1})
        if reading not in ("futures", "submit")
        else "list",
        return_exceptions=one_in(random, 2) and reading not in ("map_reduce", "submit"),
        chunksize=random.choice([0, 0, 0, 1, 7]),
        timeout=heavy(random, typical / 2, typical * 100) if one_in(random, 6) else None,
        retries=random.randint(1, 3) if one_in(random, 3) and reading != "submit" else 0,
        poisonous=frozenset({random.randrange(calls)})
        if calls and reading not in ("submit", "map_reduce") and one_in(random, 25)
        else frozenset(),
        detach=reading == "attach" or (reading in ("await", "as_completed") and one_in(random, 10)),
        stop=stop,
        # Often while its workers are still on their way.
        stop_after=heavy(random, 0.001, 600.0) if one_in(random, 2) else heavy(random, 0.1, 60.0),
    )


def _calls(random: random.Random, processes: int) -> int:
    most = min(1200, max(2, 12 * processes))
    return 0 if one_in(random, 60) else round(heavy(random, 1, most))


def _gap(random: random.Random, soft: float) -> float:
    """Most often a job comes just as the soft timer of the one before fires."""
    if one_in(random, 2):
        return max(0.0, soft + random.choice([0.0, random.gauss(0.0, 0.1), random.gauss(0.0, 3.0)]))
    return random.choice([0.0, heavy(random, 0.01, soft * 2)])


def _some(random: random.Random, calls: int) -> frozenset[int]:
    share = heavy(random, 0.02, 1.0)
    return frozenset(index for index in range(calls) if random.random() < share)
