"""What the judge of a round sees."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.chaos.client_program import answer, told
from tests.chaos.leftovers import untouched
from tests.chaos.plan import Call, ClientPlan, JobPlan, Plan, draw
from tests.chaos.verdicts import Facts, Life, judge, run_again

JOB = JobPlan(
    name="job-0",
    mode="reuse",
    style="completed",
    workers=1,
    detached=False,
    calls=(Call(0.0, 32), Call(0.0, 32), Call(0.0, 32, fails=True)),
)


def plan(job: JobPlan = JOB) -> Plan:
    client = ClientPlan(name="client-0", begins=0.0, returns=0.0, jobs=(job,))
    return dataclasses.replace(draw(0), clients=(client,), ending="clean")


def outcome(index: int) -> dict[str, Any]:
    if JOB.calls[index].fails:
        return {"job": "job-0", "index": index, "error": "ValueError", "text": "on purpose"}
    return {"job": "job-0", "index": index, "value": told(answer("job-0", index, 32))}


def good_lines() -> list[dict[str, Any]]:
    return [outcome(0), outcome(1), outcome(2), {"job": "job-0", "ended": ""}]


def life(**changes: Any) -> Life:
    kept: dict[str, Any] = {
        "client": "client-0",
        "number": 1,
        "killed": False,
        "status": 0,
        "lines": good_lines(),
    }
    return Life(**(kept | changes))


def facts(*lives: Life, **changes: Any) -> Facts:
    kept: dict[str, Any] = {"blows": [], "started": [], "left": [], "complaints": []}
    return Facts(plan=plan(), lives=list(lives or [life()]), **(kept | changes))


def start(index: int) -> dict[str, Any]:
    return {"life": "client-0.1", "job": "job-0", "index": index}


def test_a_round_in_which_everything_came_once_is_good() -> None:
    assert judge(facts()) == []


def test_an_outcome_that_never_came_is_seen() -> None:
    (said,) = judge(facts(life(lines=[outcome(0), outcome(2), {"job": "job-0", "ended": ""}])))
    assert "1 outcomes never came: [1]" in said


def test_an_outcome_that_came_twice_is_seen_even_from_a_client_that_was_killed() -> None:
    killed = life(killed=True, status=-9, lines=[outcome(0), outcome(0)])
    (said,) = judge(facts(killed, life(number=2)))
    assert "call 0 came 2 times" in said


def test_a_wrong_value_is_seen() -> None:
    wrong = outcome(0) | {"value": told(answer("job-0", 1, 32))}
    (said,) = judge(facts(life(lines=[wrong, *good_lines()[1:]])))
    assert "call 0 gave something wrong" in said


def test_a_call_that_should_have_failed_and_did_not_is_seen() -> None:
    lines = [*good_lines()[:2], {"job": "job-0", "index": 2, "value": "x"}, good_lines()[3]]
    assert any("call 2 gave something wrong" in said for said in judge(facts(life(lines=lines))))


def test_a_client_that_hung_is_seen() -> None:
    assert any("hung" in said for said in judge(facts(life(status=None, lines=[]))))


def test_a_client_that_was_killed_must_run_again() -> None:
    assert any("not run again" in said for said in judge(facts(life(killed=True, status=-9))))


def test_a_job_may_fail_for_want_of_workers_only_if_enough_of_them_were_struck() -> None:
    lines = [{"job": "job-0", "ended": "NoWorkersError", "text": "none"}]
    (said,) = judge(facts(life(lines=lines), blows=[("kill", "worker vm")]))
    assert "failed by NoWorkersError" in said
    assert judge(facts(life(lines=lines), blows=[("kill", "worker vm")] * 2)) == []


def test_a_job_that_fails_by_anything_else_is_seen() -> None:
    lines = [{"job": "job-0", "ended": "ProvisionError", "text": "no"}]
    (said,) = judge(facts(life(lines=lines), blows=[("kill", "master service")] * 3))
    assert "failed by ProvisionError" in said


@pytest.mark.parametrize(("kills", "wrong"), [(0, 2), (1, 0)])
def test_a_call_may_crash_once_for_each_runner_that_was_killed(kills: int, wrong: int) -> None:
    crashed = {"job": "job-0", "index": 0, "error": "CallCrashedError", "text": "killed"}
    blows = [("kill", "runner")] * kills
    said = judge(facts(life(lines=[crashed, *good_lines()[1:]]), blows=blows))
    assert len(said) == wrong


@pytest.mark.parametrize(("kills", "wrong"), [(2, 2), (3, 0)])
def test_a_call_may_be_given_up_once_three_workers_that_had_it_were_killed(
    kills: int, wrong: int
) -> None:
    text = "cause: 3 times it was in the hands of a worker when that was lost"
    crashed = {"job": "job-0", "index": 0, "error": "CallCrashedError", "text": text}
    blows = [("kill", "worker vm")] * kills
    said = judge(facts(life(lines=[crashed, *good_lines()[1:]]), blows=blows))
    assert len(said) == wrong


def test_a_crash_that_is_told_to_two_runs_of_a_client_is_one() -> None:
    crashed = {"job": "job-0", "index": 0, "error": "CallCrashedError", "text": "call 0 of job j"}
    lines = [crashed, *good_lines()[1:]]
    lives = [life(killed=True, status=-9, lines=lines[:2]), life(number=2, lines=lines)]
    assert not judge(facts(*lives, blows=[("kill", "runner"), ("kill", "client")]))


def test_a_call_runs_again_only_if_a_worker_was_struck() -> None:
    twice = [start(0), start(0), start(1)]
    (said,) = judge(facts(started=twice, blows=[("kill", "client")]))
    assert "run again" in said
    assert judge(facts(started=twice, blows=[("kill", "worker service")])) == []
    assert run_again(facts(started=twice)) == 1


def test_a_detached_job_that_is_forgotten_is_seen() -> None:
    begun = [{"job": "job-0", "id": "j-1"}]
    unknown = [{"job": "job-0", "unknown": "j-1", "text": "no such job"}, *good_lines()]
    killed = life(killed=True, status=-9, lines=[*begun, outcome(0)])
    (said,) = judge(facts(killed, life(number=2, lines=unknown)))
    assert "was forgotten" in said
    never_heard_of = life(killed=True, status=-9, lines=begun)
    assert judge(facts(never_heard_of, life(number=2, lines=unknown))) == []


def test_what_is_left_and_what_services_complain_of_is_told() -> None:
    said = judge(facts(left=["4711 sleep"], complaints=["Traceback"]))
    assert said == ["left behind: 4711 sleep", "a service complains: Traceback"]


def test_a_users_own_vm_that_dayfly_was_never_on_stays_as_it_was() -> None:
    console, others = "i-mine.console.1.log", ["i-2.bootstrap.2.log", "i-2.console.3.log"]
    assert untouched("i-mine", [console, *others]) == {"i-mine"}
    assert untouched("i-mine", [console, "i-mine.bootstrap.4.log", *others]) == frozenset()
    assert untouched("", others) == frozenset()
