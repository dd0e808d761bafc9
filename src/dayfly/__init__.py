"""dayfly runs Python functions on EC2 machines that live just as long as the work.

The public names are below, each imported when it is first asked for: the command line and
every VM import this package, and most of them need none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dayfly.client.executor import FunctionExecutor
    from dayfly.client.job import Job
    from dayfly.client.progress import Progress
    from dayfly.errors import (
        AccessDeniedError,
        ApiError,
        AuthenticationError,
        CallCancelledError,
        CallCrashedError,
        CallError,
        CallTimeoutError,
        CapacityError,
        CloudError,
        CommandError,
        ConfigError,
        CostLimitError,
        DayflyError,
        DeniedError,
        EnvironmentFailedError,
        EnvironmentSyncError,
        HardTimeoutError,
        HostKeyError,
        InstanceNotFoundError,
        JobCancelledError,
        JobError,
        NoWorkersError,
        ObjectExistsError,
        ObjectNotFoundError,
        ProvisionError,
        RemoteError,
        SerializationError,
        ShellError,
        StorageError,
        UnreachableError,
        UsageError,
        VersionMismatchError,
        WireError,
    )
    from dayfly.model import LogLine, Try
    from dayfly.serialize import Outcome

__version__ = "0.1.0"

#: Where each public name is; whatever is not here is an error's.
_HOMES = {
    "FunctionExecutor": "dayfly.client.executor",
    "Job": "dayfly.client.job",
    "LogLine": "dayfly.model",
    "Outcome": "dayfly.serialize",
    "Progress": "dayfly.client.progress",
    "Try": "dayfly.model",
}

__all__ = [  # noqa: RUF022  # first what people use first
    "FunctionExecutor",
    "Job",
    "Outcome",
    "Progress",
    "LogLine",
    "Try",
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
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "dayfly.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
