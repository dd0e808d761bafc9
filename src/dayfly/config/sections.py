"""The sections of the configuration: every key, its type, its default and its meaning.

The description beside a key is its only documentation: error messages quote it and the
template in ``config/`` is held against it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from dayfly.model import DismantlePolicy, ExecMode, Registry, StorageConfig
from dayfly.runtimes import HUB, Runtime, full_name, names_image, server_name

BackendName: TypeAlias = Literal["aws_ec2", "localhost"]
StorageName: TypeAlias = Literal["aws_s3", "localhost"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65535)]
#: Ten years bound every duration, so that a deadline is always a date.
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=10 * 365 * 86400)]

MaxWorkers: TypeAlias = Annotated[Count, Meta(description="Most workers per `FunctionExecutor()`.")]
StartTimeout: TypeAlias = Annotated[
    Seconds, Meta(description="Seconds from launch within which a VM must answer SSH.")
]


#: Fields that must never be printed or logged.
SECRETS: Final = frozenset(
    {"access_key_id", "secret_access_key", "session_token", "ssh_password", "docker_password"}
)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mapping of the file. An empty string stands for a key that is not given."""

    def __repr__(self) -> str:
        shown = (
            f"{name}={'***' if value and name in SECRETS else repr(value)}"
            for name in self.__struct_fields__
            for value in [getattr(self, name)]
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class DayflySection(Section, frozen=True, kw_only=True):
    """What runs where."""

    backend: Annotated[BackendName, Meta(description="Where the VMs come from.")] = "localhost"
    storage: Annotated[
        StorageName,
        Meta(
            description="Where data lies: by default `localhost` with the localhost backend, "
            "else `aws_s3`."
        ),
    ] = "localhost"
    log_level: Annotated[LogLevel, Meta(description="Least severe message that dayfly logs.")] = (
        "info"
    )


class AwsSection(Section, frozen=True, kw_only=True):
    """The account. Without keys here the standard chain finds credentials."""

    region: Annotated[
        str,
        Meta(description="Region, e.g. `us-east-1`; mandatory unless `aws_ec2` gives it."),
    ] = ""
    access_key_id: Annotated[
        str,
        Meta(
            description="Access key; without it the standard chain: environment, "
            "`~/.aws/config`, profiles, instance role."
        ),
    ] = ""
    secret_access_key: Annotated[str, Meta(description="Secret of `access_key_id`.")] = ""
    session_token: Annotated[str, Meta(description="Token of temporary credentials.")] = ""
    account_id: Annotated[
        str,
        Meta(
            description="Account number (12 digits, quoted), used in place of an STS call "
            "to form full image names.",
            pattern=r"^(\d{12})?$",
        ),
    ] = ""


class S3Section(Section, frozen=True, kw_only=True):
    """Object storage."""

    region: Annotated[str, Meta(description="Region of the bucket; by default `aws.region`.")] = ""
    storage_bucket: Annotated[
        str,
        Meta(
            description="Bucket; by default a name derived from account and region. Created "
            "when missing; owner-checked."
        ),
    ] = ""


class ComputeSection(Section, frozen=True, kw_only=True):
    """The keys that every backend has."""

    max_workers: MaxWorkers = 100
    worker_processes: Annotated[
        Count | Literal["AUTO"],
        Meta(
            description="Parallel processes per worker; AUTO is one per vCPU of the instance type."
        ),
    ] = "AUTO"
    runtime: Annotated[
        str,
        Meta(
            description="Interpreter on the VM (a path, or a name like `python3`), or a container "
            "image: `registry/name:tag`, `name:tag`, `name@sha256:...`.",
            min_length=1,
        ),
    ] = "python3"
    environment: Annotated[
        str,
        Meta(
            description="The functions' packages. auto: those of this program's own Python, in "
            "their exact versions. none: the VM's `runtime` as it is. image: likewise, and it has "
            "what dayfly itself needs too, so that nothing is installed. Else a file: "
            "`requirements.txt` or `pylock.toml`.",
            min_length=1,
        ),
    ] = "image"
    package_index: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(
            description="URLs of package indexes, the default one first; by default those of uv's "
            "or pip's configuration on this machine."
        ),
    ] = ()
    python_mirror: Annotated[
        str,
        Meta(
            description="URL of builds of Python that this machine reaches, for VMs whose image "
            "lacks this one: in place of uv's own releases, or a list of builds (`.json`)."
        ),
    ] = ""
    auto_dismantle: Annotated[bool, Meta(description="False: no VM is stopped automatically.")] = (
        True
    )
    soft_dismantle_timeout: Annotated[
        Seconds,
        Meta(description="Seconds after a job completed until the VM is stopped."),
    ] = 300.0
    hard_dismantle_timeout: Annotated[
        Seconds,
        Meta(description="Seconds after a job started until the VM is stopped."),
    ] = 3600.0
    exec_mode: Annotated[
        ExecMode,
        Meta(
            description="reuse: idle workers first, then new ones. create: new workers for each "
            "map(). consume: one existing VM, `instance_id`."
        ),
    ] = ExecMode.REUSE
    instance_id: Annotated[
        str, Meta(description="The VM to consume; mandatory in consume mode.")
    ] = ""
    delete_on_dismantle: Annotated[
        bool,
        Meta(description="Workers are deleted when dismantled; False: stopped, disk kept."),
    ] = True
    request_spot_instances: Annotated[bool, Meta(description="Workers as spot instances.")] = True
    on_demand_fallback: Annotated[
        bool, Meta(description="On-demand workers where no spot instance can be had.")
    ] = False
    worker_instance_type: Annotated[
        Annotated[str, Meta(min_length=1)]
        | Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)],
        Meta(description="Type of the workers, or a list in order of preference."),
    ] = "t2.medium"
    master_instance_type: Annotated[
        str, Meta(description="Type of the master VM.", min_length=1)
    ] = "t2.micro"
    ssh_username: Annotated[
        str, Meta(description="Account on the VMs that SSH logs in to.", min_length=1)
    ] = "ubuntu"
    ssh_key_filename: Annotated[
        str,
        Meta(
            description="Private key for the VMs, where `ssh_key_name` or consume mode needs it.",
            min_length=1,
        ),
    ] = "~/.ssh/id_rsa"
    ssh_password: Annotated[
        str,
        Meta(
            description="Also accepted for the worker VMs; by default random, and key login only."
        ),
    ] = ""
    ssh_port: Annotated[Port, Meta(description="Port of the SSH server on the VMs.")] = 22
    start_timeout: StartTimeout = 300.0
    tags: Annotated[
        dict[str, str],
        Meta(description="Tags for everything that dayfly makes, beside its own."),
    ] = {}
    max_cost: Annotated[
        Annotated[float, Meta(gt=0, le=1e9)] | None,
        Meta(description="US dollars that a job's VMs may cost at most; null: no limit."),
    ] = None

    @property
    def worker_instance_types(self) -> tuple[str, ...]:
        """The types of the workers, in order of preference."""
        wanted = self.worker_instance_type
        return (wanted,) if isinstance(wanted, str) else wanted

    @property
    def interpreter(self) -> str:
        """The command that runs Python on the VM, or a container image."""
        return self.runtime

    @property
    def system_packages(self) -> tuple[str, ...]:
        """What apt-get is to install on workers; nothing where they share this machine's."""
        return ()

    @property
    def packages(self) -> str:
        """``environment``, for the functions: a container image has its own."""
        return "none" if names_image(self.runtime) else self.environment


