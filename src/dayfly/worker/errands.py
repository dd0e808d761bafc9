"""What functions ask of storage through their ``storage`` parameter, done by the agent."""

from __future__ import annotations

import msgspec

from dayfly import errors
from dayfly.storage import keys
from dayfly.storage.base import Storage
from dayfly.worker import runner


class Errand(msgspec.Struct, frozen=True):
    """A request, as the runner wrote it."""

    operation: str
    key: str = ""
    prefix: str = ""
    path: str = ""
    byte_range: tuple[int, int] | None = None
    if_absent: bool = False


ERRAND = msgspec.json.Decoder(Errand)
ENCODER = msgspec.json.Encoder()


async def perform(storage: Storage, request: bytes) -> tuple[bytes, bytes]:
    """Do what a function asked for.

    Args:
        storage: The cluster's.
        request: The body of an ASK frame: JSON by its length, then data.

    Returns:
        The answer's JSON (``result``, or ``error`` and ``message``) and its data.
    """
    size = runner.LENGTH.size + runner.LENGTH.unpack_from(request)[0]
    try:
        errand = ERRAND.decode(request[runner.LENGTH.size : size])
        result, data = await _perform(storage, errand, request[size:])
    except (errors.DayflyError, OSError, ValueError) as error:
        return ENCODER.encode({"error": type(error).__name__, "message": str(error)}), b""
    return ENCODER.encode({"result": result}), data


async def _perform(storage: Storage, errand: Errand, data: bytes) -> tuple[object, bytes]:
    if (errand.key or errand.prefix).startswith(keys.CLUSTERS):
        raise errors.StorageError(f"{errand.key or errand.prefix} is not for functions")
    match errand.operation:
        case "put_object":
            await storage.put_object(errand.key, data, if_absent=errand.if_absent)
        case "get_object":
            return None, await storage.get_object(errand.key, byte_range=errand.byte_range)
        case "head_object":
            return await storage.head_object(errand.key), b""
        case "list_keys":
            return [key async for key in storage.list_keys(errand.prefix)], b""
        case "delete_object":
            await storage.delete_object(errand.key)
        case "upload_file":
            await storage.upload_file(errand.path, errand.key)
        case "download_file":
            await storage.download_file(errand.key, errand.path)
        case unknown:
            raise ValueError(f"storage has no operation {unknown!r}")
    return None, b""
