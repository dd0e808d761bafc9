"""The pool: who gets which calls, and what is told of those that do not end by themselves."""

# The functions under test print.
from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dayfly.model import OutcomeKind
from dayfly.wire.frame import spans_of
from dayfly.worker import obituary
from dayfly.worker.dispatch import (
    HORIZON,
    MOST,
    Call,
    Dispatcher,
    Give,
    Replace,
    appetite,
)
from dayfly.worker.obituary import Death, describe
from tests.unit.worker_support import alive, bench, value_of

# -- decisions --


def ask(estimate: float | None, **facts: int) -> int:
    return appetite(
        estimate, **{"held": 0, "waiting": 1000, "held_by_all": 0, "runners": 4, **facts}
    )


def test_the_first_calls_of_a_job_are_given_one_at_a_time() -> None:
    assert ask(None) == 1
    assert ask(None, held=1, held_by_all=4) == 0


def test_tiny_calls_go_in_batches_and_are_topped_up_before_the_runner_runs_dry() -> None:
    assert ask(HORIZON / 40) == 41
    assert ask(HORIZON / 40, held=30) == 0
    assert ask(HORIZON / 40, held=20) == 21
    assert ask(1e-9, waiting=10_000) == MOST


def test_long_calls_are_never_held_behind_another() -> None:
    assert ask(1.0) == 1
    assert ask(1.0, held=1) == 0


def test_the_last_calls_are_shared_among_the_runners() -> None:
    assert ask(HORIZON / 100, waiting=8) == 2
    assert ask(HORIZON / 100, waiting=2, held_by_all=6) == 2
    assert ask(HORIZON / 100, waiting=1, held=2, held_by_all=8) == 1


def dispatcher(runners: int = 2, **jobs: str) -> Dispatcher:
    made = Dispatcher()
    for number in range(1, runners + 1):
        made.join(number)
    for job, modules in jobs.items():
        made.open(job, modules=modules)
        made.add(job, [Call(job, index, b"") for index in range(4)])
    return made


def test_jobs_take_turns() -> None:
    made = dispatcher(a="", b="")
    assert [action.job for action in made.decide() if isinstance(action, Give)] == ["a", "b"]


def test_calls_taken_back_are_the_first_to_be_given_again() -> None:
    made = dispatcher(1, a="")
    [give] = made.decide()
    assert isinstance(give, Give)
    made.put_back(made.withdrawn(1, [give.first]))
    [again] = made.decide()
    assert isinstance(again, Give)
    assert [call.index for call in again.calls] == [0]
    assert again.first == give.first + 1


def test_a_runner_with_other_modules_is_replaced_once_it_is_idle() -> None:
    made = dispatcher(1, a="/one", b="/two")
    [give] = made.decide()
    assert isinstance(give, Give)
    assert give.job == "a"
    assert made.decide() == []
    made.ended(1, give.first, 0.001)
    assert made.decide() == [Replace(1, "/two")]


def test_a_job_of_another_python_has_runners_of_its_own() -> None:
    made = dispatcher(1)
    made.open("a", interpreter="/env/a/python")
    made.add("a", [Call("a", index, b"") for index in range(2)])
    assert made.decide() == [Replace(1, "", "/env/a/python")]
    made.leave(1)
    made.join(2, interpreter="/env/a/python")
    [give] = made.decide()
    assert isinstance(give, Give)
    made.open("b")
    made.add("b", [Call("b", 0, b"")])
    assert made.decide() == [], "it runs dry before it is replaced"


def modules_of_two_runners() -> Dispatcher:
    """Two runners, of which the first has imported ``/one`` and the second ``/two``."""
    made = dispatcher(2, a="/one", b="/two")
    for action in made.decide():
        assert isinstance(action, Give)
        made.ended(action.runner, action.first, 0.001)
    made.drop("a", None)
    made.drop("b", None)
    return made


def test_a_call_of_unknown_length_does_not_wait_for_the_runner_that_has_its_modules() -> None:
    made = modules_of_two_runners()
    made.open("c", modules="/one")
    made.add("c", [Call("c", index, b"") for index in range(2)])
    give, replace = made.decide()
    assert isinstance(give, Give)
    assert give.runner == 1
    assert replace == Replace(2, "/one")


