"""Functions in a container image: `runtime: registry/name:tag`."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly import FunctionExecutor
from dayfly.errors import CallCrashedError, DayflyError, EnvironmentFailedError
from dayfly.model import LogLine
from tests.machines import images, registry
from tests.machines.box import Run
from tests.machines.fixtures import Ec2Box
from tests.machines.registry import MARKER, PASSWORD, USER, Registry

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]

LOGIN = {"docker_server": registry.NAME, "docker_user": USER, "docker_password": PASSWORD}


@pytest.fixture
def hub(run: Run, box: Ec2Box, tmp_path: Path) -> Iterator[Registry]:
    """A private registry that machines trust, and machines that can run containers."""
    program = images.engine(run, images.DOCKER) / "usr/bin/docker-registry"
    with registry.serving(tmp_path / "registry", program) as served:
        box.machines.containers = True
        box.machines.files[f"/etc/docker/certs.d/{registry.NAME}/ca.crt"] = served.ca
        box.index.open()
        yield served


def tools(run: Run, hub: Registry, **config: Any) -> str:
    """An image with the Python minor version of the tests: Debian 12's."""
    layer = registry.layer_of(images.stock(run, "bookworm"), run.cache)
    return hub.push("team/tools:1", layer, **config)


def executor(box: Ec2Box, runtime: str, **keys: Any) -> FunctionExecutor:
    given: dict[str, Any] = (
        {"max_workers": 1, "worker_processes": 2, "target_ami": images.DOCKER} | LOGIN | keys
    )
    return FunctionExecutor(
        config=box.config,
        progress=False,
        runtime=runtime,
        package_index=[box.index.url],
        **given,
    )


