"""The command line: what it prints, and how it tells errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import click
import pytest
from click.testing import CliRunner

from dayfly import errors
from dayfly.cli import show
from dayfly.cli.hello import check, greeter
from dayfly.cli.job import cancel_through
from dayfly.cli.job import cells as job_cells
from dayfly.cli.localhost import own_vm
from dayfly.cli.logs import text_of
from dayfly.cli.root import dayfly
from dayfly.cli.rows import merge_jobs, merge_workers, row_of, worker_rows
from dayfly.cli.worker import cells as worker_cells
from dayfly.client.launches import EXPIRY_SLACK
from dayfly.clock import SystemClock
from dayfly.model import (
    Instance,
    InstanceState,
    JobRow,
    JobState,
    LogLine,
    Role,
    Tag,
    WorkerRow,
)
from dayfly.parts import Parts
from dayfly.wire import messages as m
from dayfly.wire.client import MasterDoor

NOW = 1_000_000.0


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(dayfly, arguments)
    return result.exit_code, result.stdout, result.stderr


def instance(
    id_: str,
    role: Role = "worker",
    state: InstanceState = InstanceState.RUNNING,
    expires: str = str(NOW + EXPIRY_SLACK + 60),
) -> Instance:
    return Instance(
        id=id_,
        instance_type="local.2",
        state=state,
        launched_at=NOW,
        tags={
            Tag.NAME: f"dayfly-{role}",
            Tag.ROLE: role,
            Tag.PROCESSES: "2",
            Tag.RUNTIME: "python3",
            Tag.MODE: "reuse",
            Tag.EXPIRES_AT: expires,
        },
    )


def worker(id_: str, role: Role = "worker", left: float | None = 120.0) -> WorkerRow:
    return WorkerRow(
        name=f"dayfly-{role}",
        instance=id_,
        role=role,
        instance_type="local.2",
        processes=2,
        runtime="python3",
        mode="reuse",
        state=InstanceState.PENDING,
        phase="busy",
        running=2,
        dismantle_in=left,
        dismantle_why="soft" if left is not None else "",
    )


def job(id_: str, state: JobState = JobState.RUNNING, submitted: float = NOW) -> JobRow:
    return JobRow(
        id=id_,
        function="square",
        submitted_at=submitted,
        workers=2,
        done=3,
        failed=0,
        total=10,
        state=state,
    )


# -- the whole --


def test_every_command_has_help() -> None:
    def walk(command: click.Command, path: list[str]) -> None:
        status, out, _ = run(*path, "--help")
        assert status == 0
        assert out.startswith("Usage: ")
        assert command.help, path
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help or option.hidden, path
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                walk(inner, [*path, name])

    walk(dayfly, [])


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert run("--version") == (0, f"dayfly {version('dayfly')}\n", "")


def test_asking_for_help_imports_nothing_heavy() -> None:
    heavy = "{'aiohttp', 'asyncssh', 'rich', 'cloudpickle', 'yaml', 'cryptography'}"
    code = f"import sys, dayfly.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wrong_option_is_a_usage_error() -> None:
    status, out, err = run("worker", "list", "-b", "azure")
    assert (status, out) == (2, "")
    assert "'azure' is not one of 'localhost', 'aws_ec2'" in err


def test_an_error_is_told_as_what_cause_and_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise errors.CloudError("no VM", cause="the cloud is full", hint="dayfly clean")

    monkeypatch.setattr("dayfly.cli.worker._rows", refuse)
    status, out, err = run("worker", "list")
    assert (status, out) == (1, "")
    assert err == "error: no VM\n  cause: the cloud is full\n  next:  dayfly clean\n"


def test_debugging_lets_the_traceback_through(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise errors.CloudError("no VM")

    monkeypatch.setattr("dayfly.cli.worker._rows", refuse)
    monkeypatch.setenv("DAYFLY_DEBUG", "1")
    assert isinstance(CliRunner().invoke(dayfly, ["worker", "list"]).exception, errors.CloudError)


def test_a_mistyped_key_is_refused_before_anything_is_asked() -> None:
    Path("config.yaml").write_text("localhost:\n  max_wokers: 3\n")
    for command in (["-c", "config.yaml", "worker", "list"], ["job", "list", "-c", "config.yaml"]):
        status, _, err = run(*command)
        assert status == 1
        assert "max_wokers" in err
        assert "max_workers" in err


def test_ctrl_c_is_told_in_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dayfly.cli.worker._rows", interrupted)
    assert run("worker", "list") == (130, "", "interrupted\n")


# -- tables --


def test_piped_tables_are_aligned_and_never_cut() -> None:
    long = "x" * 300
    text = show.plain(["name", "dismantle in"], [["a", "1"], [long, "2"]])
    lines = text.splitlines()
    assert lines[0].split() == ["NAME", "DISMANTLE_IN"]
    assert lines[1].split() == ["a", "1"]
    assert lines[2] == f"{long}  2"


def test_a_cell_without_a_value_still_counts_as_a_column(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.table(["name", "state", "reason"], [["a", "", "why"]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["a", "-", "why"]


def test_a_table_wider_than_its_terminal_keeps_ids_whole() -> None:
    columns = ["name", "instance", "phase", "state"]
    lines = show.paragraph(columns, ["worker", "i-0123456789", "-", "running"], 28)
    assert lines == ["worker", "  instance: i-0123456789", "  state: running"]
    wide = show.paragraph(columns, ["worker", "i-0123456789", "-", "running"], 80)
    assert wide == ["worker", "  instance: i-0123456789   state: running"]


def test_durations_read_as_people_say_them() -> None:
    told = [show.duration(s) for s in (-1, 0.44, 61, 250, 7500)]
    assert told == ["0.0 s", "0.4 s", "61 s", "4 m 10 s", "2 h 5 m"]


# -- workers --


def test_a_vm_that_the_master_does_not_tell_of_is_listed_by_its_tags() -> None:
    (row,) = merge_workers([instance("i-1")], [], NOW)
    assert (row.instance, row.processes, row.mode, row.state) == ("i-1", 2, "reuse", "running")
    assert (row.dismantle_in, row.dismantle_why) == (60.0, "hard")


def test_the_master_knows_the_timers_and_the_cloud_knows_the_state() -> None:
    (row,) = merge_workers([instance("i-1", state=InstanceState.STOPPING)], [worker("i-1")], NOW)
    assert (row.state, row.phase, row.dismantle_in) == ("stopping", "busy", 120.0)


def test_a_vm_that_died_is_lost_though_the_master_still_hopes() -> None:
    dead = instance("i-1", state=InstanceState.TERMINATED)
    (row,) = merge_workers(
        [dead, instance("i-2", state=InstanceState.TERMINATED)], [worker("i-1")], NOW
    )
    assert (row.instance, row.state, row.phase) == ("i-1", "terminated", "lost")


def test_the_master_comes_first_and_a_users_own_vm_is_not_lost() -> None:
    listed = [instance("i-1"), instance("i-m", "master")]
    rows = merge_workers(listed, [worker("i-own")], NOW)
    assert [row.instance for row in rows] == ["i-m", "i-1", "i-own"]


def test_what_is_stopped_or_never_expires_has_no_timer() -> None:
    stopped = row_of(instance("i-1", "master", InstanceState.STOPPED), NOW)
    forever = row_of(instance("i-2", expires="0"), NOW)
    assert stopped.dismantle_in is None
    assert forever.dismantle_in is None


def test_a_workers_row_shows_the_seconds_that_are_left_and_why() -> None:
    assert worker_cells(worker("i-1"))[-1] == "120s soft"
    assert worker_cells(worker("i-1", left=None))[-1] == ""


async def test_vms_are_listed_while_the_master_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def visit(_: object) -> AsyncIterator[None]:
        raise errors.UnreachableError("no answer from the master")
        yield

    class Cloud:
        async def owner(self) -> str:
            return "me"

        async def list(self, **_: object) -> list[Instance]:
            return [instance("i-1")]

    monkeypatch.setattr("dayfly.client.visit.visit", visit)
    parts = SimpleNamespace(cloud=Cloud(), clock=SystemClock())
    (row,) = await worker_rows(cast("Parts", parts))
    assert row.instance == "i-1"
    assert "the master does not answer: no answer from the master" in capsys.readouterr().err


# -- jobs --


def test_a_job_that_runs_is_known_better_by_the_master_than_by_storage() -> None:
    kept = [job("b", JobState.COMPLETED, NOW + 1), job("a", JobState.COMPLETED)]
    rows = merge_jobs(kept, [job("b", JobState.RUNNING, NOW + 1)])
    assert [(row.id, row.state) for row in rows] == [("a", "completed"), ("b", "running")]


def test_a_jobs_row_shows_done_of_total() -> None:
    assert job_cells(job("a"))[4] == "3/10"


def test_jobs_as_json_have_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    async def rows(*_: object) -> list[JobRow]:
        return [job("a")]

    monkeypatch.setattr("dayfly.cli.job._rows", rows)
    status, out, _ = run("job", "list", "--json")
    assert status == 0
    assert json.loads(out)[0]["submitted_at"] == NOW


class Door(MasterDoor):
    """A master with jobs; cancelling one of them takes effect before the next answer."""

    def __init__(self, *rows: JobRow) -> None:  # it has no connection
        self.rows = {row.id: row for row in rows}
        self.heard: list[m.FromClient] = []

    async def list_jobs(self) -> list[JobRow]:
        return list(self.rows.values())

    async def send(self, message: m.FromClient) -> None:
        self.heard.append(message)
        if isinstance(message, m.Cancel):
            self.rows[message.job] = job(message.job, JobState.CANCELLED)


async def test_a_running_job_is_cancelled() -> None:
    door = Door(job("a"))
    row = await cancel_through(door, "a")
    assert row.state is JobState.CANCELLED
    assert door.heard == [m.Cancel(job="a")]


async def test_a_job_that_has_ended_is_left_alone() -> None:
    door = Door(job("a", JobState.COMPLETED))
    assert (await cancel_through(door, "a")).state is JobState.COMPLETED
    assert door.heard == []


@pytest.mark.parametrize("door", [None, Door(job("b"))])
async def test_cancelling_an_unknown_job_is_an_error(door: Door | None) -> None:
    with pytest.raises(errors.JobError, match="no job 'a' is running"):
        await cancel_through(door, "a")


# -- logs --


def test_a_log_line_names_its_call_and_its_stream() -> None:
    def line(index: int, stream: str) -> LogLine:
        return LogLine(job="j", index=index, stream=stream, time=NOW, text="hi")

    assert text_of(line(7, "stdout")) == "call 7: hi"
    assert text_of(line(7, "stderr")) == "call 7 (stderr): hi"
    assert text_of(line(-1, "stdout")) == "call ?: hi"


# -- hello --


def test_hello_does_not_take_a_wrong_answer_for_a_right_one() -> None:
    answer = greeter()("you")
    check([answer], ["Hello, you!"])
    with pytest.raises(errors.DayflyError, match="the answer is wrong"):
        check([answer], ["Hello, me!"])


# -- the rest --


def test_clean_fails_when_something_is_left_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from dayfly.cloud.base import Resource

    async def left(*_: object, **__: object) -> list[Resource]:
        return [Resource(kind="instance", id="i-1", detail="stopping")]

    monkeypatch.setattr("dayfly.cli.clean._clean", left)
    assert run("clean")[0] == 0
    status, out, _ = run("clean", "--all")
    assert status == 1
    assert "i-1" in out


def test_attach_ends_with_the_status_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        async def interactive(self) -> int:
            return 7

    @asynccontextmanager
    async def shell(*_: object, start: bool) -> AsyncIterator[Session]:
        assert start
        yield Session()

    monkeypatch.setattr("dayfly.client.visit.shell_on_master", shell)
    assert run("attach", "--start")[0] == 7


def test_a_vm_of_the_users_own_carries_no_tag_of_ours() -> None:
    spec = own_vm("ssh-ed25519 AAAA", "local.2", "mine")
    assert spec.tags == {Tag.NAME: "mine"}
    assert spec.on_poweroff == "stop"
    assert "ssh-ed25519 AAAA" in spec.user_data


def test_objects_go_in_and_come_out_again(own_home: Path) -> None:
    Path("a.txt").write_text("hello")
    assert run("storage", "put", "a.txt", "x/a")[:2] == (0, "x/a\n")
    assert run("storage", "put", "a.txt")[:2] == (0, "a.txt\n")
    assert run("storage", "get", "x/a", "-")[1] == "hello"
    assert run("storage", "get", "x/a", "b.txt")[1] == "b.txt\n"
    assert Path("b.txt").read_text() == "hello"
    listed = run("storage", "list", "x/")[1].splitlines()
    assert [line.split()[:2] for line in listed] == [["KEY", "BYTES"], ["x/a", "5"]]
    assert run("storage", "delete", "--prefix", "x/")[1] == "1 deleted\n"
    assert run("storage", "delete")[0] == 2
    status, _, err = run("storage", "get", "x/a", "-")
    assert status == 1
    assert "x/a" in err