def test_tiny_calls_do_wait_for_it() -> None:
    made = modules_of_two_runners()
    made.add("a", [Call("a", index, b"") for index in range(4)])
    (give,) = made.decide()
    assert isinstance(give, Give)
    assert give.runner == 1


def test_the_most_laden_runner_gives_up_calls_for_an_idle_one() -> None:
    made = dispatcher(1, a="")
    made.decide()
    made.ended(1, 1, 0.0)
    made.decide()
    assert made.victim() is None
    made.join(2)
    assert made.victim() == 1


def test_indices_are_told_as_ranges() -> None:
    assert [(s.start, s.stop) for s in spans_of({5, 1, 2, 3, 9, 4})] == [(1, 6), (9, 10)]


def test_a_death_is_told_with_its_evidence() -> None:
    gib = 1 << 30
    assert "exit status 3" in describe(Death(status=3))
    assert "SIGSEGV (segmentation fault" in describe(Death(status=-signal.SIGSEGV))
    killed = describe(Death(status=-9, peak=3 * gib, memory=4 * gib))
    assert "most likely for memory: it held up to 3.0 GiB of the machine's 4.0 GiB" in killed
    assert "the kernel ran out of it" in describe(Death(status=-9, oom_kills=1, memory=gib))
    assert describe(Death(status=1, last_words="boom")).endswith("boom")
    assert obituary.machine_memory() > 1 << 28


# -- real processes --


async def test_many_calls_all_come_back_whoever_runs_them() -> None:
    async with bench(4) as b:
        assert await b.values(lambda x: -x, range(5000)) == [-x for x in range(5000)]


async def test_jobs_of_two_pythons_share_a_worker(tmp_path: Path) -> None:
    def which(_: int) -> str:
        import os

        return os.environ.get("WHICH", "the worker's")

    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nWHICH=another exec {sys.executable} "$@"\n')
    other.chmod(0o700)
    async with bench(2) as b:
        ours = set(await b.values(which, range(4), job="ours"))
        theirs = set(await b.values(which, range(4), job="theirs", interpreter=str(other)))
        again = set(await b.values(which, range(4), job="again"))
    assert ours == again == {"the worker's"}
    assert theirs == {"another"}


async def test_calls_do_not_wait_behind_a_long_one_while_a_runner_is_idle() -> None:
    def uneven(x: int) -> None:
        time.sleep(30 if x == 50 else 0.0002)

    async with bench(2) as b:
        b.open(uneven)
        b.add(range(100))
        await b.owner.until(lambda: len(b.owner.outcomes) == 99)


@pytest.mark.parametrize(
    ("fatal", "told"),
    [
        ("import os; os._exit(3)", "exit status 3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV (segmentation fault"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL, most likely for memory"),
        ("import os; os.closerange(3, 100)", "exit status"),
        ("import os, time; os.closerange(3, 100); time.sleep(60)", "closed the file descriptors"),
    ],
)
async def test_a_call_that_ends_its_process_is_named_and_the_others_finish(
    fatal: str, told: str
) -> None:
    async with bench(2) as b:
        outcomes = await b.run(exec, ["pass"] * 30 + [fatal] + ["pass"] * 30)
    crashed = outcomes.pop(30)
    assert crashed.kind is OutcomeKind.CRASHED
    assert told in crashed.payload.decode()
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.VALUE}


