"""botocore's models of the services, read faster and before they are needed.

botocore reads them on the event loop, when a client is made: measured 115 ms for the first
client of S3 and 63 to 110 ms for EC2's. Here they are read in a thread, and by msgspec, since
no thread helps while the interpreter's own parser holds its lock: what is left is 27 ms and
31 ms, and a third of the time in all is saved.

Imported in that thread, because botocore itself takes 0.3 s to import.
"""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path
from typing import Any, Final

import aioboto3
import msgspec
from aiobotocore.session import AioSession, get_session
from botocore.loaders import JSONFileLoader

#: What every client needs beside its own model.
_SHARED: Final = ("partitions", "sdk-default-configuration", "_retry")


class ModelFiles(JSONFileLoader):  # type: ignore[misc]  # botocore has no types
    """Files of botocore's data folder."""

    def load_file(self, file_path: str) -> Any:
        """Read a file, packed or not, whose name lacks its ending; ``None``: there is none."""
        plain = Path(f"{file_path}.json")
        if plain.is_file():
            return msgspec.json.decode(plain.read_bytes())
        packed = Path(f"{file_path}.json.gz")
        if packed.is_file():
            return msgspec.json.decode(gzip.decompress(packed.read_bytes()))
        return None


def new_session(**options: Any) -> tuple[aioboto3.Session, AioSession]:
    """A session of aioboto3, and the one of botocore below it."""
    below = get_session()
    below.get_component("data_loader").file_loader = ModelFiles()
    return aioboto3.Session(botocore_session=below, **options), below


def read_models(session: AioSession, service: str) -> None:
    """Read what a client of a service is made from into the session's cache."""
    loader = session.get_component("data_loader")
    for kind in ("service-2", "endpoint-rule-set-1"):
        # Said as botocore says it: the cache goes by the words.
        loader.load_service_model(service, kind, api_version=None)
    loader.load_data_with_path("endpoints")
    for name in _SHARED:
        loader.load_data(name)
    if service == "s3":
        # aioboto3 would import its additions when the client is made.
        importlib.import_module("aioboto3.s3.inject")
