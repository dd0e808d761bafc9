"""The configuration: where it is found, what it says, and what is refused in which words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dayfly.config import Config, load
from dayfly.errors import ConfigError
from dayfly.model import DismantlePolicy, ExecMode, StorageConfig
from dayfly.runtimes import Runtime

EC2 = {
    "dayfly": {"backend": "aws_ec2"},
    "aws": {"region": "us-east-1"},
    "aws_ec2": {"instance_role": "worker"},
}


def read(text: str, **overrides: Any) -> Config:
    return load(environ={"DAYFLY_CONFIG": text}, **overrides)


def refusal(text: str, **overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, **overrides)
    return str(caught.value)


# -- with nothing at all --


def test_with_no_file_everything_is_embedded() -> None:
    home = Path.home()
    config = load(environ={})
    assert config.dayfly.backend == config.dayfly.storage == "localhost"
    assert config.source == "defaults"
    assert config.localhost.directory == str(home / ".dayfly/localhost")
    assert config.storage_config == StorageConfig(
        kind="localhost", location=str(home / ".dayfly/storage")
    )
    assert config.policy == DismantlePolicy(soft=300.0, hard=3600.0, auto=True)
    assert config.warnings == ()


def test_python3_on_localhost_is_the_python_that_asks() -> None:
    interpreter = Path(load(environ={}).compute.interpreter)
    assert interpreter.parent == Path(sys.executable).parent
    assert interpreter.samefile(sys.executable)
    assert load(environ={}, runtime="/usr/bin/python3").compute.interpreter == "/usr/bin/python3"
    assert load(EC2).compute.interpreter == "python3"


def test_an_empty_file_is_a_configuration() -> None:
    Path(".dayfly_config").write_text("# nothing yet\n")
    assert load(environ={}).dayfly.backend == "localhost"
    Path(".dayfly_config").write_text("dayfly:\nlocalhost:\n")
    assert load(environ={}).localhost.max_workers == 4


# -- where it is found --


def test_the_first_place_wins(own_home: Path) -> None:
    def workers(**given: Any) -> int:
        config: Config = load(**given)
        return config.compute.max_workers

    def text(count: int) -> str:
        return f"localhost: {{max_workers: {count}}}"

    (own_home / ".dayfly").mkdir()
    (own_home / ".dayfly/config").write_text(text(6))
    assert workers(environ={}) == 6
    (own_home / ".dayfly_config").write_text(text(5))
    assert workers(environ={}) == 5
    (own_home / "named").write_text(text(4))
    environ = {"DAYFLY_CONFIG_FILE": "~/named"}
    assert workers(environ=environ) == 4
    environ["DAYFLY_CONFIG"] = json.dumps({"localhost": {"max_workers": 3}})
    assert workers(environ=environ) == 3
    (own_home / "given").write_text(text(2))
    assert workers(config_file="given", environ=environ) == 2
    assert workers(config={"localhost": {"max_workers": 1}}, environ=environ) == 1
    assert workers(config_file=own_home / "given", environ=environ, max_workers=9) == 9


def test_a_mapping_and_a_file_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="config and config_file are given together"):
        load({}, "somewhere")


def test_a_file_that_is_named_must_be_there() -> None:
    with pytest.raises(ConfigError, match=r"/gone \(config_file\) cannot be read") as caught:
        load(config_file="/gone")
    assert caught.value.cause == "No such file or directory"
    with pytest.raises(ConfigError, match=r"DAYFLY_CONFIG_FILE"):
        load(environ={"DAYFLY_CONFIG_FILE": "/gone"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dayfly: [", "$DAYFLY_CONFIG:1 is not YAML"),
        ("a: 1\n\tb: 2", "$DAYFLY_CONFIG:2 is not YAML"),
        ("- dayfly", "sections are needed, such as `dayfly:`, not a list"),
        ("dayfly", "not a single value"),
        ("dayfly: on", "$DAYFLY_CONFIG:1: [dayfly] a section holds `key: value` lines, not a bool"),
        ("!!python/object:os.system {}", "$DAYFLY_CONFIG:1 is not YAML"),
        ("{}\n---\n{}", "is not YAML"),
        ("\0", "is not YAML"),
    ],
)
def test_a_text_of_another_form_is_refused(text: str, told: str) -> None:
    assert told in refusal(text)


def test_a_file_that_is_there_but_cannot_be_read_is_no_empty_one() -> None:
    Path(".dayfly_config").symlink_to(".dayfly_config")
    with pytest.raises(ConfigError, match=r"dayfly_config \(found\) cannot be read"):
        load(environ={})


def test_a_file_that_is_not_text_is_refused() -> None:
    Path(".dayfly_config").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        load(environ={})


# -- what it says --


def test_any_key_of_the_backend_can_be_a_keyword() -> None:
    config = load(
        environ={}, max_workers=2, exec_mode="create", worker_processes=3, soft_dismantle_timeout=1
    )
    assert config.compute.max_workers == 2
    assert config.compute.exec_mode is ExecMode.CREATE
    assert config.compute.worker_processes == 3
    assert config.policy.soft == 1.0


def test_a_keyword_that_is_none_is_not_given() -> None:
    config = load(environ={}, backend=None, storage=None, log_level=None, max_workers=None)
    assert config == load(environ={})


def test_the_backend_can_be_chosen_by_keyword() -> None:
    config = load({**EC2, "dayfly": {"backend": "localhost"}}, backend="aws_ec2", max_workers=7)
    assert config.compute is config.aws_ec2
    assert config.compute.max_workers == 7
    assert config.localhost.max_workers == 4
    assert config.dayfly.storage == "aws_s3"


def test_ec2_takes_its_region_from_the_account_and_s3_from_either() -> None:
    config = load(EC2)
    assert config.aws_ec2.region == config.aws_s3.region == "us-east-1"
    assert config.storage_config == StorageConfig(kind="aws_s3", location="", region="us-east-1")
    own = load({"dayfly": EC2["dayfly"], "aws_ec2": {"region": "eu-west-1", "instance_role": "r"}})
    assert own.aws_s3.region == own.aws_ec2.region == "eu-west-1"


def test_paths_are_absolute(own_home: Path) -> None:
    config = load({"localhost": {"directory": "vms", "storage_directory": Path("/data")}})
    assert config.localhost.directory == str(own_home / "vms")
    assert config.localhost.storage_directory == "/data"
    assert config.localhost.ssh_key_filename == str(own_home / ".ssh/id_rsa")


def test_instance_types_may_be_one_or_several() -> None:
    assert load(EC2, worker_instance_type="m5.large").compute.worker_instance_types == ("m5.large",)
    several = load(EC2, worker_instance_type=["m5.large", "c5.large"])
    assert several.compute.worker_instance_types == ("m5.large", "c5.large")


def test_an_account_number_needs_no_quotes() -> None:
    text = "aws: {account_id: %s}"
    assert read(text % "123456789012").aws.account_id == "123456789012"
    assert read(text % "012345670123").aws.account_id == "012345670123"
    assert "text" in refusal(text % "123")


def test_log_levels_may_be_in_capitals() -> None:
    assert read("dayfly: {log_level: DEBUG}").dayfly.log_level == "debug"


def test_secrets_are_never_shown() -> None:
    secrets = {"access_key_id": "AKIA1", "secret_access_key": "hush", "session_token": "hush"}
    config = load({"aws": secrets})
    assert config.aws.secret_access_key == "hush"
    assert "hush" not in repr(config)
    assert "hush" not in refusal("aws: {secret_access_key: [hush]}")
    assert "hush" not in refusal("aws:\n  secret_access_key: 'hush\n")
    assert "hush" not in repr(load(ssh_password="hush"))
    assert "hush" not in refusal("localhost: {ssh_password: [hush]}")


# -- what is refused --


def test_every_problem_is_told_at_once_with_its_line() -> None:
    told = refusal(
        "dayfly:\n  backend: aws_ec2\n"
        "aws_ec2:\n  max_wrkers: 3\n  worker_processes: 0\n"
        "lokalhost: {}"
    )
    assert told.splitlines()[0] == "5 problems in the configuration:"
    assert "$DAYFLY_CONFIG:4: [aws_ec2] max_wrkers: there is no such key" in told
    assert "did you mean max_workers?" in told
    assert "max_workers takes a whole number from 1 (default 100)" in told
    assert "$DAYFLY_CONFIG:5: [aws_ec2] worker_processes: 0 is not allowed" in told
    assert "takes a whole number from 1 or AUTO (default AUTO)" in told
    assert (
        "$DAYFLY_CONFIG:6: [lokalhost] there is no such section (did you mean localhost?)" in told
    )
    assert "[aws] region: is mandatory" in told
    assert "[aws_ec2] instance_role: is mandatory with exec_mode: reuse" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("max_workers: 0", "takes a whole number from 1"),
        ("max_workers: 2.5", "2.5 is not allowed; max_workers takes a whole number"),
        ("max_workers: True", "True is not allowed"),
        ("max_workers: '3'", "'3' is not allowed"),
        ("max_workers:", "has no value; max_workers takes a whole number"),
        ("worker_processes: auto", "(did you mean AUTO?)"),
        ("soft_dismantle_timeout: 0", "takes a number above 0"),
        ("soft_dismantle_timeout: -1", "takes a number above 0"),
        ("hard_dismantle_timeout: .inf", "inf is not allowed"),
        ("hard_dismantle_timeout: .nan", "nan is not allowed"),
        ("hard_dismantle_timeout: True", "True is not allowed"),
        ("hard_dismantle_timeout: 5m", "'5m' is not allowed"),
        ("auto_dismantle: 1", "takes True or False (default True)"),
        (
            "exec_mode: Reuse",
            "(did you mean reuse?); exec_mode takes one of reuse, create, consume",
        ),
        ("runtime: [python3]", "takes text"),
        ("runtime: 3.11", "put it in quotes"),
        ("runtime: ''", "'' is not allowed"),
        ("worker_instance_type: []", "[] is not allowed"),
        ("worker_instance_type: {a: b}", "takes text or a list of text"),
        ("ssh_port: 70000", "takes a whole number from 1 up to 65535"),
        ("tags: {a: 1}", "takes a mapping of names to text"),
        ("tags: {'dayfly:role': x}", "'dayfly:role' is reserved"),
        ("tags: {'AWS:role': x}", "'AWS:role' is reserved"),
        ("tags: {'': x}", "a name has 1 to 128 characters"),
        (f"tags: {{{'n' * 129}: x}}", "a name has 1 to 128 characters"),
        (f"tags: {{team: {'v' * 257}}}", "the value of 'team' has more than 256 characters"),
        (
            "tags: {" + ", ".join(f"t{n}: x" for n in range(38)) + "}",
            "38 are given, and beside dayfly's own there is room for 36",
        ),
        ("max_cost: 0", "takes a number above 0 up to 1000000000 or null"),
        ("boot_time: -1", "takes a number from 0"),
        ("vpc_id: vpc-1", "vpc_id: is a key of aws_ec2, not of localhost"),
        ("[1, 2]: 3", "is not YAML"),
        ("1: 2", "[localhost] 1: there is no such key; localhost has max_workers, "),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(given: str, told: str) -> None:
    assert told in refusal(f"localhost:\n  {given}\n")


def test_a_key_that_is_given_twice_is_refused() -> None:
    told = refusal("localhost:\n  max_workers: 2\n  tags: {}\n  max_workers: 3\n")
    assert "$DAYFLY_CONFIG:4: max_workers is given twice, first in line 2" in told


def test_the_keys_of_the_other_backend_are_checked_too() -> None:
    assert "[aws_ec2] vpc_id: [1] is not allowed" in refusal("aws_ec2: {vpc_id: [1]}")


def test_a_mistyped_keyword_is_refused_like_a_key() -> None:
    told = refusal("", max_worker=3)
    assert told.startswith("keyword argument: [localhost] max_worker: there is no such key")
    assert "did you mean max_workers?" in told
    assert "[dayfly] backend: 'aws' is not allowed" in refusal("", backend="aws", max_workers=3)


def test_consume_needs_the_vm_to_consume() -> None:
    assert "instance_id: is mandatory with exec_mode: consume" in refusal("", exec_mode="consume")
    assert load(environ={}, exec_mode="consume", instance_id="i-1").compute.instance_id == "i-1"
    consumed = {**EC2, "aws_ec2": {"exec_mode": "consume", "instance_id": "i-01234567"}}
    assert load(consumed).aws_ec2.instance_role == ""


def test_spot_vms_cannot_be_kept() -> None:
    with pytest.raises(ConfigError, match="because one-time spot VMs cannot be stopped"):
        load(EC2, delete_on_dismantle=False)
    kept = load(EC2, delete_on_dismantle=False, request_spot_instances=False)
    assert not kept.compute.delete_on_dismantle


def test_a_role_is_given_by_its_name() -> None:
    with pytest.raises(ConfigError, match="takes the name, 'worker', not the ARN"):
        load(EC2, instance_role="arn:aws:iam::123456789012:instance-profile/worker")


def test_what_aws_could_never_take_is_refused_at_once_and_together() -> None:
    wrong: dict[str, Any] = {
        "vpc_id": "vpc-1",
        "subnet_id": ["subnet-01234567", "subnet-xyz"],
        "security_group_id": "sg_01234567",
        "target_ami": "ami-ubuntu",
        "instance_id": "01234567",
        "subnet_cidr_block": "10.0.0.0/8",
        "ssh_cidr": ["203.0.113.7/24", "everywhere"],
        "worker_instance_type": ["t3.large", "m5.large", "t3.large"],
        "ebs_volumes": [
            {"device_name": "/dev/sdf", "ebs": {"volume_size": "100", "size": 3}},
            {"device_name": "/dev/sdf", "Ebs": {}},
            {"ebs": {"volume_type": "gp9", "iops": 0}},
            {"device_name": "/dev/sdg", "ebs": 7},
        ],
    }
    with pytest.raises(ConfigError) as caught:
        load({**EC2, "aws_s3": {"storage_bucket": "My.Bucket"}}, **wrong)
    told = str(caught.value)
    assert told.startswith("19 problems in the configuration:")
    for part in (
        "[aws_s3] storage_bucket: 'My.Bucket' is not the name of a bucket",
        "[aws_ec2] vpc_id: 'vpc-1' is not an id such as vpc-0123456789abcdef0",
        "[aws_ec2] subnet_id: 'subnet-xyz' is not an id",
        "[aws_ec2] security_group_id: 'sg_01234567'",
        "[aws_ec2] target_ami: 'ami-ubuntu' is not an id",
        "[aws_ec2] instance_id: '01234567'",
        "subnet_cidr_block: '10.0.0.0/8' is not an IPv4 block from /16 to /28",
        "ssh_cidr: '203.0.113.7/24' is an address within a block; '203.0.113.0/24' is the block",
        "ssh_cidr: 'everywhere' is not a block of addresses",
        "ssh_cidr: has no meaning beside security_group_id",
        "volume 1: ebs.volume_size: '100' is not allowed; it takes a whole number",
        "volume 1: ebs has no key 'size'; it has volume_size, volume_type",
        "volume 2: there is no key 'Ebs'; it has device_name, ebs",
        "volume 2: device_name /dev/sdf is given twice",
        "volume 3: device_name is missing",
        "volume 3: ebs.volume_type: 'gp9' is none of gp3, gp2",
        "volume 3: ebs.iops: 0 is not allowed",
        "volume 4: ebs takes a mapping",
        "worker_instance_type: t3.large is given twice",
    ):
        assert part in told, part


def test_what_aws_could_take_is_not_refused() -> None:
    right: dict[str, Any] = {
        "vpc_id": "vpc-01234567",
        "subnet_id": ["subnet-0123456789abcdef0", "subnet-01234567"],
        "target_ami": "ami-0123456789abcdef0",
        "subnet_cidr_block": "10.0.1.0/24",
        "ssh_cidr": ["203.0.113.7", "203.0.113.0/24", "2001:db8::/48", "0.0.0.0/0"],
        "ebs_volumes": [
            {"device_name": "/dev/sda1", "ebs": {"volume_size": 30, "encrypted": True}},
            {"device_name": "/dev/sdb", "virtual_name": "ephemeral0"},
        ],
    }
    load({**EC2, "aws_s3": {"storage_bucket": "dayfly-123456789012.us-east-1"}}, **right)


@pytest.mark.parametrize(
    "name",
    ["ab", "a" * 64, "-abc", "abc-", "a..b", "10.0.0.1", "xn--abc", "abc-s3alias", "a_c", "UP"],
)
def test_a_bucket_that_s3_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a bucket"):
        load({**EC2, "aws_s3": {"storage_bucket": name}})


def test_vms_on_ec2_cannot_reach_a_directory_here() -> None:
    with pytest.raises(ConfigError, match="a directory of this machine"):
        load(EC2, storage="localhost")


def test_s3_needs_a_region() -> None:
    assert "[aws] region: is mandatory with storage: aws_s3" in refusal("", storage="aws_s3")


def test_keys_of_an_account_come_in_pairs() -> None:
    assert "[aws] secret_access_key: is missing" in refusal("aws: {access_key_id: AKIA1}")


@pytest.mark.parametrize("password", ["hush\nroot:hush", "hüsh", "hush\0", "hush" * 32])
def test_a_password_is_one_line_that_every_ssh_client_sends_alike(password: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(ssh_password=password)
    assert "[localhost] ssh_password: takes up to 127 printable ASCII" in str(caught.value)
    assert password not in str(caught.value)
    assert load(ssh_password='it\'s: "hush" ').localhost.ssh_password.endswith('" ')


def test_a_password_for_a_vm_that_is_only_consumed_is_warned_of() -> None:
    (warning,) = load(exec_mode="consume", instance_id="i-1", ssh_password="hush").warnings
    assert "ssh_password has no meaning with exec_mode: consume" in warning
    assert "hush" not in warning


def test_timers_that_are_off_are_warned_of() -> None:
    config = load(EC2, auto_dismantle=False, max_workers=5)
    (warning,) = config.warnings
    assert "the master (t2.micro) and up to 5 workers (t2.medium, spot) stay up" in warning
    assert "dayfly clean -b aws_ec2 --all" in warning
    assert not config.policy.auto


def test_packages_that_nobody_installs_yet_are_told() -> None:
    (warning,) = load(EC2, use_gpu=True).warnings
    assert warning.startswith("[aws_ec2] use_gpu: without meaning with runtime: python3")
    (warning,) = load(EC2, extra_python_packages=["numpy"], environment="none").warnings
    assert "extra_python_packages: without meaning with environment: none" in warning


@pytest.mark.parametrize(
    "name", ["x; rm -rf /", "$(id)", "-o", "Gdal", "vim-", "two words", "g", "gdal=$(id)", ""]
)
def test_what_apt_get_cannot_be_asked_for_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"\[aws_ec2\] extra_apt_packages: .* is not the name"):
        load(EC2, extra_apt_packages=["libgdal-dev", name])


def test_names_versions_and_architectures_of_packages_are_taken() -> None:
    names = ["g++", "libc6:amd64", "gdal-bin=3.6.2+dfsg-1+b2", "vim=2:9.0.1378-2", "0ad"]
    config = load(EC2, extra_apt_packages=[*names, "g++"])
    assert config.compute.system_packages == tuple(names)


IMAGE = "registry.example.com/team/tools:1"


def test_a_container_image_is_told_from_an_interpreter_by_its_name() -> None:
    for interpreter in ("python3", "python3.12", "pypy3.11", "python3.13t", "/opt/x:1/python"):
        assert load(EC2, runtime=interpreter).compute.interpreter == interpreter
    digest = "sha256:" + "0" * 64
    images = {
        IMAGE: IMAGE,
        "python:3.12-slim": "docker.io/library/python:3.12-slim",
        "team/tools": "docker.io/team/tools",
        f"tools@{digest}": f"docker.io/library/tools@{digest}",
        "localhost:5000/tools": "localhost:5000/tools",
    }
    for given, full in images.items():
        compute = load(EC2, runtime=given).compute
        assert (compute.interpreter, compute.packages) == (full, "none")
    for wrong in ("tools", "Team/Tools:1", "tools:", "tools:1:2", "tools@sha256:1"):
        with pytest.raises(ConfigError, match="runtime"):
            load(EC2, runtime=wrong)
    with pytest.raises(ConfigError, match="container images need backend: aws_ec2"):
        load(runtime=IMAGE)


def test_an_image_without_a_registry_is_in_the_given_one() -> None:
    keys: dict[str, Any] = {"docker_server": "https://registry.example.com/", "use_gpu": True}
    compute = load(EC2, runtime="team/tools:1", **keys).compute
    assert compute.interpreter == f"{IMAGE} +gpu"
    assert Runtime.parse(compute.interpreter) == Runtime(IMAGE, gpu=True)


def test_what_contradicts_a_container_image_is_refused_and_what_needs_one_is_told() -> None:
    with pytest.raises(ConfigError, match="'auto' is not allowed with a container image"):
        load(EC2, runtime=IMAGE, environment="auto")
    for key in ("extra_apt_packages", "extra_python_packages"):
        extra: dict[str, Any] = {"runtime": IMAGE, key: ["gdal"]}
        with pytest.raises(ConfigError, match=f"{key}: nothing is installed .*; put gdal into"):
            load(EC2, **extra)
    login: dict[str, Any] = {"docker_user": "me", "docker_password": "hush"}
    with pytest.raises(ConfigError, match=r"set docker_server: registry\.example\.com"):
        load(EC2, runtime=IMAGE, **login)
    with pytest.raises(ConfigError, match="docker_password: is missing"):
        load(EC2, docker_user="me")
    config = load(EC2, runtime=IMAGE, docker_server="registry.example.com", **login)
    assert config.warnings == ()
    assert "hush" not in repr(config)
    assert "hush" not in repr(config.aws_ec2.registry)
    (warning,) = load(EC2, use_gpu=True, **login).warnings
    assert warning.startswith("[aws_ec2] use_gpu, docker_user: without meaning with runtime")