async def test_a_call_whose_process_was_told_to_end_is_in_hand_until_that_is_explained() -> None:
    async with bench() as b:
        b.open(exec)
        b.add(["import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])
        while not b.owner.troubles:  # its runner is gone; the whole VM may be going down
            assert b.pool.indices() == {"job": {0}}
            await asyncio.sleep(0.005)
        assert b.pool.indices() == {"job": {0}}
        [outcome] = await b.outcomes(1)
        assert outcome.kind is OutcomeKind.CRASHED
        assert b.pool.indices() == {}


async def test_the_last_words_of_a_segfault_say_where_it_was() -> None:
    def reads_nothing(x: int) -> None:
        import ctypes

        ctypes.string_at(0)

    async with bench() as b:
        [outcome] = await b.run(reads_nothing, [1])
    assert "in reads_nothing" in outcome.payload.decode()


async def test_a_call_over_its_timeout_is_killed_with_what_it_started() -> None:
    def slow(x: int) -> int:
        if x == 1:
            child = subprocess.Popen(["sleep", "60"], start_new_session=True)
            print(child.pid)
            time.sleep(60)
        return x

    async with bench() as b:
        first, second, third = await b.run(slow, [0, 1, 2], timeout=0.5)
        assert (value_of(first), value_of(third)) == (0, 2)
        assert second.kind is OutcomeKind.TIMED_OUT
        assert "0.5 s" in second.payload.decode()
        assert 0.4 < second.ended - second.started < 5
        assert not alive(int(b.texts(1)[0]))


async def test_what_a_crashed_call_had_started_does_not_survive_it() -> None:
    def leaves(x: int) -> None:
        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        print(child.pid, flush=True)
        os._exit(0)

    async with bench() as b:
        await b.run(leaves, [1])
        assert not alive(int(b.texts(0)[0]))


async def test_a_whole_job_that_is_revoked_tells_nothing_more_and_the_next_one_runs() -> None:
    async with bench(2) as b:
        b.open(time.sleep, job="old")
        b.add([60] * 10, job="old")
        await asyncio.sleep(0.2)  # let them start
        b.pool.revoke("old")
        b.pool.forget("old")
        assert await b.values(lambda x: x, [1, 2], job="new") == [1, 2]
        assert b.pool.indices() == {}
    assert not [key for key in b.owner.outcomes if key[0] == "old"]


async def test_a_single_call_that_is_revoked_is_cancelled_waiting_or_running() -> None:
    async with bench() as b:
        b.open(time.sleep)
        b.add([60, 60, 0])
        await asyncio.sleep(0.2)  # let the first one start
        b.pool.revoke("job", {0, 1})
        running, waiting, last = await b.outcomes(3)
    assert (running.kind, waiting.kind) == (OutcomeKind.CANCELLED, OutcomeKind.CANCELLED)
    assert last.kind is OutcomeKind.VALUE


async def test_calls_that_have_not_started_are_handed_back_newest_first() -> None:
    def slow_at_five(x: int) -> int:
        time.sleep(0.5 if x == 5 else 0)
        return x

    async with bench() as b:
        b.open(slow_at_five)
        b.add(range(5))
        await b.outcomes(5)  # now the runner holds many ahead
        b.add(range(5, 25), start=5)
        assert b.pool.recall("job", 3) == [24, 23, 22]
        await asyncio.sleep(0.1)
        rest = b.pool.recall("job", 100)
        assert rest == list(range(21, 5, -1))
        assert value_of((await b.outcomes(6))[5]) == 5


async def test_an_interpreter_that_is_missing_fails_every_call_and_says_so() -> None:
    async with bench(2, interpreter="/no/such/python") as b:
        outcomes = await b.run(print, [1, 2, 3])
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.CRASHED}
        assert "/no/such/python" in outcomes[0].payload.decode()


async def test_an_interpreter_that_cannot_start_gives_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'libpython is not there' >&2\nexit 127\n")
    broken.chmod(0o755)
    async with bench(2, interpreter=str(broken)) as b:
        [outcome] = await b.run(print, [1])
        assert "libpython is not there" in outcome.payload.decode()


async def test_runners_that_are_not_read_wait_and_lose_nothing() -> None:
    def chatty(x: int) -> int:
        print("x" * 100_000)
        return x

    async with bench(2) as b:
        b.pool.hold()
        b.open(chatty)
        b.add(range(50))
        await asyncio.sleep(0.2)
        assert not b.owner.outcomes
        b.pool.go_on()
        assert [value_of(outcome) for outcome in await b.outcomes(50)] == list(range(50))
        assert sum(len(line.text) for line in b.owner.lines) == 50 * 100_000


async def test_closing_leaves_no_process() -> None:
    def pids(x: int) -> Any:
        return os.getpid(), subprocess.Popen(["sleep", "60"], start_new_session=True).pid

    async with bench() as b:
        [(own, child)] = await b.values(pids, [1])
        assert alive(own)
        assert alive(child)
    async with asyncio.timeout(5):  # whoever adopted the child has to bury it
        while alive(own) or alive(child):
            await asyncio.sleep(0.01)