def inside(box: Ec2Box, instance: str, command: str) -> str:
    """Run a command as root of a machine."""
    cgroup = box.machines.run.cgroup / box.machines.node(instance).machine.name
    processes = sorted(
        int(pid) for path in cgroup.rglob("cgroup.procs") for pid in path.read_text().split()
    )
    init = next(pid for pid in processes if Path(f"/proc/{pid}/comm").read_text() == "systemd\n")
    enter = ["nsenter", f"--target={init}", "--all", "--", "sh", "-c", command]
    done = subprocess.run(enter, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def worker(box: Ec2Box) -> str:
    (one,) = box.instances("worker", "running")
    return one.id


async def no_container_is_left(box: Ec2Box, engine: str = "docker") -> None:
    """Those of idle runners are there; nothing of those that were killed."""
    async with asyncio.timeout(20):
        while True:
            left = inside(box, worker(box), f"{engine} ps --all --format '{{{{.Status}}}}'")
            if len(left.split("\n")) - 1 == 2 and "Exited" not in left and "Dead" not in left:
                return
            await asyncio.sleep(0.2)


async def test_functions_run_in_an_image_of_a_private_registry(
    box: Ec2Box, hub: Registry, run: Run
) -> None:
    image = tools(run, hub)

    def look(x: int) -> tuple[int, bool, bool, str]:
        import os

        print("in", x)
        image, host = (os.access(path, os.F_OK) for path in (MARKER, "/usr/bin/apt-get"))
        return x, image, host, os.environ["WORD"]

    lines: list[LogLine] = []
    async with executor(box, image, on_log=lines.append) as ex:
        job = ex.map(look, range(12), extra_env={"WORD": "given"})
        assert await job == [(x, True, False, "given") for x in range(12)]
        assert f"in the container image {image} (sha256:" in "\n".join(line.text for line in lines)
        assert "in 7" in [line.text for line in lines]
        # While the containers are there.
        told = inside(box, worker(box), "docker ps -q | xargs docker inspect; ps axww; id")
        assert "dayfly-" in told
        assert "host" in re.findall(r'"NetworkMode": "(\w+)"', told)
        assert PASSWORD not in told
        seen = inside(
            box,
            worker(box),
            f"grep -rlF {PASSWORD} /etc /tmp /root /home /var/lib/dayfly /var/log /run"
            " --exclude-dir=docker --exclude-dir=modules 2>/dev/null | xargs -r ls -l",
        )
        assert re.fullmatch(r"-rw------- 1 debian debian \d+ .* /etc/dayfly/worker.json\n", seen)


async def test_calls_end_in_a_container_as_they_do_without_one(
    box: Ec2Box, hub: Registry, run: Run
) -> None:
    async with executor(box, tools(run, hub)) as ex:
        fatal = {
            "import ctypes; ctypes.string_at(0)": "SIGSEGV",
            "import os; os._exit(3)": "exit status 3",
            "import os; os.kill(os.getpid(), 9)": "SIGKILL",
        }
        job = ex.map(exec, [*fatal, "pass"], return_exceptions=True)
        *crashed, last = await job
        assert last is None
        for error, told in zip(crashed, fatal.values(), strict=True):
            assert isinstance(error, CallCrashedError)
            assert told in str(error)
        await no_container_is_left(box)
        strays = "import os, time; os.system('setsid sleep 4242 &'); time.sleep(60)"
        [late] = await ex.map(exec, [strays], timeout=1, return_exceptions=True)
        assert "1 s" in str(late)
        await no_container_is_left(box)
        assert "sleep 4242" not in inside(box, worker(box), "ps axww | grep -v grep")
        long = ex.map(exec, ["import time; time.sleep(60)"] * 2)
        await asyncio.sleep(1)
        long.cancel()
        assert await ex.map(abs, [-1]) == [1]
        await no_container_is_left(box)


async def test_what_cannot_be_pulled_is_told_by_name_and_the_next_job_may_do_better(
    box: Ec2Box, hub: Registry, run: Run
) -> None:
    image = tools(run, hub)
    with pytest.raises(EnvironmentFailedError) as failed:
        async with executor(box, image, docker_password="wrong") as ex:
            await ex.map(abs, range(8))
    assert f"refuses the login of the user 'reader', for the container image {image}" in str(
        failed.value
    )
    assert "wrong" not in str(failed.value)
    with pytest.raises(EnvironmentFailedError, match=r"no container image .*/team/none:1 in the"):
        async with executor(box, f"{registry.NAME}/team/none:1") as ex:
            await ex.map(abs, range(8))
    # The master has been up all the time; the worker of the wrong password is not taken for this.
    async with executor(box, image) as ex:
        assert await ex.map(abs, range(4)) == [0, 1, 2, 3]
    # Nor are those of containers taken for functions that want none.
    before = {life.id for life in box.instances("worker")}
    async with executor(
        box, "python3", environment="none", docker_user="", docker_password=""
    ) as ex:
        [there] = await ex.map(
            lambda path: __import__("os").path.exists(path), ["/usr/bin/apt-get"]
        )
        assert there
    assert {life.id for life in box.instances("worker")} - before


async def test_podman_does_as_well(box: Ec2Box, hub: Registry, run: Run) -> None:
    image = tools(run, hub, User="1000")
    async with executor(box, image, target_ami=images.PODMAN) as ex:
        who = "import os; assert os.getuid() == 1000 and os.path.exists('/etc/in-the-image')"
        crash = "import os; os._exit(3)"
        fine, crashed = await ex.map(exec, [who, crash], return_exceptions=True)
        assert fine is None
        assert "exit status 3" in str(crashed)
        await no_container_is_left(box, "podman")
    with pytest.raises(EnvironmentFailedError, match="refuses the login of the user 'reader'"):
        async with executor(
            box, image, docker_password="wrong", target_ami=images.PODMAN, exec_mode="create"
        ) as ex:
            await ex.map(abs, range(2))


async def test_an_engine_is_installed_where_there_is_none(
    box: Ec2Box, hub: Registry, run: Run
) -> None:
    box.machines.files["/etc/apt/sources.list"] = f"deb {box.index.base}/debian bookworm main\n"
    async with executor(box, tools(run, hub), target_ami=images.BOOKWORM) as ex:
        [there] = await ex.map(lambda path: __import__("os").path.exists(path), [MARKER])
        assert there
    print(inside(box, worker(box), "cat /tmp/dayfly/worker-service.log"))


async def test_an_image_with_another_python_is_refused(
    box: Ec2Box, hub: Registry, run: Run, trixie: str
) -> None:
    layer = registry.layer_of(images.stock(run, "trixie"), run.cache)
    image = hub.push("team/newer:1", layer)
    async with executor(box, image) as ex:
        with pytest.raises(DayflyError) as refused:
            await ex.map(abs, range(4))
    assert f"Python in the container image {image} is cpython 3.13" in str(refused.value)
    assert "use an image with cpython 3.11, or run this program with cpython 3.13" in str(
        refused.value
    )


async def test_gpus_that_are_not_there_are_told(box: Ec2Box, hub: Registry, run: Run) -> None:
    async with executor(box, tools(run, hub), use_gpu=True) as ex:
        with pytest.raises(EnvironmentFailedError, match="cannot give its GPUs") as failed:
            await ex.map(abs, range(4))
    assert "container toolkit" in str(failed.value)