class Ec2Section(ComputeSection, frozen=True, kw_only=True):
    """VMs on EC2."""

    environment: Annotated[
        str,
        Meta(
            description="The functions' packages. auto: those of this program's own Python, in "
            "their exact versions. none: the VM's `runtime` as it is. image: likewise, and it has "
            "what dayfly itself needs too, so that nothing is installed. Else a file: "
            "`requirements.txt` or `pylock.toml`. With a container image its own, always.",
            min_length=1,
        ),
    ] = "auto"

    region: Annotated[str, Meta(description="Region of the VMs; by default `aws.region`.")] = ""
    instance_role: Annotated[
        str,
        Meta(
            description="Role of the VMs: its name, not its ARN; mandatory in create and "
            "reuse mode."
        ),
    ] = ""
    vpc_id: Annotated[
        str, Meta(description="Network to use, never altered; by default made and tagged.")
    ] = ""
    subnet_id: Annotated[
        str | tuple[str, ...],
        Meta(
            description="Subnet to use, or a list, one per zone; never altered; by default made "
            "and tagged."
        ),
    ] = ""
    security_group_id: Annotated[
        str, Meta(description="Security group to use, never altered; by default made and tagged.")
    ] = ""
    ssh_key_name: Annotated[
        str, Meta(description="Existing key pair; by default an ephemeral key per cluster.")
    ] = ""
    target_ami: Annotated[
        str,
        Meta(
            description="Machine image: its id, or its name if it is the account's own (`dayfly "
            "image build NAME`); by default the newest Ubuntu Server 22.04, or an image that was "
            "built from it and has what the job needs."
        ),
    ] = ""
    ebs_volumes: Annotated[
        tuple[dict[str, Any], ...],
        Meta(
            description="Volumes as EC2's block device mappings, in snake case: `device_name`, "
            "`ebs: {volume_size, volume_type, ...}`."
        ),
    ] = ()
    subnet_cidr_block: Annotated[
        str,
        Meta(
            description="Addresses of the one subnet that dayfly makes; by default one of 4,091 "
            "in each zone."
        ),
    ] = ""
    ssh_cidr: Annotated[
        str | tuple[str, ...],
        Meta(
            description="Addresses from which SSH is let in to the security group that dayfly "
            "makes, e.g. `203.0.113.0/24`, or a list; by default the caller's own."
        ),
    ] = ""
    extra_apt_packages: Annotated[
        tuple[str, ...],
        Meta(
            description="Packages of Debian or Ubuntu that functions need, installed on every "
            "worker that lacks them: `name`, `name=version`."
        ),
    ] = ()
    extra_python_packages: Annotated[
        tuple[str, ...], Meta(description="Python packages to install on every worker.")
    ] = ()
    use_gpu: Annotated[
        bool, Meta(description="Give the VM's GPUs to the functions in a container image.")
    ] = False
    docker_server: Annotated[
        str,
        Meta(
            description="Registry of the container image, where its name has none, and of "
            "`docker_user`.",
            min_length=1,
        ),
    ] = HUB
    docker_user: Annotated[str, Meta(description="User at `docker_server`.")] = ""
    docker_password: Annotated[str, Meta(description="Password at `docker_server`.")] = ""

    @property
    def system_packages(self) -> tuple[str, ...]:
        """What apt-get is to install on workers; a container image has its own."""
        if names_image(self.runtime):
            return ()
        return tuple(dict.fromkeys(self.extra_apt_packages))

    @property
    def interpreter(self) -> str:
        """The command that runs Python on the VM, or a container image by its full name."""
        if not names_image(self.runtime):
            return self.runtime
        return str(Runtime(full_name(self.runtime, self.docker_server), self.use_gpu))

    @property
    def registry(self) -> Registry:
        """Where a container image comes from."""
        return Registry(
            server=server_name(self.docker_server),
            user=self.docker_user,
            password=self.docker_password,
        )


