"""Where the time went: phases that several machines tell, as one table with its critical path."""

from __future__ import annotations

import pytest

from dayfly.cli.phases import BESIDE, CRITICAL, cells, critical_path, notes, rows
from dayfly.phases import (
    AHEAD,
    BOOT,
    CLIENT,
    DELIVERY,
    FIRST_CALL,
    MASTER,
    OWN,
    RUNNER,
    SENT,
    SERVICE,
    Phase,
    Steps,
    Timeline,
)

ONE, OTHER = "i-1", "i-2"


class SetClock:
    """A clock that stands where a test has set it."""

    def __init__(self, time: float = 100.0) -> None:
        self.time = time

    def now(self) -> float:
        return self.time + 1e9

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def phase(who: str, what: str, start: float, end: float) -> Phase:
    return Phase(who=who, what=what, start=start, seconds=end - start)


def cold_start() -> list[Phase]:
    """A master, and two workers of which the second is slow."""
    return [
        phase(CLIENT, "credentials", 0.0, 0.5),
        phase(CLIENT, "master launched", 0.5, 1.0),
        phase(CLIENT, "workers launched", 0.5, 1.5),
        phase(MASTER, BOOT, 1.0, 4.0),
        phase(MASTER, SERVICE, 4.01, 6.0),
        phase(ONE, BOOT, 6.02, 6.2),
        phase(ONE, SERVICE, 6.2, 8.0),
        phase(ONE, RUNNER, 8.0, 8.9),
        phase(ONE, FIRST_CALL, 8.9, 9.0),
        phase(OTHER, BOOT, 6.0, 7.5),
        phase(OTHER, SERVICE, 7.5, 8.85),
        phase(OTHER, FIRST_CALL, 9.5, 9.6),
        phase(CLIENT, DELIVERY, 9.0, 9.1),
    ]


def test_the_first_outcome_waited_for_one_thing_after_the_other() -> None:
    path = [(each.who, each.what) for each in critical_path(cold_start())]
    assert path == [
        (CLIENT, "credentials"),
        (CLIENT, "master launched"),
        (MASTER, BOOT),
        (MASTER, SERVICE),
        (ONE, BOOT),
        (ONE, SERVICE),
        (ONE, RUNNER),
        (ONE, FIRST_CALL),
        (CLIENT, DELIVERY),
    ]


def test_no_master_waited_for_what_the_client_did_on_a_worker_meanwhile() -> None:
    ahead = phase(ONE, AHEAD + BOOT, 1.5, 4.005)
    path = critical_path([*cold_start(), ahead])
    assert ahead not in path
    assert (MASTER, BOOT) in {(each.who, each.what) for each in path}
    late = phase(ONE, AHEAD + SERVICE, 4.0, 8.89)
    assert late in critical_path([*cold_start()[:7], late, *cold_start()[8:]])


def test_nothing_has_no_critical_path() -> None:
    assert critical_path([]) == []
    assert rows([]) == []
    assert notes([]) == []


def test_several_workers_are_one_line_with_their_median_and_spread() -> None:
    table = {(row.who, row.what): row for row in rows(cold_start())}
    boot = table["2 workers", BOOT]
    assert boot.seconds == pytest.approx((0.18 + 1.5) / 2)
    assert (boot.least, boot.most) == pytest.approx((0.18, 1.5))
    assert boot.critical
    assert cells(boot, 10.0)[3] == "0.84 (0.18..1.50)"
    assert cells(table[MASTER, BOOT], 10.0)[3] == "3.00"


def test_lines_stand_in_the_order_of_client_master_and_workers() -> None:
    whos = [row.who for row in rows(cold_start())]
    assert whos == [CLIENT] * 4 + [MASTER] * 2 + ["2 workers"] * 4


def test_bars_show_what_overlaps_and_what_the_outcome_waited_for() -> None:
    table = {(row.who, row.what): row for row in rows(cold_start())}
    launch, beside = table[CLIENT, "master launched"], table[CLIENT, "workers launched"]
    assert cells(launch, 10.0)[4] == "·" + CRITICAL
    assert cells(beside, 10.0)[4] == "·" + BESIDE * 2
    assert cells(table[MASTER, BOOT], 10.0)[4] == "··" + CRITICAL * 6
    assert cells(table[CLIENT, DELIVERY], 9.1)[4].count(CRITICAL) == 1


def test_what_one_machine_does_twice_is_told_twice() -> None:
    twice = [phase(CLIENT, "packages read", 0.0, 1.0), phase(CLIENT, "packages read", 2.0, 5.0)]
    assert [row.seconds for row in rows(twice)] == [1.0, 3.0]


def test_a_warm_start_says_that_nothing_was_booted_or_installed() -> None:
    assert len(notes(cold_start())) == 1
    warm = [phase(CLIENT, "function stored", 0.0, 0.1), phase(ONE, FIRST_CALL, 0.1, 0.2)]
    said = "\n".join(notes(warm))
    assert "0.20 of 0.20 s" in said
    assert "the master was up already, and nothing had to be installed on it" in said
    assert "the workers were up already" in said


def test_what_another_machine_tells_is_dated_here() -> None:
    there, here = Timeline(SetClock(5000.0)), Timeline(SetClock(100.0))
    there.add(ONE, BOOT, 4990.0, 4993.0)
    here.hear(there.take())
    assert there.take() == []
    (heard,) = here.between(0.0, 200.0)
    assert heard == phase(ONE, BOOT, 90.0, 93.0)
    assert here.between(93.5, 200.0) == []


def test_steps_of_an_installation_are_dated_as_their_lines_come() -> None:
    clock = SetClock()
    timeline = Timeline(clock)
    steps = Steps(timeline, MASTER)
    for moment, line in (
        (101.0, b'{"step": "lock", "seconds": 0.25, "complete": false}'),
        (103.0, b'{"step": "fetch", "seconds": 2.0}'),
        (103.5, b"something else"),
        (107.0, b'{"step": "install", "seconds": 3.5}'),
        (107.0, b'{"done": "k", "python": "/p", "seconds": 6.0}'),
    ):
        clock.time = moment
        steps.hear(line)
    clock.time = 109.0
    steps.end()
    assert timeline.between(0.0, 1000.0) == [
        phase(MASTER, SENT, 100.0, 100.75),
        phase(MASTER, "environment awaited", 100.75, 101.0),
        phase(MASTER, "packages fetched", 101.0, 103.0),
        phase(MASTER, "packages installed", 103.5, 107.0),
        phase(MASTER, SERVICE, 107.0, 109.0),
    ]


def test_the_functions_environment_is_told_apart_from_the_agents() -> None:
    timeline = Timeline(SetClock())
    Steps(timeline, ONE, OWN).hear('{"step": "check", "seconds": 0.1}')
    told = {each.what for each in timeline.take()}
    assert told == {"functions: installation begun", "functions: packages checked"}


def test_what_fails_did_not_take_place() -> None:
    timeline = Timeline(SetClock())
    with pytest.raises(RuntimeError), timeline.during(CLIENT, "credentials"):
        raise RuntimeError
    assert timeline.take() == []
