"""Functions in a container image: how the engine is asked, and what becomes of its failures.

The engine here is a stand-in that runs what it is told without a container; machine tests run the
real ones (tests/machines/test_containers.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.clock import SystemClock
from dayfly.errors import EnvironmentFailedError, SerializationError
from dayfly.model import OutcomeKind, Registry
from dayfly.phases import Timeline
from dayfly.runtimes import Runtime
from dayfly.storage.directory import DirectoryStorage
from dayfly.wire import messages as m
from dayfly.worker.containers import contained as contained_module
from dayfly.worker.containers import words
from dayfly.worker.containers.contained import Contained, Place
from dayfly.worker.containers.engine import Engine as ContainerEngine
from dayfly.worker.containers.engine import run
from dayfly.worker.containers.images import ImageEnvironments
from dayfly.worker.pool import Pool
from dayfly.worker.spawn import Command
from tests.unit.master_support import POLICY, instance, master, spec, submit, until
from tests.unit.worker_support import Bench, Owner, alive, error_of

IMAGE = "registry.example.com/team/tools:1"
ENGINE = """#!{python}
import json, os, sys
folder = {folder!r}
words = sys.argv[1:]
with open(folder + "/asked", "a") as asked:
    told = {{"words": words, "config": os.environ.get("DOCKER_CONFIG", "")}}
    if "login" in words:
        config = told["config"]
        open(config + "/config.json", "w").write("credentials")
        told["password"] = sys.stdin.read()
    asked.write(json.dumps(told) + "\\n")
for word, status, text in json.load(open(folder + "/failures")):
    if word in words:
        print(text, file=sys.stderr)
        sys.exit(status)
if words[0] == "image":
    print(json.dumps([{{"Id": "sha256:abc", "RepoDigests": ["x@sha256:def"]}}]))
if words[0] == "run":
    rest = words[words.index("sha256:abc") + 1:]
    os.execv({python!r}, [{python!r}, *rest])
