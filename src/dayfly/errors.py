"""Everything that dayfly raises, in one tree.

::

    DayflyError
    ├── ConfigError                 a key, a type or a rule of the configuration
    ├── UsageError                  an argument, or a moment, that dayfly cannot work with
    ├── SerializationError          a function, an item or an outcome that cannot be pickled
    ├── CloudError                  the cloud said no, or could not be asked
    │   ├── CapacityError           fewer instances than the minimum could be had
    │   ├── InstanceNotFoundError
    │   └── ApiError                the cloud's API answered with an error code
    │       └── DeniedError         the account lacks a permission
    ├── ShellError                  a VM could not be talked to
    │   ├── UnreachableError        SSH never answered within its deadline
    │   ├── HostKeyError            the VM that answered is not the one that was launched
    │   ├── AccessDeniedError       the VM refused our key
    │   └── CommandError            a command on the VM failed
    ├── StorageError                storage refused or failed
    │   ├── ObjectNotFoundError
    │   └── ObjectExistsError       a put with ``if_absent`` came second
    ├── EnvironmentSyncError        the VMs cannot have the packages that this program has
    ├── ProvisionError              a VM is up, but could not be made a master or a worker
    │   └── EnvironmentFailedError  it could not be given its Python and its packages
    ├── WireError                   the conversation with the master broke
    │   ├── AuthenticationError     the other side does not hold the cluster's secret
    │   └── VersionMismatchError
    ├── JobError                    a whole job ended before all of its calls had an outcome
    │   ├── HardTimeoutError        cut by ``hard_dismantle_timeout``
    │   ├── CostLimitError          cut by ``max_cost``
    │   ├── NoWorkersError          no worker could be had, or none is left
    │   └── JobCancelledError       cancelled by another program or terminal
    └── CallError                   one call failed, and not by an exception of its own
        ├── CallTimeoutError        it ran over ``timeout``
        ├── CallCrashedError        its process died: os._exit, a signal, no memory
        ├── CallCancelledError      it was cancelled alone
        └── RemoteError             it raised something that cannot be rebuilt here

A call that raises is re-raised as its own type, not as one of these (see
:mod:`dayfly.serialize`).
"""

from __future__ import annotations


