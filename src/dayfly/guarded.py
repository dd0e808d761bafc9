"""Values that keep their secrets to themselves when they are printed."""

from __future__ import annotations

from typing import Final

import msgspec

#: Fields that are never printed: in a notebook, tracebacks show every local variable.
_SECRETS: Final = frozenset(
    {"user_key", "host_ca_key", "client_secret", "worker_secret", "secret", "private_key",
     "ssh_password", "user_data", "index", "password"}
)  # fmt: skip


class Guarded(msgspec.Struct, frozen=True, kw_only=True):
    """A value that keeps its secrets to itself when it is printed."""

    def __repr__(self) -> str:
        shown = (
            f"{name}={'***' if value and name in _SECRETS else repr(value)}"
            for name in self.__struct_fields__
            for value in [getattr(self, name)]
        )
        return f"{type(self).__name__}({', '.join(shown)})"