"""


class Engine:
    """The stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failures: list[tuple[str, int, str]] = []
        program = folder / "docker"
        program.write_text(ENGINE.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        self.fail()

    def fail(self, *failures: tuple[str, int, str]) -> None:
        """Each: when this word is among its arguments, the status and what is said."""
        (self.folder / "failures").write_text(json.dumps(failures))

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "asked").read_text().splitlines()]

    def runs(self) -> list[list[str]]:
        return [each["words"] for each in self.asked if each["words"][0] == "run"]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder of few letters: sockets lie in it, whose paths have 107 bytes at the most."""
    with tempfile.TemporaryDirectory(prefix="dfly-") as name:
        yield Path(name)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    folder = tmp_path / "bin"
    folder.mkdir()
    sudo = folder / "sudo"
    sudo.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Engine(folder)


@pytest.fixture
def images(tmp_path: Path) -> ImageEnvironments:
    return images_of(tmp_path)


def images_of(
    folder: Path, registry: Registry | None = None, *, gpu: bool = False, login: str = ""
) -> ImageEnvironments:
    return ImageEnvironments(
        Runtime(IMAGE, gpu, login),
        registry or Registry(),
        "w-1",
        Timeline(SystemClock()),
        folder=folder / "c",
        modules=folder / "modules",
    )


@contextlib.asynccontextmanager
async def contained(
    images: ImageEnvironments, processes: int = 1, storage: DirectoryStorage | None = None
) -> AsyncIterator[Bench]:
    owner = Owner(storage)
    command = Command(interpreter=IMAGE, environment={}, directory="/")
    pool = Pool(
        owner, command, processes=processes, worker="w-1", clock=SystemClock(), runner=images.start
    )
    await images.bring("")
    pool.start()
    try:
        async with asyncio.timeout(30):
            yield Bench(pool, owner)
    finally:
        await pool.aclose()


async def test_calls_run_and_print_as_without_a_container(
    engine: Engine, images: ImageEnvironments, tmp_path: Path
) -> None:
    def shows(x: int) -> tuple[int, str]:
        print("it is", x)
        return x, os.environ["DAYFLY_IMAGE"]

    async with contained(images, 2) as b:
        assert await b.values(shows, range(20)) == [(x, IMAGE) for x in range(20)]
        assert b.texts(7) == ["it is 7"]
        await b.values(os.system, ["echo a child says so"], job="child")
        assert "a child says so" in b.texts(0)
    assert len(engine.runs()) == 3, "one to see which Python it has, and one for each runner"
    assert images.told == f"in the container image {IMAGE} (sha256:def), {python()}"
    assert list((tmp_path / "c" / "runners").iterdir()) == []


def python() -> str:
    return "Python " + ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("fatal", "told"),
    [
        ("import os; os._exit(3)", "exit status 3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV (segmentation fault"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL, most likely for memory"),
        ("import os, time; os.closerange(3, 100); time.sleep(60)", "closed the file descriptors"),
    ],
)
async def test_a_call_that_ends_its_process_is_told_as_without_a_container(
    engine: Engine, images: ImageEnvironments, fatal: str, told: str
) -> None:
    async with contained(images) as b:
        outcomes = await b.run(exec, ["pass", fatal, "pass"])
    assert outcomes[1].kind is OutcomeKind.CRASHED
    assert told in outcomes[1].payload.decode()
    assert [outcomes[0].kind, outcomes[2].kind] == [OutcomeKind.VALUE] * 2


async def test_calls_are_timed_out_and_cancelled_as_without_a_container(
    engine: Engine, images: ImageEnvironments
) -> None:
    async with contained(images) as b:
        [outcome] = await b.run(time.sleep, [60], timeout=0.3)
        assert outcome.kind is OutcomeKind.TIMED_OUT
        b.open(exec, job="long")
        b.add(["import os, time; print(os.getpid(), flush=True); time.sleep(60)"], job="long")
        await b.owner.until(lambda: bool(b.owner.lines))
        b.pool.revoke("long", {0})
        [cancelled] = await b.outcomes(1, job="long")
        assert cancelled.kind is OutcomeKind.CANCELLED
        assert not alive(int(b.owner.lines[0].text))


async def test_files_come_and_go_by_way_of_storage(
    engine: Engine, images: ImageEnvironments, tmp_path: Path
) -> None:
    def passes(path: str, storage: Any) -> str:
        storage.upload_file(path, "there")
        storage.download_file("there", path + ".back")
        return Path(path + ".back").read_text()

    (tmp_path / "file").write_text("content")
    async with contained(images, storage=DirectoryStorage(tmp_path / "s")) as b:
        assert await b.values(passes, [str(tmp_path / "file")]) == ["content"]
        [outcome] = await b.run(passes, ["/nowhere/at/all"], job="two")
        assert type(error_of(outcome)).__name__ == "StorageError", "as without a container"


async def test_another_python_than_the_clients_is_refused_by_the_images_name(
    engine: Engine, images: ImageEnvironments
) -> None:
    header = {"format": 1, "python": [3, 2], "implementation": "cpython"}
    async with contained(images) as b:
        [outcome] = await b.run(abs, [1], payload=json.dumps(header).encode() + b"\nnever read")
    text = str(error_of(outcome))
    assert type(error_of(outcome)) is SerializationError
    assert f"Python in the container image {IMAGE} is cpython" in text
    assert "use an image with cpython 3.2, or run this program with cpython 3." in text


async def test_the_password_goes_in_by_standard_input_and_is_gone_with_the_pull(
    engine: Engine, tmp_path: Path
) -> None:
    registry = Registry(server="registry.example.com", user="me", password="pass-word")
    images = images_of(tmp_path, registry)
    await images.bring("")
    (login,) = [each for each in engine.asked if "login" in each["words"]]
    assert login["password"] == "pass-word"
    assert login["words"][-1] == "registry.example.com"
    (pull,) = [each for each in engine.asked if "pull" in each["words"]]
    assert pull["config"] == login["config"]
    assert not Path(pull["config"]).exists()
    assert not any("pass-word" in word for each in engine.asked for word in each["words"])
    assert "pass-word" not in repr(registry)


async def test_a_login_that_the_master_has_lost_is_told_as_that_with_what_to_do(
    engine: Engine, tmp_path: Path
) -> None:
    engine.fail(("pull", 1, "denied: requested access is denied"), ("image", 1, "No such image"))
    images = images_of(tmp_path, login="1a2b3c4d")
    with pytest.raises(EnvironmentFailedError, match="is lost") as failed:
        await images.bring("")
    assert "the master was started anew" in str(failed.value)
    assert "dayfly clean" in str(failed.value)
    assert not failed.value.everywhere, "a VM that was installed before has the login"


async def test_what_a_refused_login_has_written_root_clears_away(
    engine: Engine, tmp_path: Path
) -> None:
    rm, cleared = engine.folder / "rm", tmp_path / "cleared"
    rm.write_text(f'#!/bin/sh\necho "$@" >>{cleared}\nexec {shutil.which("rm")} "$@"\n')
    rm.chmod(0o755)
    engine.fail(("login", 1, "Error: unauthorized: incorrect username or password"))
    registry = Registry(server="registry.example.com", user="me", password="pass-word")
    with pytest.raises(EnvironmentFailedError, match="refuses the login"):
        await images_of(tmp_path, registry).bring("")
    (login,) = [each for each in engine.asked if "login" in each["words"]]
    assert login["config"] in cleared.read_text()
    assert not Path(login["config"]).exists()


async def test_a_refused_login_and_a_missing_image_are_told_by_name(
    engine: Engine, tmp_path: Path
) -> None:
    registry = Registry(server="registry.example.com", user="me", password="pass-word")
    engine.fail(("login", 1, "Error: unauthorized: incorrect username or password"))
    with pytest.raises(EnvironmentFailedError) as failed:
        await images_of(tmp_path, registry).bring("")
    assert failed.value.what == (
        f"the registry registry.example.com refuses the login of the user 'me', for the "
        f"container image {IMAGE}"
    )
    engine.fail(("pull", 1, "manifest unknown"), ("image", 1, "No such image"))
    images = images_of(tmp_path)
    told = await asyncio.gather(*[images.bring("") for _ in range(3)], return_exceptions=True)
    for each in told:
        assert isinstance(each, EnvironmentFailedError)
        assert each.everywhere, "no other VM is asked"
        assert each.what == (
            f"there is no container image {IMAGE} in the registry registry.example.com"
        )
    pulls = [each for each in engine.asked if "pull" in each["words"]]
    assert len(pulls) == 1, "all that wait for it are told of one failure"
    engine.fail()
    assert await images.bring("") == "", "the next one tries again"


async def test_gpus_are_asked_for_and_their_lack_is_told(engine: Engine, tmp_path: Path) -> None:
    await images_of(tmp_path, gpu=True).bring("")
    (first,) = engine.runs()
    assert first[first.index("--gpus") + 1] == "all"
    said = 'could not select device driver "" with capabilities: [[gpu]]'
    engine.fail(("run", 125, said))
    with pytest.raises(EnvironmentFailedError, match="cannot give its GPUs") as failed:
        await images_of(tmp_path, gpu=True).bring("")
    assert "container toolkit" in failed.value.hint


async def test_an_image_without_python_is_told(engine: Engine, images: ImageEnvironments) -> None:
    engine.fail(("run", 127, 'exec: "python3": executable file not found in $PATH'))
    with pytest.raises(EnvironmentFailedError, match="has no python3 on its PATH"):
        await images.bring("")


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (126, "exec /usr/bin/python3: exec format error", "cannot be executed"),
        (126, "crun: setrlimit: Operation not permitted", "engine cannot run a container"),
        (125, "invalid reference", "engine cannot run a container"),
        (127, "", "has no python3"),
        (139, "", "exit status 139"),
        (None, "", "did not begin"),
    ],
)
def test_why_a_container_did_not_begin_is_told(status: int | None, said: str, told: str) -> None:
    what, _ = words.no_container(IMAGE, status, said)
    assert told in what
    assert IMAGE in what


async def test_an_engine_that_breaks_later_fails_the_calls_and_says_so(
    engine: Engine, images: ImageEnvironments
) -> None:
    await images.bring("")
    engine.fail(("--name", 125, "docker: Cannot connect to the Docker daemon"))
    async with contained(images) as b:
        [outcome] = await b.run(abs, [1])
    assert outcome.kind is OutcomeKind.CRASHED
    assert "Cannot connect to the Docker daemon" in outcome.payload.decode()


def place(folder: Path, program: str) -> Place:
    """What a container is made of, by an engine that is a shell script."""
    command = folder / "engine"
    command.write_text(f"#!/bin/sh\n{program}")
    command.chmod(0o755)
    return Place(
        engine=ContainerEngine("docker", (str(command),)),
        image=IMAGE,
        id="sha256:abc",
        gpu=False,
        ours=folder,
        modules=folder,
        folder=folder / "runners",
    )


@pytest.mark.parametrize("obeys", [True, False])
async def test_an_engine_that_takes_its_time_to_end_a_container_holds_up_no_other_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, obeys: bool
) -> None:
    monkeypatch.setattr(contained_module, "LEAVE", 0.1)
    pid, ender, go_on = (tmp_path / name for name in ("pid", "ender", "go-on"))
    os.mkfifo(go_on)
    ends = f'kill -9 "$(cat {pid})"' if obeys else ":"
    stuck = place(
        tmp_path,
        f"case $1 in run) echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 60;; "
        f"rm) echo $$ >{ender}; {ends}; read -r line <{go_on};; esac\n",
    )
    body = Contained(stuck, Command(interpreter=IMAGE, environment={}, directory="/"), "1")
    ended = asyncio.Event()
    let_go = body.watch(ended.set)
    await until(pid.exists)
    body.kill()
    async with asyncio.timeout(10):
        await ended.wait()
    let_go()
    assert body.bury().status == -signal.SIGKILL
    await until(lambda: ender.exists() and bool(ender.read_text()))
    begun = time.monotonic()
    body.close()
    assert time.monotonic() - begun < 0.5
    go_on.write_text("go on\n")
    await until(lambda: not Path("/proc", ender.read_text().strip()).exists())


@pytest.mark.parametrize("full", ["tempfile.TemporaryFile", "os.pipe", "subprocess.Popen"])
async def test_a_container_that_cannot_be_started_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    command = Command(interpreter=IMAGE, environment={}, directory="/")
    made = place(tmp_path, "exit 1\n")
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(full, refuse)
        with pytest.raises(OSError, match="No space left"):
            Contained(made, command, "1")
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before
    assert list((tmp_path / "runners").iterdir()) == []


async def test_what_containers_share_anybody_may_read_and_their_folders_nobody_else(
    engine: Engine, images: ImageEnvironments, tmp_path: Path
) -> None:
    await images.bring("")
    ours = tmp_path / "c" / "ours"
    assert (ours / "cloudpickle" / "__init__.py").exists()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in ours.rglob("*")}
    assert modes == {0o644, 0o755}
    assert stat.S_IMODE((tmp_path / "c" / "runners").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Error response from daemon: manifest for x:1 not found: manifest unknown", "there is no"),
        ("pull access denied for x, repository does not exist or may require", "does not give"),
        ("reading manifest 1 in x: unauthorized: authentication required", "does not give"),
        ("write /var/lib/docker/tmp/x: no space left on device", "has no room"),
        ('Get "https://x/v2/": dial tcp 10.0.0.1:443: connect: connection refused', "be reached"),
        (
            "net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
            "be reached",
        ),
        ("read tcp 10.0.0.1:443: read: connection reset by peer", "be reached"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "processors"),
        ("tls: failed to verify certificate: x509: certificate signed by", "certificate"),
        ("toomanyrequests: You have reached your pull rate limit", "no more for now"),
        ("something else", "could not be had"),
    ],
)
def test_what_an_engine_says_of_a_pull_is_told_in_our_words(said: str, told: str) -> None:
    error = words.no_image(IMAGE, Registry(), said, "w-1")
    assert told in error.what
    assert "registry.example.com" in error.what or IMAGE in error.what
    assert said in str(error)


async def test_a_disk_that_is_full_is_told_and_the_worker_lives(
    engine: Engine, images: ImageEnvironments, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_: object, **__: object) -> None:
        raise shutil.Error([("source", "target", str(full))])

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", refuse)
        with pytest.raises(
            EnvironmentFailedError, match=r"disk is full: .* files are left"
        ) as told:
            await images.bring("")
    assert (told.value.kind, told.value.vm) == ("disk", "w-1")
    assert await images.bring("") == ""


async def test_an_image_whose_python_greets_is_used(
    engine: Engine, images: ImageEnvironments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import sys\nif '-c' in sys.orig_argv: print('welcome')\n"
    (tmp_path / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert await images.bring("") == ""


async def test_a_pull_that_takes_too_long_is_ended_though_sudo_is_not_ours_to_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: asyncio.subprocess.Process) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(asyncio.subprocess.Process, "terminate", refuse)
    pid = tmp_path / "pid"
    done = await run(["sh", "-c", f"echo $$ >{pid}; exec sleep 50"], b"", 0.5)
    assert done.status is None
    assert "still running" in done.errors
    await until(lambda: not alive(int(pid.read_text())))


async def test_without_an_engine_it_is_installed_by_apt_or_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    for name in ("mktemp", "rm", "grep", "tee", "date", "timeout", "mkdir", "sh", "cat"):
        (empty / name).symlink_to(shutil.which(name, path=os.defpath) or f"/bin/{name}")
    monkeypatch.setenv("DAYFLY_ROOT", str(tmp_path))
    with pytest.raises(
        EnvironmentFailedError, match=r"docker\.io could not be installed"
    ) as failed:
        await images_of(tmp_path).bring("")
    assert "there is no apt-get" in failed.value.cause
    assert failed.value.hint.startswith("use a target_ami that has docker or podman")
    apt = empty / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: Unable to locate package docker.io' >&2; exit 100\n")
    apt.chmod(0o755)
    (empty / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (empty / "sudo").chmod(0o755)
    (empty / "env").symlink_to("/usr/bin/env")
    with pytest.raises(EnvironmentFailedError, match="its sources have no docker") as failed:
        await images_of(tmp_path).bring("")
    assert "Unable to locate package docker.io" in failed.value.cause


async def test_a_password_is_in_the_masters_memory_and_on_no_disk(tmp_path: Path) -> None:
    registry = Registry(server="registry.example.com", user="me", password="pass-word")
    async with master(tmp_path) as service, service.client() as door:
        adopt = m.Adopt(instances=[instance("w1")], policy=POLICY, registry=registry)
        assert "pass-word" not in repr(adopt)
        await door.send(adopt)
        await until(lambda: bool(service.installer.registries))
        assert service.installer.registries == {"w1": registry}
        await submit(door, spec(), 1)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if b"pass-word" in path.read_bytes()]
