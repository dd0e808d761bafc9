"""The embedded cloud: a VM is a process tree of its own on this machine.

::

    LocalhostCloud (cloud.py)      the API: records on disk, no daemon
      └─ starts  vm.py             one supervisor per VM: power, and the last word on its state
           └─ starts  init.py      the VM's first process: user-data, services, SSH server
                └─ starts          services, commands, shells

Everything lies below one directory. A supervisor holds a lock on its VM's folder for as long
as it lives, so anyone can tell a VM that runs from one that was killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dayfly.cloud.localhost.cloud import LocalhostCloud
    from dayfly.cloud.localhost.faults import Faults

__all__ = ["Faults", "LocalhostCloud"]


def __getattr__(name: str) -> Any:
    # Each process of a VM imports this package; only the API needs the API.
    if name == "LocalhostCloud":
        from dayfly.cloud.localhost.cloud import LocalhostCloud

        return LocalhostCloud
    if name == "Faults":
        from dayfly.cloud.localhost.faults import Faults

        return Faults
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
