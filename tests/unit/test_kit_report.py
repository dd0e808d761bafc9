"""What the kit said, as the client understands it."""

from __future__ import annotations

import json

import pytest

from dayfly.environment.report import Done, Note, Report, StepTaken, read, understand
from dayfly.errors import EnvironmentFailedError, ProvisionError

LOCK = json.dumps({"step": "lock", "seconds": 0.001, "complete": False})
FETCH = json.dumps({"step": "fetch", "seconds": 1.2, "bytes": 7, "from": {"storage": 3}})
NOTE = json.dumps({"note": "storage has another file", "step": "fetch"})
DONE = json.dumps({"done": "abc", "python": "/opt/dayfly/env/abc/venv/bin/python", "seconds": 3})
FAILED = json.dumps(
    {
        "failed": "install",
        "kind": "package",
        "package": "numpy==2.0",
        "what": "numpy cannot be installed",
        "cause": "line 1\nline 2",
        "advice": "take another version",
    }
)


def told(*lines: str, status: int | None = 0, errors: str = "") -> Report:
    text = "".join(f"{line}\n" for line in lines)
    return read(text, vm="i-0abc", environment="agent", status=status, errors=errors)


def failure(*lines: str, status: int | None = 1, errors: str = "") -> EnvironmentFailedError:
    with pytest.raises(EnvironmentFailedError) as caught:
        told(*lines, status=status, errors=errors)
    return caught.value


def test_steps_are_told_with_their_seconds_and_figures() -> None:
    report = told(LOCK, FETCH, NOTE, DONE)
    assert report.python == "/opt/dayfly/env/abc/venv/bin/python"
    assert [(step.step, step.seconds) for step in report.steps] == [("lock", 0.001), ("fetch", 1.2)]
    assert report.steps[1].sources == {"storage": 3}
    assert report.notes == ("storage has another file",)
    assert not report.reused


def test_an_environment_that_was_there_is_told_as_such() -> None:
    assert told('{"step": "lock", "seconds": 0.001, "complete": true}', DONE).reused


def test_a_failure_names_the_stage_the_package_the_vm_and_what_to_do() -> None:
    error = failure(LOCK, FAILED)
    assert isinstance(error, ProvisionError)
    assert (error.stage, error.kind, error.package, error.vm) == (
        "install",
        "package",
        "numpy==2.0",
        "i-0abc",
    )
    assert "environment agent cannot be had on i-0abc: numpy cannot be installed" in str(error)
    assert "line 2" in str(error)
    assert "take another version" in str(error)


def test_an_output_that_breaks_off_is_told_with_the_last_step_that_is_known() -> None:
    error = failure(LOCK, FETCH, '{"step": "inst', status=None)
    assert "was cut off after its fetch step: the connection broke" in error.what
    assert error.kind == "broken"
    assert '{"step": "inst' in error.cause


def test_a_kit_that_was_killed_is_told_with_its_status() -> None:
    error = failure(LOCK, status=-9, errors="Killed")
    assert "broke off after its lock step (status -9)" in error.what
    assert error.cause == "Killed"


def test_a_vm_without_python_is_told_as_such() -> None:
    error = failure(status=127, errors="sh: 1: python3: not found")
    assert "the VM has no python3" in error.what
    assert error.kind == "interpreter"


def test_a_python_that_cannot_run_the_kit_is_told_with_its_last_lines() -> None:
    error = failure(status=1, errors="SyntaxError: invalid syntax")
    assert "did not begin (status 1)" in error.what
    assert "SyntaxError" in error.cause


def test_what_others_print_is_no_matter() -> None:
    assert told("Welcome to Ubuntu!", LOCK, "[1, 2]", '{"step": 7}', "null", DONE).python


def test_files_that_were_still_on_their_way_to_storage_do_not_matter() -> None:
    assert told(LOCK, DONE, status=None).python


@pytest.mark.parametrize(
    ("line", "form"), [(FETCH, StepTaken), (NOTE, Note), (DONE, Done), ("\x00\xff", type(None))]
)
def test_each_line_is_understood_as_it_comes(line: str, form: type) -> None:
    assert isinstance(understand(line), form)
