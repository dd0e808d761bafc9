"""The run: refused unless it was asked for in full, and cleaned whatever happens in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml

from tests.real_aws import settings as said
from tests.real_aws.billed import BilledExecutor
from tests.real_aws.emulated import emulated_account
from tests.real_aws.ledger import Ledger, SpentError
from tests.real_aws.run import FLEET, Run, configuration
from tests.real_aws.settings import RefusedError, Settings

HERE = Path(__file__).parent
#: Seconds for one test, the cleaning after the last one included.
REAL, EMULATED = 1800, 240
SETTINGS = pytest.StashKey[Settings]()
RUN = pytest.StashKey[Run]()

Launcher = Callable[..., BilledExecutor]


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    mine = [item for item in items if HERE in item.path.parents]
    emulated = os.environ.get(said.EMULATED) == "1"
    for item in mine:
        item.add_marker(pytest.mark.real_aws)
        item.add_marker(pytest.mark.timeout(EMULATED if emulated else REAL))
        if not emulated:  # everywhere else sockets reach this machine only
            item.add_marker(pytest.mark.enable_socket)
    yield  # here pytest deselects
    selected = [item for item in items if item in set(mine)]
    if not selected or config.option.collectonly:
        return
    if hasattr(config, "workerinput"):
        return  # to be told where people see it: by each test
    try:
        config.stash[SETTINGS] = _read()
    except RefusedError as refused:
        raise pytest.UsageError(str(refused)) from None


def _read() -> Settings:
    asked = os.environ.get(said.SWITCH) == "1"
    return said.read(
        os.environ,
        # Without the switch not even the instance's own metadata is asked.
        credentials=asked and botocore.session.Session().get_credentials() is not None,
    )


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """The account. After the last test nothing of the run is left in it, or that test fails."""
    if SETTINGS not in request.config.stash:
        one = RefusedError("they are one run with one ledger, on one account: give pytest -n0")
        pytest.fail(str(one), pytrace=False)
    settings = request.config.stash[SETTINGS]
    with ExitStack() as stack:
        # Short, because Unix sockets lie below it and their paths end at 107 bytes.
        home = Path(tempfile.mkdtemp(prefix="dfly-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in [name for name in os.environ if name.startswith("DAYFLY_")]:
            patch.delenv(name)
        emulated = None
        if settings.emulated:
            emulated = stack.enter_context(emulated_account(home, patch))
        else:  # profiles, and the tokens of single sign-on
            (home / ".aws").symlink_to(Path.home() / ".aws")
        config = configuration(settings, emulated)
        config_file = home / "config.yaml"
        config_file.write_text(yaml.safe_dump(config))
        patch.setenv("HOME", str(home))
        patch.setenv("DAYFLY_CONFIG_FILE", str(config_file))
        run = Run(settings, home, config, emulated, Ledger(settings.max_cost))
        try:
            run.begin()
        except RefusedError as refused:
            pytest.exit(str(refused), returncode=pytest.ExitCode.USAGE_ERROR)
        request.config.stash[RUN] = run
        try:
            yield run
        finally:
            run.end()


@pytest.fixture(autouse=True)
def own_home(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of the run: its tests are programs of one user. And the ledger, after each."""
    try:
        run.ledger.check()
    except SpentError as spent:
        pytest.fail(str(spent), pytrace=False)
    folder = Path(tempfile.mkdtemp(dir=run.home))
    monkeypatch.chdir(folder)
    yield run.home
    run.look()


@pytest.fixture
def launcher(run: Run) -> Launcher:
    """Makes executors, each with a cap, a small fleet, and a short rope."""

    def make(**keys: Any) -> BilledExecutor:
        bounds = {"max_cost": run.ledger.for_a_job, "max_workers": 2}
        keys = {**bounds, **keys}
        assert keys["max_workers"] <= FLEET
        return BilledExecutor(run.ledger, config=run.config, progress=False, **keys)

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    run = terminalreporter.config.stash.get(RUN, None)
    if run is None:
        return
    where = "the emulated account" if run.emulated else f"{run.owner} in {run.region}"
    terminalreporter.section(f"{run.settings.run}, {where}")
    for fact in run.facts:
        terminalreporter.write_line(fact)
    terminalreporter.write_line(f"cost: {run.ledger}")
