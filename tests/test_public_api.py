"""The public names and signatures: whoever changes them changes this page too."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dayfly

ROOT = Path(__file__).parents[1]

CLASSES = {"FunctionExecutor", "Job", "LogLine", "Outcome", "Progress", "Try"}
ERRORS = {
    "AccessDeniedError",
    "ApiError",
    "AuthenticationError",
    "CallCancelledError",
    "CallCrashedError",
    "CallError",
    "CallTimeoutError",
    "CapacityError",
    "CloudError",
    "CommandError",
    "ConfigError",
    "CostLimitError",
    "DayflyError",
    "DeniedError",
    "EnvironmentFailedError",
    "EnvironmentSyncError",
    "HardTimeoutError",
    "HostKeyError",
    "InstanceNotFoundError",
    "JobCancelledError",
    "JobError",
    "NoWorkersError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ProvisionError",
    "RemoteError",
    "SerializationError",
    "ShellError",
    "StorageError",
    "UnreachableError",
    "UsageError",
    "VersionMismatchError",
    "WireError",
}

MAP_KEYS = {
    "extra_args": None,
    "extra_env": None,
    "chunksize": 0,
    "timeout": None,
    "retries": 0,
    "return_exceptions": False,
    "include_modules": None,
    "exclude_modules": None,
    "detach": False,
}
#: A reduction is submitted by the program that mapped, so that must be there.
ONLY_MAP = {"return_exceptions", "detach"}


def test_these_are_the_public_names() -> None:
    assert set(dayfly.__all__) == CLASSES | ERRORS | {"__version__"}
    for name in dayfly.__all__:
        assert getattr(dayfly, name) is not None
    assert set(dir(dayfly)) >= set(dayfly.__all__)


def test_every_error_is_public() -> None:
    from dayfly import errors

    declared = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert declared == ERRORS


def test_another_name_is_refused_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="executor"):
        _ = dayfly.no_executor_of_this_name


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project.get("version", dayfly.__version__) == dayfly.__version__


def keywords(function: object) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def positional(function: object) -> list[str]:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def test_the_executor_takes_these() -> None:
    make = dayfly.FunctionExecutor
    assert positional(make) == ["config", "config_file"]
    assert keywords(make) == dict.fromkeys(
        ["progress", "on_log", "session", "parts", "clock", "entropy"]
    )
    public = {name for name in vars(make) if not name.startswith("_")}
    assert public == {"aclose", "attach", "map", "map_reduce", "reattach", "storage", "submit"}


def test_map_and_its_kin_take_these() -> None:
    make = dayfly.FunctionExecutor
    assert positional(make.map) == ["self", "fn", "iterdata"]
    assert keywords(make.map) == MAP_KEYS
    assert positional(make.map_reduce) == ["self", "fn", "iterdata", "reduce_fn"]
    assert keywords(make.map_reduce) == {
        name: default for name, default in MAP_KEYS.items() if name not in ONLY_MAP
    }
    assert str(inspect.signature(make.submit)).startswith("(self, fn: ")


def test_a_job_offers_these() -> None:
    public = {name for name in vars(dayfly.Job) if not name.startswith("_")}
    assert public == {
        "aclose",
        "as_completed",
        "cancel",
        "cost",
        "done",
        "futures",
        "leave",
        "over",
        "phases",
        "progress",
        "settled",
        "view",
    }


def test_an_outcome_and_the_counts_hold_these() -> None:
    assert dayfly.Outcome.__struct_fields__ == (
        "index",
        "value",
        "error",
        "started",
        "ended",
        "worker",
        "tries",
    )
    assert dayfly.Progress.__struct_fields__ == (
        "total",
        "done",
        "failed",
        "running",
        "workers_ready",
        "workers_coming",
        "waiting",
    )


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src"), "HOME": os.environ["HOME"]},
    )
    return set(done.stdout.split())


def test_importing_the_executor_imports_what_every_program_needs() -> None:
    """Each of the others costs milliseconds, and is imported by whoever needs it."""
    late = {"aiohttp", "asyncssh", "rich", "yaml", "zipfile", "tarfile", "html"}
    assert not loaded_after("from dayfly import FunctionExecutor") & late


def test_importing_dayfly_imports_nothing_heavy() -> None:
    heavy = {"aiohttp", "asyncio", "asyncssh", "cloudpickle", "msgspec", "rich", "yaml"}
    assert not loaded_after("import dayfly") & heavy


def test_the_executor_needs_neither_ssh_nor_http_nor_rich_to_be_made() -> None:
    heavy = {"aiohttp", "asyncssh", "rich", "IPython"}
    assert not loaded_after("import dayfly\ndayfly.FunctionExecutor()") & heavy