class DayflyError(Exception):
    """The root of the tree.

    Args:
        what: What happened, and to which VM, call or key.
        cause: The likeliest cause, with the evidence for it.
        hint: The next thing to do, most often a command to type.
    """

    def __init__(self, what: str, *, cause: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.cause:
            lines.append(f"  cause: {self.cause}")
        if self.hint:
            lines.append(f"  next:  {self.hint}")
        return "\n".join(lines)


class ConfigError(DayflyError):
    """A key, a type or a rule of the configuration."""


class UsageError(DayflyError):
    """An argument, or a moment, that dayfly cannot work with."""


class SerializationError(DayflyError):
    """A function, an item or an outcome that cannot be pickled."""


class CloudError(DayflyError):
    """The cloud said no, or could not be asked."""


class CapacityError(CloudError):
    """Fewer instances than the minimum could be had."""


class InstanceNotFoundError(CloudError):
    """The cloud knows no such instance."""


class ApiError(CloudError):
    """The cloud's API answered with an error code.

    Args:
        what: See :class:`DayflyError`.
        code: The cloud's own, such as ``InsufficientInstanceCapacity``.
        status: Of the HTTP answer.
        cause: See :class:`DayflyError`.
        hint: See :class:`DayflyError`.
    """

    def __init__(
        self, what: str, *, code: str, status: int = 400, cause: str = "", hint: str = ""
    ) -> None:
        super().__init__(what, cause=cause, hint=hint)
        self.code = code
        self.status = status


class DeniedError(ApiError):
    """The account lacks a permission."""


class ShellError(DayflyError):
    """A VM could not be talked to."""


class UnreachableError(ShellError):
    """SSH never answered within its deadline."""


class HostKeyError(ShellError):
    """The VM that answered is not the one that was launched."""


class AccessDeniedError(ShellError):
    """The VM refused our key."""


class CommandError(ShellError):
    """A command on the VM failed."""


class StorageError(DayflyError):
    """Storage refused or failed."""


class ObjectNotFoundError(StorageError):
    """No object has this key."""


class ObjectExistsError(StorageError):
    """A put with ``if_absent`` came second."""


class EnvironmentSyncError(DayflyError):
    """The VMs cannot have the packages that this program has.

    Args:
        what: See :class:`DayflyError`.
        stage: What was being done: ``capture``, ``resolve``, ``repack``, ``python``,
            ``packages``, ``import``.
        package: Which one; empty where it is not one alone.
        platform: What for: ``x86_64-manylinux_2_35``.
        log: The last lines of what the tool said.
        cause: See :class:`DayflyError`.
        hint: See :class:`DayflyError`.
    """

    def __init__(
        self,
        what: str,
        *,
        stage: str = "",
        package: str = "",
        platform: str = "",
        log: str = "",
        cause: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(what, cause=cause, hint=hint)
        self.stage = stage
        self.package = package
        self.platform = platform
        self.log = log

    def __str__(self) -> str:
        text = super().__str__()
        lines = self.log.splitlines()
        return "\n".join([text, *(f"  {self.stage or 'log'}| {line}" for line in lines)])


class ProvisionError(DayflyError):
    """A VM is up, but could not be made a master or a worker."""


#: Kinds of :class:`EnvironmentFailedError` that any other VM would meet as well.
EVERYWHERE = frozenset({"order", "interpreter", "file", "package", "import"})


class EnvironmentFailedError(ProvisionError):
    """A VM could not be given its Python and its packages, or those of its system.

    Args:
        what: See :class:`DayflyError`.
        stage: The step that failed: ``lock``, ``room``, ``python``, ``fetch``, ``install``,
            ``check``, ``system`` (``extra_apt_packages``); of a container image ``engine``,
            ``login``, ``image``, ``container``; or the last one that is known of.
        kind: ``order``, ``busy``, ``disk``, ``permission``, ``interpreter``, ``network``,
            ``file``, ``package``, ``import``, ``deadline``, ``stopped``, ``defect`` or ``broken``.
        package: Which one it happened to; empty: none in particular.
        vm: Where.
        platform: What it was to be had for: ``Python 3.11, x86_64-manylinux_2_35``.
        cause: See :class:`DayflyError`; most often the last lines of an output.
        hint: See :class:`DayflyError`.
    """

    def __init__(
        self,
        what: str,
        *,
        stage: str = "",
        kind: str = "broken",
        package: str = "",
        vm: str = "",
        platform: str = "",
        cause: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(what, cause=cause, hint=hint)
        self.stage = stage
        self.kind = kind
        self.package = package
        self.vm = vm
        self.platform = platform

    def __str__(self) -> str:
        step = f"{self.stage} of {self.package}" if self.package else self.stage
        told = {
            "step": ", ".join(filter(None, [step, self.platform])),
            "cause": self.cause,
            "next": self.hint,
        }
        lines = [f"  {name + ':':6} {text}" for name, text in told.items() if text]
        return "\n".join([self.what, *(line.replace("\n", "\n         ") for line in lines)])

    @property
    def everywhere(self) -> bool:
        """Whether it is of the environment, and not of the one VM that it was seen on."""
        return self.kind in EVERYWHERE


class WireError(DayflyError):
    """The conversation with the master broke."""


class AuthenticationError(WireError):
    """The other side does not hold the cluster's secret."""


class VersionMismatchError(WireError):
    """The two sides speak different versions of the protocol."""


class JobError(DayflyError):
    """A whole job ended before all of its calls had an outcome."""


class HardTimeoutError(JobError):
    """The job was cut by ``hard_dismantle_timeout``."""


class CostLimitError(JobError):
    """The job was cut by ``max_cost``."""


class NoWorkersError(JobError):
    """No worker could be had, or none is left."""


class JobCancelledError(JobError):
    """The job was cancelled by another program or terminal."""


class CallError(DayflyError):
    """One call failed, and not by an exception of its own."""


class CallTimeoutError(CallError, TimeoutError):
    """The call ran over its ``timeout``."""


class CallCrashedError(CallError):
    """The call's process died: ``os._exit``, a signal, no memory."""


class CallCancelledError(CallError):
    """The call was cancelled alone."""


class RemoteError(CallError):
    """The call raised something that cannot be rebuilt here."""


def named(name: str, otherwise: type[DayflyError]) -> type[DayflyError]:
    """The class of this name, as another process says it; ``otherwise`` where there is none."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, DayflyError) else otherwise
