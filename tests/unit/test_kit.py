"""A bare VM gets its packages: what works, what comes in between, what is killed."""

from __future__ import annotations

import ast
import fcntl
import io
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dayfly.environment.order import FileOrder
from dayfly.environment.program import program
from tests.unit.kit_support import Index, Vm, ended


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    with made.serving():
        yield made


@pytest.fixture
def vm(tmp_path: Path, index: Index, tmp_path_factory: pytest.TempPathFactory) -> Vm:
    root = tmp_path / "vm"
    root.mkdir()
    return Vm(root, index, tmp_path_factory.getbasetemp() / "uv.whl")


@pytest.fixture
def pandas(vm: Vm) -> FileOrder:
    return vm.file("tinypandas", "import tinynumpy\ntold = 'pandas on ' + tinynumpy.told")


@pytest.fixture
def numpy(vm: Vm) -> FileOrder:
    return vm.file("tinynumpy", "told = 'numpy'")


def test_it_needs_nothing_but_the_standard_library_of_an_old_python() -> None:
    with zipfile.ZipFile(io.BytesIO(program())) as packed:
        texts = {name: packed.read(name) for name in packed.namelist()}
    own = {name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in texts}
    names = {
        name if name.startswith("dayfly.") else name.partition(".")[0]
        for text in texts.values()
        for node in ast.walk(ast.parse(text, feature_version=(3, 8)))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= sys.stdlib_module_names | own


def test_the_same_sources_are_sent_as_the_same_file() -> None:
    first = program()
    program.cache_clear()
    assert program() == first


def test_a_bare_vm_gets_packages_and_storage_gets_what_it_lacked(
    vm: Vm, numpy: FileOrder, pandas: FileOrder
) -> None:
    run = vm.run(vm.order(numpy, pandas))
    assert run.done
    assert run.step("fetch")["from"] == {"storage": 1, "index": 2}
    assert run.step("deposit")["files"] == 2
    assert vm.imports("tinypandas") == "pandas on numpy"
    stored = {path for path in vm.index.files if path.startswith("/storage/")}
    assert stored == {f"/storage/{numpy.filename}", f"/storage/{pandas.filename}"}
    assert sorted(path.name for path in vm.home.iterdir()) == ["complete", "lock", "log", "venv"]
    log = (vm.root / "tmp/dayfly/bootstrap.log").read_text()
    assert log == (vm.home / "log").read_text()
    assert "pip install" in log


def test_the_next_vm_asks_storage_and_no_index(vm: Vm, numpy: FileOrder, tmp_path: Path) -> None:
    vm.index.files[f"/storage/{numpy.filename}"] = vm.index.files.pop(f"/index/{numpy.filename}")
    run = vm.run(vm.order(numpy))
    assert run.done
    assert run.step("fetch")["from"] == {"storage": 2}
    assert vm.index.asked == [f"GET /storage/{numpy.filename}"]


def test_what_is_there_is_found_at_once_and_nobody_is_asked(vm: Vm, numpy: FileOrder) -> None:
    assert vm.run(vm.order(numpy)).done
    vm.index.asked.clear()
    run = vm.run(vm.order(numpy))
    assert run.done
    assert [line.get("step") for line in run.lines] == ["lock", None]
    assert run.last["seconds"] < 0.1
    assert vm.index.asked == []


def test_another_environment_of_the_vm_takes_the_same_files_from_the_disk(
    vm: Vm, numpy: FileOrder, pandas: FileOrder
) -> None:
    assert vm.run(vm.order(numpy)).done
    run = vm.run(vm.order(numpy, pandas, key="another"))
    assert run.step("fetch")["from"] == {"disk": 2, "index": 1}


def test_a_wheel_that_the_disk_lost_the_end_of_is_fetched_again(vm: Vm, numpy: FileOrder) -> None:
    path = vm.root / "opt/dayfly/wheels" / numpy.sha256 / numpy.filename
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK")
    assert vm.run(vm.order(numpy)).done
    assert vm.imports("tinynumpy") == "numpy"


def test_a_storage_that_is_a_directory_serves_and_keeps_files(
    vm: Vm, numpy: FileOrder, tmp_path: Path
) -> None:
    kept = tmp_path / "storage" / "a b" / numpy.filename
    source = msgspec.structs.replace(numpy.sources[0], url=kept.as_uri())
    file = msgspec.structs.replace(numpy, sources=(source, numpy.sources[1]), deposit=kept.as_uri())
    assert vm.run(vm.order(file)).step("fetch")["from"] == {"storage": 1, "index": 1}
    assert kept.read_bytes() == vm.index.files[f"/index/{numpy.filename}"]
    assert [path.name for path in kept.parent.iterdir()] == [numpy.filename]


def test_a_storage_that_takes_nothing_is_noted_and_the_environment_is_there(
    vm: Vm, numpy: FileOrder
) -> None:
    vm.index.faults[f"/storage/{numpy.filename}"] = [404, 403]
    run = vm.run(vm.order(numpy))
    assert run.done
    assert "was not kept in storage" in run.notes[0]
    assert "HTTP 403" in run.notes[0]


def test_an_altered_file_in_storage_is_told_and_taken_from_the_index(
    vm: Vm, numpy: FileOrder
) -> None:
    vm.index.files[f"/storage/{numpy.filename}"] = b"something else"
    run = vm.run(vm.order(numpy))
    assert run.done
    assert "what storage has is another file" in run.notes[0]
    assert run.step("fetch")["from"] == {"storage": 1, "index": 1}


def test_an_index_that_is_overloaded_for_a_moment_is_asked_again(vm: Vm, numpy: FileOrder) -> None:
    vm.index.faults[f"/index/{numpy.filename}"] = [503, 429]
    assert vm.run(vm.order(numpy)).done
    assert vm.index.asked.count(f"GET /index/{numpy.filename}") == 3


def test_a_password_in_an_indexs_url_is_sent_as_a_header(vm: Vm, numpy: FileOrder) -> None:
    url = vm.index.url(f"/index/{numpy.filename}", user="me:p%40ss@")
    source = msgspec.structs.replace(numpy.sources[1], url=url)
    assert vm.run(vm.order(msgspec.structs.replace(numpy, sources=(source,)))).done
    assert vm.index.tokens == ["Basic bWU6cEBzcw=="]


def test_an_environment_without_packages_is_an_interpreter(vm: Vm) -> None:
    run = vm.run(vm.order())
    assert run.done
    assert (vm.home / "venv/bin/python").exists()


# -- two at once, and those that are killed --


def test_two_clients_at_once_install_once(vm: Vm, numpy: FileOrder) -> None:
    order = vm.order(numpy)
    runs = [ended(child) for child in [vm.start(order), vm.start(order)]]
    assert [run.done for run in runs] == [True, True]
    assert sorted(run.step("lock")["complete"] for run in runs) == [False, True]
    assert vm.index.asked.count(f"GET /index/{numpy.filename}") == 1


def test_who_waits_too_long_for_another_one_is_told_which_process_it_is(
    vm: Vm, numpy: FileOrder
) -> None:
    vm.home.mkdir(parents=True)
    with (vm.home / "lock").open("w") as held:
        held.write("4321")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        failed = vm.run(vm.order(numpy, deadlines={"lock": 0.2})).last
    assert failed["kind"] == "busy"
    assert "process 4321 holds" in failed["cause"]


@pytest.mark.parametrize("seed", range(6))
def test_a_run_after_a_kill_at_any_moment_succeeds(
    vm: Vm, numpy: FileOrder, pandas: FileOrder, seed: int
) -> None:
    order = vm.order(numpy, pandas)
    chance = random.Random(seed)
    for _ in range(2):
        child = vm.start(order)
        time.sleep(chance.uniform(0.03, 0.5))
        child.kill()
        ended(child)
    assert vm.run(order).done
    assert vm.imports("tinypandas") == "pandas on numpy"
    assert not (vm.home / "part").exists()


def test_a_run_that_is_told_to_stop_says_so_and_leaves_nothing_that_is_trusted(
    vm: Vm, numpy: FileOrder
) -> None:
    vm.index.silent.set()
    child = vm.start(vm.order(numpy))
    while not vm.index.asked:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    run = ended(child)
    assert run.status == 1
    assert run.last["kind"] == "stopped"
    assert "the fetch step was stopped by SIGTERM" in run.last["what"]
    vm.index.silent.clear()
    assert vm.run(vm.order(numpy)).done


def test_what_runs_below_a_stopped_run_is_stopped_too(vm: Vm) -> None:
    slow = vm.file("slow", "import time\ntime.sleep(30)")
    run = vm.run(vm.order(slow, deadlines={"check": 0.5}))
    assert run.last["kind"] == "deadline"
    assert "the check step did not end within 0.5 s" in run.last["what"]
    assert "importing slow" in run.last["cause"]
    with (vm.home / "lock").open() as lock:  # nobody inherits it any more
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_installation_goes_on_when_nobody_listens_any_more(vm: Vm, numpy: FileOrder) -> None:
    reader, writer = os.pipe()
    child = vm.start(vm.order(numpy), stdout=writer)
    os.close(writer)
    os.close(reader)
    assert ended(child).status == 0
    assert vm.run(vm.order(numpy)).step("lock")["complete"]


def test_after_a_power_cut_the_environment_is_looked_over(vm: Vm, numpy: FileOrder) -> None:
    assert vm.run(vm.order(numpy)).done
    marker = vm.home / "complete"
    other = msgspec.json.decode(marker.read_bytes()) | {"boot": "another"}
    marker.write_bytes(msgspec.json.encode(other))
    assert vm.run(vm.order(numpy)).step("lock")["complete"]
    marker.write_bytes(msgspec.json.encode(other))
    module = next(vm.home.glob("venv/lib/python*/site-packages/tinynumpy.py"))
    module.unlink()  # its other name, in the cache of this boot, is another boot's in truth
    module.write_bytes(b"")
    run = vm.run(vm.order(numpy))
    assert "damaged by a power cut" in run.notes[0]
    assert vm.imports("tinynumpy") == "numpy"


def test_an_image_is_complete_at_any_boot(vm: Vm, numpy: FileOrder) -> None:
    assert vm.run(vm.order(numpy, durable=True)).done
    assert msgspec.json.decode((vm.home / "complete").read_bytes())["boot"] == ""
    assert vm.run(vm.order(numpy)).step("lock")["complete"]


def test_an_interpreter_that_is_gone_is_noticed(vm: Vm, numpy: FileOrder) -> None:
    assert vm.run(vm.order(numpy)).done
    python = vm.home / "venv/bin/python"
    python.unlink()
    python.symlink_to("/usr/bin/python2.3")
    assert vm.run(vm.order(numpy)).step("check")
    assert subprocess.run([python, "-c", ""], check=True).returncode == 0


def test_the_lock_of_one_environment_is_not_in_the_way_of_another(vm: Vm, numpy: FileOrder) -> None:
    vm.home.mkdir(parents=True)
    with (vm.home / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert vm.run(vm.order(numpy, key="another")).done
