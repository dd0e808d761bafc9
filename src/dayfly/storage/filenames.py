"""Object keys <-> file names, one to one, whatever the keys are.

In S3 both ``a`` and ``a/b`` can be objects; in a directory a file and a folder cannot share
a name. So folders carry a mark that no escaped name can end with, and objects keep the name
that people know::

    notes/2024.txt  ->  notes%/2024.txt
    50%             ->  50%25
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote, unquote

from dayfly.errors import StorageError

#: S3's limit, in bytes of UTF-8.
MAX_KEY: Final = 1024
#: Ends the name of a folder.
FOLDER: Final = "%"
#: Ends the name of a folder that holds only the beginning of a part.
CONTINUED: Final = "%+"
#: Where objects lie before they are whole.
TEMPORARY: Final = "%tmp"
#: What is left as it is, beside letters and digits. File systems allow 255 bytes in a name.
_SAFE: Final = " !#$&'()+,-.;=@[]^_`{}~"
_MAX_NAME: Final = 240


def check_key(key: str) -> None:
    """Refuse what no storage takes.

    Raises:
        StorageError: The key is not ``/``-separated UTF-8 without empty, ``.``, ``..`` parts.
    """
    parts = key.split("/")
    if not key:
        wrong = "it is empty"
    elif "\0" in key:
        wrong = "it holds a NUL character"
    elif not _encodes(key):
        wrong = "it is not Unicode text"
    elif len(key.encode()) > MAX_KEY:
        wrong = f"it is {len(key.encode())} bytes long; {MAX_KEY} is the most"
    elif "" in parts:
        wrong = "it begins or ends with a slash, or has two in a row"
    elif "." in parts or ".." in parts:
        wrong = "it has a part that is . or .."
    else:
        return
    shown = key if len(key) <= 100 else key[:97] + "..."
    raise StorageError(
        f"{shown!r} cannot be the key of an object",
        cause=wrong,
        hint="give parts joined by single slashes, such as data/2024/part-1",
    )


def _encodes(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def path_of(key: str) -> PurePosixPath:
    """The file of an object, below the storage's root."""
    *folders, name = key.split("/")
    return folder_of(folders) / PurePosixPath(*_chunks(name))


def folder_of(parts: Sequence[str]) -> PurePosixPath:
    """The folder of all objects whose key begins with these parts."""
    names: list[str] = []
    for part in parts:
        *begun, last = _chunks(part)
        names += [*begun, last + FOLDER]
    return PurePosixPath(*names)


def _chunks(part: str) -> list[str]:
    name = quote(part, safe=_SAFE)
    cut = range(0, len(name), _MAX_NAME)
    chunks = [name[start : start + _MAX_NAME] for start in cut]
    return [chunk + CONTINUED for chunk in chunks[:-1]] + chunks[-1:]


def join(escaped: str, name: str) -> str:
    """The escaped beginning of the keys in a folder, from that of the folder around it."""
    if name.endswith(CONTINUED):
        return escaped + name.removesuffix(CONTINUED)
    return escaped + name.removesuffix(FOLDER) + "/"


def key_of(escaped: str) -> str:
    """The key, or its beginning, that an escaped one stands for."""
    return unquote(escaped)