class LocalhostSection(ComputeSection, frozen=True, kw_only=True):
    """VMs of the embedded cloud, and its storage."""

    max_workers: MaxWorkers = 4
    request_spot_instances: Annotated[
        bool, Meta(description="Workers as spot instances, which can be interrupted on demand.")
    ] = False
    worker_instance_type: Annotated[
        Annotated[str, Meta(min_length=1)]
        | Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)],
        Meta(description="`local.N`: N vCPUs; or a list in order of preference."),
    ] = "local.2"
    master_instance_type: Annotated[str, Meta(description="`local.N`: N vCPUs.", min_length=1)] = (
        "local.1"
    )
    start_timeout: StartTimeout = 60.0
    runtime: Annotated[
        str,
        Meta(
            description="Interpreter that runs the functions; python3: the one that runs the "
            "client.",
            min_length=1,
        ),
    ] = "python3"
    directory: Annotated[
        str, Meta(description="Where the VMs and their disks are.", min_length=1)
    ] = "~/.dayfly/localhost"
    storage_directory: Annotated[
        str, Meta(description="Where the objects of the localhost storage are.", min_length=1)
    ] = "~/.dayfly/storage"
    boot_time: Annotated[
        float, Meta(description="Seconds that a VM takes to boot.", ge=0, le=86400)
    ] = 0.0

    @property
    def interpreter(self) -> str:
        """The command that runs Python on the VM: its Python is the client's, unless named.

        An environment has several names for one interpreter (``python``, ``python3``); workers
        are shared by the fullest.
        """
        if self.runtime != "python3":
            return self.runtime
        here = Path(sys.executable)
        full = here.with_name(f"python{sys.version_info.major}.{sys.version_info.minor}")
        return str(full if full.exists() and full.samefile(here) else here)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All of the configuration, checked.

    Attributes:
        source: Where it was found, for people.
        warnings: What the user should read before anything is launched.
    """

    source: str = "defaults"
    dayfly: DayflySection = DayflySection()
    aws: AwsSection = AwsSection()
    aws_s3: S3Section = S3Section()
    aws_ec2: Ec2Section = Ec2Section()
    localhost: LocalhostSection = LocalhostSection()
    warnings: tuple[str, ...] = ()

    @property
    def compute(self) -> ComputeSection:
        """The section of the chosen backend."""
        return self.aws_ec2 if self.dayfly.backend == "aws_ec2" else self.localhost

    @property
    def policy(self) -> DismantlePolicy:
        """When the VMs of this configuration must go."""
        compute = self.compute
        return DismantlePolicy(
            soft=compute.soft_dismantle_timeout,
            hard=compute.hard_dismantle_timeout,
            auto=compute.auto_dismantle,
        )

    @property
    def storage_config(self) -> StorageConfig:
        """The chosen storage, as a VM must know it.

        The location is empty for a bucket whose name is still to be derived from the account.
        """
        if self.dayfly.storage == "localhost":
            return StorageConfig(kind="localhost", location=self.localhost.storage_directory)
        return StorageConfig(
            kind="aws_s3", location=self.aws_s3.storage_bucket, region=self.aws_s3.region
        )
