"""The nouns: frozen values that every room shares.

Times are wall-clock seconds since the epoch unless a name says otherwise; durations are
seconds. Values that cross the wire are msgspec structs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from dayfly.environment.order import Interpreters
from dayfly.environment.report import EnvironmentFailure
from dayfly.guarded import Guarded as Guarded
from dayfly.outcomes import CallOutcome as CallOutcome
from dayfly.outcomes import OutcomeKind as OutcomeKind
from dayfly.outcomes import Try as Try
from dayfly.runtimes import Registry as Registry

#: A ``builder`` becomes a machine image, and is no part of a cluster.
Role = Literal["master", "worker", "builder"]


class ExecMode(StrEnum):
    """Where the workers of a job come from and what becomes of them."""

    REUSE = "reuse"
    CREATE = "create"
    CONSUME = "consume"


class InstanceState(StrEnum):
    """The states of an instance, by EC2's names.

    Source: the EC2 user guide, "Instance lifecycle".
    """

    PENDING = "pending"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"
    STOPPING = "stopping"
    STOPPED = "stopped"


#: States in which an instance costs money or soon will.
UP = frozenset({InstanceState.PENDING, InstanceState.RUNNING})
#: States of an instance that still exists.
ALIVE = frozenset(set(InstanceState) - {InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED})


class Tag(StrEnum):
    """The tags that every instance of ours carries from birth."""

    NAME = "Name"
    MANAGED = "dayfly:managed"
    CLUSTER = "dayfly:cluster"
    ROLE = "dayfly:role"
    OWNER = "dayfly:owner"
    MODE = "dayfly:mode"
    #: The job that a ``create`` worker was made for.
    JOB = "dayfly:job"
    RUNTIME = "dayfly:runtime"
    PROCESSES = "dayfly:processes"
    #: What kind of worker was asked for: types and processes, see :attr:`JobSpec.kind`.
    KIND = "dayfly:kind"
    #: The launch that made it (:meth:`dayfly.cloud.base.Cloud.launch`'s token).
    LAUNCH = "dayfly:launch"
    #: US dollars per hour, as estimated at its launch.
    HOURLY = "dayfly:hourly"
    #: Seconds since the epoch; the sweep of any later client takes what is past it.
    EXPIRES_AT = "dayfly:expires-at"
    #: The process without which a builder is of no use: ``host pid``.
    CLIENT = "dayfly:client"


class InstanceSpec(Guarded, frozen=True, kw_only=True):
    """What to launch. One spec describes every instance of one launch.

    Attributes:
        instance_types: In order of preference.
        on_poweroff: What a ``poweroff`` inside the VM does to it
            (EC2's ``InstanceInitiatedShutdownBehavior``).
        user_data: A ``#cloud-config`` document, run at boot.
        tags: Of every instance, from birth.
        type_tags: More tags, by instance type.
        spot: Whether spot instances are wanted.
        fallback: Whether on-demand ones will do where no spot instance can be had.
        image: Id of a machine image, for the types whose processors it is for; empty, or if it
            is gone meanwhile: the configured one.
    """

    role: Role
    instance_types: list[str]
    on_poweroff: Literal["stop", "terminate"]
    user_data: str
    tags: dict[str, str]
    type_tags: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    spot: bool = False
    fallback: bool = False
    image: str = ""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as the cloud tells of it, at one moment.

    Attributes:
        address: Where the client reaches it; empty while not yet known.
        private_address: Where the cluster's other VMs reach it; empty where that is ``address``.
        zone: The availability zone.
        hourly: US dollars per hour, as estimated at its launch; ``None`` where nobody knows.
        state_reason: Why it left ``running``, in the cloud's words
            (``Server.SpotInstanceTermination``).
    """

    id: str
    instance_type: str
    state: InstanceState
    tags: dict[str, str]
    launched_at: float
    address: str = ""
    private_address: str = ""
    ssh_port: int = 22
    service_port: int = 8080
    zone: str = ""
    spot: bool = False
    hourly: float | None = None
    state_reason: str = ""

    @property
    def inner_address(self) -> str:
        """Where the cluster's other VMs reach it."""
        return self.private_address or self.address

    @property
    def name(self) -> str:
        """What people call it."""
        return self.tags.get(Tag.NAME, self.id)


class Shortfall(msgspec.Struct, frozen=True, kw_only=True):
    """One pool that gave fewer instances than were asked of it, and why."""

    pool: str
    asked: int
    got: int
    code: str
    message: str


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a launch: what came, and what did not."""

    instances: list[Instance]
    shortfalls: list[Shortfall] = []


class DismantlePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a VM must go.

    Attributes:
        soft: Seconds after a job completed.
        hard: Seconds after a job started (after launch, for a VM that never got one).
        auto: ``False`` switches both off.
    """

    soft: float = 300.0
    hard: float = 3600.0
    auto: bool = True


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """One line that a function printed or logged.

    Attributes:
        index: The call that it belongs to; -1 where that cannot be told.
        stream: ``stdout`` or ``stderr``.
    """

    job: str
    index: int
    stream: str
    time: float
    text: str
    worker: str = ""


class JobState(StrEnum):
    """The life of a job."""

    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    #: Ended early; the record says why.
    FAILED = "failed"


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that the master must know of a job; neither the function nor its items.

    Attributes:
        function: The function's name, for people.
        mode: By its definition in the configuration.
        runtime: Which workers may serve it (with ``kind``).
        instance_types: Of its workers, in order of preference.
        kind: The workers that may serve it, in words: ``t3.medium x 2 + m5.large x 2``, each
            type with its parallel processes.
        processes: Parallel processes per worker of the preferred type.
        wanted: Workers that the client means to have for it.
        timeout: Seconds that one call may run; ``None`` for no limit of its own.
        retries: How many more times a call that fails is run.
        chunksize: Calls handed out together; 0 lets the master size the ranges.
        environment: ``extra_env`` of the map.
        packages: Key of the lock of what its functions run in; empty: the workers' own runtime.
        system: Packages of the workers' system that it needs, as apt-get takes them.
        reserved: Names of the reserved parameters that the function takes (``id``, ``storage``).
        client: Who submitted it: ``user@host pid``.
        max_cost: US dollars that its VMs may cost; ``None`` for no limit.
        detach: Whether it runs to its end when its client goes.
        single: Whether awaiting it gives the value of its one call, and not a list.
        return_exceptions: Whether failed calls give their exception as result.
    """

    id: str
    function: str
    mode: ExecMode
    runtime: str
    instance_types: list[str]
    processes: int
    wanted: int
    kind: str = ""
    policy: DismantlePolicy
    submitted_at: float
    timeout: float | None = None
    retries: int = 0
    chunksize: int = 0
    environment: dict[str, str] = {}
    packages: str = ""
    system: list[str] = []
    reserved: list[str] = []
    client: str = ""
    max_cost: float | None = None
    detach: bool = False
    single: bool = False
    return_exceptions: bool = False


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A job as ``job list`` shows it.

    Attributes:
        total: Calls in all; ``None`` while the items are still being read.
        cost: US dollars of its VMs, so far or at its end; ``None`` where no price is known.
    """

    id: str
    function: str
    submitted_at: float
    workers: int
    done: int
    failed: int
    total: int | None
    state: JobState
    reason: str = ""
    client: str = ""
    cost: float | None = None


class JobRecord(JobRow, frozen=True, kw_only=True):
    """A job that is over, as storage keeps it.

    Attributes:
        outcomes: Encoded deliveries, in order, when they are few.
        parts: Else the SHA-256 of each object that holds some of them, in order.
        after: The number of the last delivery.
        error: For FAILED, the class of :mod:`dayfly.errors` to raise.
        failure: What it says, where that is an ``EnvironmentFailedError``.
        single: See :class:`JobSpec`, as for the next one.
        return_exceptions: Likewise.
    """

    after: int | None = None
    error: str = ""
    failure: EnvironmentFailure | None = None
    single: bool = False
    return_exceptions: bool = False
    outcomes: list[bytes] = []
    parts: list[str] = []


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as ``worker list`` shows it.

    Attributes:
        phase: What the orchestrator knows beyond the cloud's state: ``connecting``,
            ``installing``, ``starting``, ``idle``, ``busy``, ``draining``, ``lost``, ``leaving``.
        dismantle_in: Seconds until its timer fires; ``None`` when it has none.
        dismantle_why: Which timer that is: ``soft``, ``hard``, or ``spot`` for the cloud's own.
    """

    name: str
    instance: str
    role: Role
    instance_type: str
    processes: int
    runtime: str
    mode: str
    state: InstanceState
    phase: str = ""
    running: int = 0
    kind: str = ""
    dismantle_in: float | None = None
    dismantle_why: str = ""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance costs.

    Attributes:
        hourly: US dollars; ``None`` where nobody knows.
        source: Where that is from, and of which date.
    """

    hourly: float | None
    source: str


class StorageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which storage, as a VM must know it to open it.

    Attributes:
        kind: ``localhost`` or ``aws_s3``.
        location: A directory, or a bucket.
        account: Who must own the bucket; empty: not checked.
        scope: Whose part of it is meant, see :mod:`dayfly.storage.scoped`.
    """

    kind: str
    location: str
    region: str = ""
    account: str = ""
    scope: str = ""


class Access(Guarded, frozen=True, kw_only=True):
    """A cluster's keys and secrets, in OpenSSH's formats; made once, kept in storage.

    Attributes:
        cluster: The cluster's name.
        serial: Drawn when the cluster was made; part of every launch token.
        user_key: Private key of the account on the VMs.
        user_public_key: Its public half.
        host_ca_key: Private key that signs the VMs' host keys.
        host_ca_public_key: Its public half, all that a client need trust.
        client_secret: What a client proves to the master.
        worker_secret: What a worker proves to the master.
    """

    cluster: str
    serial: str
    user_key: str
    user_public_key: str
    host_ca_key: str
    host_ca_public_key: str
    client_secret: str
    worker_secret: str


class MasterConfig(Guarded, frozen=True, kw_only=True):
    """What the master's service reads at its start, from a file that only it can read.

    Attributes:
        package: Digest of the dayfly that is installed.
        host: The address to listen at.
        policy: The master's own, until a job brings another.
        kit: Key of the environment that workers' agents run in; empty: in their ``runtime``.
        interpreters: Where a worker takes a Python from that it lacks.
        index: URLs of package indexes, which may carry passwords.
        ssh_password: Of the account on the workers; empty: they take keys only.
    """

    instance: Instance
    access: Access
    package: str
    host: str
    port: int
    username: str
    runtime: str
    storage: StorageConfig
    policy: DismantlePolicy
    start_timeout: float
    kit: str = ""
    interpreters: Interpreters = Interpreters()
    index: tuple[str, ...] = ()
    ssh_password: str = ""
    log_level: str = "info"


class WorkerConfig(Guarded, frozen=True, kw_only=True):
    """What a worker's agent reads at its start, from a file that only it can read.

    Attributes:
        runtime: What runs the functions: a :class:`~dayfly.runtimes.Runtime` as a text.
        registry: Where it comes from, if it is a container image.
        policy: The VM's own, until the master says otherwise.
        spot: Whether the cloud may take the VM back, and says so before.
        kit: Key of the environment that the agent runs in, which has uv.
        interpreters: Where a Python comes from that the VM lacks.
    """

    instance: str
    master_host: str
    master_port: int
    secret: str
    processes: int
    runtime: str
    storage: StorageConfig
    policy: DismantlePolicy
    spot: bool = False
    registry: Registry = Registry()
    kit: str = ""
    interpreters: Interpreters = Interpreters()
    log_level: str = "info"
