"""What a URL names, and why it cannot be had."""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import os
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

#: HTTP answers after which the same request may well succeed.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Those that say for certain that there is no such file.
GONE = frozenset({404, 410})


class Unavailable(Exception):  # noqa: N818
    """A source does not have a file, or does not give it.

    Args:
        words: Why.
        passing: Another try may succeed.
        host: It is the whole host that cannot be reached, and not this one file.
        altered: It gave something, which is not the file.
        gone: It answered, and has no such file.
    """

    def __init__(
        self,
        words: str,
        *,
        passing: bool = False,
        host: bool = False,
        altered: bool = False,
        gone: bool = False,
    ) -> None:
        super().__init__(words)
        self.words, self.passing, self.host = words, passing, host
        self.altered, self.gone = altered, gone


def trouble(error: Exception, url: str) -> Unavailable:
    """What an exception of urllib means."""
    host = urllib.parse.urlsplit(url).hostname or ""
    if isinstance(error, urllib.error.HTTPError):
        words = f"{host} answered HTTP {error.code} ({error.reason})"
        if error.code in (401, 403):
            words += ": it is not there, or this URL has no right to it any more"
        return Unavailable(words, passing=error.code in PASSING, gone=error.code in GONE)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        return Unavailable(f"no DNS server knows {host} ({reason})", passing=True, host=True)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Unavailable(
            f"the certificate of {host} is not trusted on the VM ({reason.verify_message})",
            host=True,
        )
    if isinstance(reason, ssl.SSLError):
        return Unavailable(f"no TLS with {host} ({reason})", passing=True, host=True)
    if isinstance(reason, (socket.timeout, TimeoutError)):
        # While it connects, the kernel has knocked several times already.
        came = not isinstance(error, urllib.error.URLError)
        return Unavailable(f"{host} does not answer (timeout)", passing=came, host=True)
    if isinstance(reason, (ConnectionResetError, BrokenPipeError, http.client.HTTPException)):
        return Unavailable(f"{host} broke the connection ({reason!r})", passing=True)
    if isinstance(reason, OSError) and reason.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Unavailable(f"no route to {host}", passing=True, host=True)
    if isinstance(reason, ConnectionRefusedError):
        return Unavailable(f"{host} refuses the connection", passing=True, host=True)
    return Unavailable(f"{host}: {reason}", passing=True)


def request(url: str, content: BinaryIO | None = None, size: int = 0) -> urllib.request.Request:
    """A GET, or a PUT of some content; the user in a URL becomes a header."""
    parts = urllib.parse.urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    made = urllib.request.Request(  # noqa: S310 - the order's own URL, of any scheme that it names
        urllib.parse.urlunsplit(parts._replace(netloc=netloc, fragment="")),
        data=content,
        method="GET" if content is None else "PUT",
        headers={"User-Agent": "dayfly"},
    )
    if content is not None:
        made.add_header("Content-Length", str(size))
        made.add_header("Content-Type", "application/octet-stream")
    if parts.username:
        user = urllib.parse.unquote(parts.username)
        password = urllib.parse.unquote(parts.password or "")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        made.add_unredirected_header("Authorization", f"Basic {token}")
    return made


def local(url: str) -> Path | None:
    """The file that a ``file:`` URL names."""
    parts = urllib.parse.urlsplit(url)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


@contextlib.contextmanager
def opened(url: str, silence: float) -> Iterator[tuple[Callable[[int], bytes], int]]:
    """What a URL names, to be read: how to read it, and its size (-1: not told)."""
    path = local(url)
    if path is not None:
        try:
            file = path.open("rb")
        except OSError as error:
            gone = error.errno == errno.ENOENT
            raise Unavailable(f"{path}: {error.strerror}", gone=gone) from None
        with file:
            yield file.read, os.fstat(file.fileno()).st_size
        return
    try:
        answer = urllib.request.urlopen(request(url), timeout=silence)  # noqa: S310
    except (OSError, http.client.HTTPException) as error:
        raise trouble(error, url) from None
    with answer:

        def read(size: int) -> bytes:
            try:
                block: bytes = answer.read(size)
            except (OSError, http.client.HTTPException) as error:
                raise trouble(error, url) from None
            return block

        yield read, int(answer.headers.get("Content-Length", -1))
