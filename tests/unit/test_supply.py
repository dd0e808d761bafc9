"""How many workers a job lacks."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from dayfly.client.supply import Supply, missing, wanted
from dayfly.model import DismantlePolicy, ExecMode, InstanceState, JobSpec, WorkerRow


def spec(count: int, mode: ExecMode = ExecMode.REUSE) -> JobSpec:
    return JobSpec(
        id="j-1",
        function="f",
        mode=mode,
        runtime="python3",
        instance_types=["local.2"],
        kind="local.2 x 2",
        processes=2,
        wanted=count,
        policy=DismantlePolicy(),
        submitted_at=0,
    )


def worker(phase: str, *, runtime: str = "python3", kind: str = "local.2 x 2") -> WorkerRow:
    return WorkerRow(
        name="w",
        instance="i",
        role="worker",
        instance_type="local.2",
        kind=kind,
        processes=2,
        runtime=runtime,
        mode="reuse",
        state=InstanceState.RUNNING,
        phase=phase,
    )


@pytest.mark.parametrize(
    ("calls", "processes", "most", "workers"),
    [(1, 2, 4, 1), (2, 2, 4, 1), (3, 2, 4, 2), (1000, 2, 4, 4), (0, 2, 4, 1)],
)
def test_workers_needed_are_calls_over_processes_up_to_max_workers(
    calls: int, processes: int, most: int, workers: int
) -> None:
    assert wanted(calls, processes, most) == workers


def test_idle_workers_are_reused_and_only_the_missing_are_launched() -> None:
    assert missing(spec(3), [worker("idle"), worker("connecting")], most=4) == 1


def test_busy_workers_count_towards_max_workers() -> None:
    assert missing(spec(3), [worker("busy"), worker("busy")], most=4) == 2


def test_lost_and_leaving_workers_count_for_nothing() -> None:
    assert missing(spec(2), [worker("lost"), worker("leaving")], most=2) == 2


def test_workers_of_another_runtime_or_type_are_not_ours_to_use() -> None:
    rows = [worker("idle", runtime="other"), worker("idle", kind="local.9")]
    assert missing(spec(2), rows, most=2) == 2


@pytest.mark.parametrize("other", ["a/b:2", "a/b:1 +gpu", "a/b:1 as=0a1b2c3d", "python3"])
def test_workers_of_another_image_or_gpus_or_login_are_not_ours_to_use(other: str) -> None:
    wanted = msgspec.structs.replace(spec(1), runtime="a/b:1")
    assert missing(wanted, [worker("idle", runtime=other)], most=1) == 1
    assert missing(wanted, [worker("idle", runtime="a/b:1")], most=1) == 0


def test_create_mode_never_shares() -> None:
    assert missing(spec(2, ExecMode.CREATE), [worker("idle")], most=4) == 2


def test_draining_workers_count_for_nothing() -> None:
    assert missing(spec(2), [worker("idle"), worker("draining")], most=2) == 1


def test_there_are_workers_left_for_the_others_when_a_call_has_taken_three_down() -> None:
    supply = Supply(cast("Any", None), spec(1), {"local.2": 2})
    supply.launched += ["first", "second", "third"]
    assert supply.budget == 3  # one more may die by chance before the call is known
    supply.launched += ["fourth"]
    supply.spared += 3  # it is known
    assert supply.budget == 5
