"""How many workers a job lacks."""

from __future__ import annotations

import pytest

from dayfly.client.supply import missing, wanted
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


def test_create_mode_never_shares() -> None:
    assert missing(spec(2, ExecMode.CREATE), [worker("idle")], most=4) == 2
