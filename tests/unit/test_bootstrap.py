"""What a VM is told to become."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import msgspec
import pytest
import yaml

from dayfly import bootstrap
from dayfly.model import Access, DismantlePolicy, InstanceSpec, StorageConfig, WorkerConfig

HOST = bootstrap.HostIdentity(private_key="PRIVATE", public_key="PUBLIC", certificate="CERT")
CONFIG = WorkerConfig(
    instance="i-1",
    master_host="127.1.2.3",
    master_port=8080,
    secret="s3cret-of-the-worker",
    processes=2,
    runtime="python3",
    storage=StorageConfig(kind="localhost", location="here"),
    policy=DismantlePolicy(),
)


def test_user_data_is_a_cloud_config_that_arms_the_deadline_at_every_boot() -> None:
    text = bootstrap.user_data(
        host=HOST, authorized_keys=["ssh-ed25519 AAAA us"], policy=DismantlePolicy(hard=77)
    )
    assert text.startswith("#cloud-config\n")
    document = yaml.safe_load(text)
    assert document["ssh_keys"]["ed25519_certificate"] == "CERT"
    assert document["ssh_authorized_keys"] == ["ssh-ed25519 AAAA us"]
    (command,) = document["bootcmd"]
    assert command[:2] == ["sh", "-c"]
    assert "deadline.sh 77" in command[2]
    assert len(text.encode()) < 16 * 1024, "EC2 takes 16 KB of user-data at the most"


def test_no_secret_is_in_the_script_that_others_on_the_vm_may_see() -> None:
    plan = bootstrap.installation(
        "worker", CONFIG, bootstrap.read_package(), runtime="python3", mark="m"
    )
    assert CONFIG.secret not in plan.script
    with tarfile.open(fileobj=io.BytesIO(plan.stdin)) as tar:
        config = tar.extractfile("config.json")
        assert config is not None
        assert msgspec.json.decode(config.read(), type=WorkerConfig) == CONFIG


def test_the_package_that_is_shipped_is_the_one_that_runs_here() -> None:
    package = bootstrap.read_package()
    assert package.files["dayfly/bootstrap.py"] == Path(bootstrap.__file__).read_bytes()
    assert not any("__pycache__" in name for name in package.files)


def test_what_only_clients_read_does_not_travel_to_the_vms() -> None:
    here = Path(bootstrap.__file__).parents[1]
    for name in bootstrap.CLIENT_ONLY:
        assert (here / name).is_file()
        assert name not in bootstrap.read_package().files
    assert {name.rpartition(".")[2] for name in bootstrap.read_package().files} == {"py", "typed"}


@pytest.fixture
def vm(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``systemctl`` and ``sudo`` write down what they are told."""
    tools = tmp_path / "usr/bin"
    tools.mkdir(parents=True)
    for name, body in {
        "systemctl": 'echo "$@" >>"$DAYFLY_ROOT/told"; [ "$1" != is-active ] || exit 3',
        "poweroff": "exit 0",
        "sudo": 'shift; exec "$@"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    return {"DAYFLY_ROOT": str(tmp_path), "PATH": f"{tools}:{os.environ['PATH']}"}


def sh(script: str, vm: dict[str, str], stdin: bytes = b"") -> None:
    done = subprocess.run(["/bin/sh", "-c", script], env=vm, input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def told(vm: dict[str, str]) -> list[str]:
    return (Path(vm["DAYFLY_ROOT"]) / "told").read_text().splitlines()


def test_a_service_is_installed_and_started_by_the_script(vm: dict[str, str]) -> None:
    plan = bootstrap.installation(
        "worker", CONFIG, bootstrap.read_package(), runtime="/opt/python", mark="m"
    )
    sh(plan.script, vm, plan.stdin)
    root = Path(vm["DAYFLY_ROOT"])
    config = root / "etc/dayfly/worker.json"
    assert json.loads(config.read_text())["instance"] == "i-1"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    digest = bootstrap.read_package().digest
    assert (root / "opt/dayfly" / digest / "dayfly/model.py").is_file()
    unit = (root / "etc/systemd/system/dayfly-worker.service").read_text()
    assert "/opt/python -P -m dayfly.worker" in unit
    assert "@USER@" not in unit
    assert told(vm)[-1] == "restart dayfly-worker.service"


def test_a_service_that_runs_this_very_package_is_left_alone(vm: dict[str, str]) -> None:
    plan = bootstrap.installation(
        "worker", CONFIG, bootstrap.read_package(), runtime="python3", mark="m"
    )
    sh(plan.script, vm, plan.stdin)
    running = Path(vm["DAYFLY_ROOT"]) / "usr/bin/systemctl"
    running.write_text('#!/bin/sh\necho "$@" >>"$DAYFLY_ROOT/told"\n')
    before = told(vm)
    sh(plan.script, vm, plan.stdin)
    assert told(vm)[len(before) :] == ["is-active --quiet dayfly-worker.service"]
    left = [p.name for p in (Path(vm["DAYFLY_ROOT"]) / "opt/dayfly").iterdir()]
    assert left == [bootstrap.read_package().digest]


def worker(login: str = "") -> bootstrap.Installation:
    package = bootstrap.read_package()
    return bootstrap.installation(
        "worker", CONFIG, package, runtime="python3", mark="m", login=login
    )


def test_a_password_travels_on_standard_input_only() -> None:
    plan = worker("ubuntu:open: sesame")
    assert plan.script == worker().script, "it tells not even whether there is one"
    with tarfile.open(fileobj=io.BytesIO(plan.stdin)) as tar:
        password = tar.extractfile("password")
        assert password is not None
        assert password.read() == b"ubuntu:open: sesame\n"
        assert tar.getmember("password").mode == 0o600


def test_sshd_of_a_worker_accepts_the_password_of_its_last_installation(
    vm: dict[str, str],
) -> None:
    root = Path(vm["DAYFLY_ROOT"])
    chpasswd = root / "usr/bin/chpasswd"
    chpasswd.write_text('#!/bin/sh\ncat >>"$DAYFLY_ROOT/given"\n')
    chpasswd.chmod(0o755)
    settings = root / "etc/ssh/sshd_config.d/00-dayfly.conf"

    sh(worker().script, vm, worker().stdin)
    assert not settings.exists()
    assert not [line for line in told(vm) if line.startswith("reload")]

    (root / "usr/bin/systemctl").write_text('#!/bin/sh\necho "$@" >>"$DAYFLY_ROOT/told"\n')
    for login in ("ubuntu:one", "ubuntu:two"):
        sh(worker().script, vm, worker(login).stdin)
        assert settings.read_text() == "PasswordAuthentication yes\n"
        assert told(vm)[-2:] == ["reload ssh", "is-active --quiet dayfly-worker.service"]
    assert (root / "given").read_text() == "ubuntu:one\nubuntu:two\n"

    sh(worker().script, vm, worker().stdin)
    assert not settings.exists()
    assert told(vm)[-2] == "reload ssh"
    holders = [p for p in root.rglob("*") if p.is_file() and b"ubuntu:" in p.read_bytes()]
    assert holders == [root / "given"]


def test_sshd_has_another_name_elsewhere(vm: dict[str, str]) -> None:
    root = Path(vm["DAYFLY_ROOT"])
    for name, body in {
        "chpasswd": "cat >/dev/null",
        "systemctl": 'echo "$@" >>"$DAYFLY_ROOT/told"; [ "$2" != ssh ]',
    }.items():
        (root / "usr/bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (root / "usr/bin" / name).chmod(0o755)
    sh(worker().script, vm, worker("ec2-user:one").stdin)
    assert told(vm)[:2] == ["reload ssh", "reload sshd"]


def test_the_master_lets_nobody_in_by_password(vm: dict[str, str]) -> None:
    plan = bootstrap.installation(
        "master", CONFIG, bootstrap.read_package(), runtime="python3", mark="m"
    )
    assert "chpasswd" not in plan.script


@pytest.mark.parametrize(
    ("deadline", "powers_off"),
    [
        ("1", True),  # long past
        ("1.75", True),  # fractions are cut
        ("never", False),
        ("99999999999", False),
        (None, False),  # not told yet: the cap, which is far
        ("rubbish", False),
        ("", False),
    ],
)
def test_the_vm_powers_itself_off_at_its_own_deadline(
    vm: dict[str, str], deadline: str | None, powers_off: bool
) -> None:
    assert keeps_deadline(vm, deadline, DismantlePolicy(hard=1000)) is powers_off


def test_without_a_word_from_anyone_the_cap_counts_from_boot(vm: dict[str, str]) -> None:
    assert keeps_deadline(vm, None, DismantlePolicy(hard=1))


def test_auto_dismantle_off_means_no_deadline_at_all(vm: dict[str, str]) -> None:
    assert not keeps_deadline(vm, None, DismantlePolicy(hard=1, auto=False))


def test_what_is_secret_is_not_printed() -> None:
    access = Access(**dict.fromkeys(Access.__struct_fields__, "hush"))
    assert repr(access) == (
        "Access(cluster='hush', serial='hush', user_key=***, user_public_key='hush', "
        "host_ca_key=***, host_ca_public_key='hush', client_secret=***, worker_secret=***)"
    )
    host = bootstrap.HostIdentity(private_key="hush", public_key="p", certificate="c")
    assert repr(host) == "HostIdentity(private_key=***, public_key='p', certificate='c')"
    spec = InstanceSpec(
        role="worker", instance_types=[], on_poweroff="stop", user_data="hush", tags={}
    )
    assert "hush" not in repr(spec)


def keeps_deadline(vm: dict[str, str], deadline: str | None, policy: DismantlePolicy) -> bool:
    """Arm the deadline as the VM's service manager would; whether it powers off."""
    sh(bootstrap.arm_deadline(policy), vm)
    root = Path(vm["DAYFLY_ROOT"])
    assert told(vm) == ["daemon-reload", "start --no-block dayfly-deadline.service"]
    if deadline is not None:
        (root / "run/dayfly").mkdir(parents=True)
        (root / "run/dayfly/deadline").write_text(deadline)
    unit = (root / "etc/systemd/system/dayfly-deadline.service").read_text()
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", start.removeprefix("ExecStart=")],
        env=vm,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        patience = 2.5 if policy.hard == 1 else 0.3
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if "poweroff" in told(vm):
                return True
            time.sleep(0.02)
        return False
    finally:
        os.killpg(keeper.pid, 9)
        keeper.wait()
