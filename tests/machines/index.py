"""A package index for machines: what PyPI says and gives, kept on disk, every request counted.

It listens in the box and asks outside, by a program that runs there. A machine reaches it only
while it is :meth:`~PackageIndex.open`; the programs of the box itself reach it at all times by
the loopback.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote, unquote, urlsplit

from tests.machines import network
from tests.machines.box import Execute
from tests.machines.download import MISSING
from tests.machines.root import MIRROR

PORT: Final = 3141
JSON: Final = "application/vnd.pypi.simple.v1+json"
#: Seconds for which the list of a project's files is not asked for again.
FRESH: Final = 24 * 3600.0


class Request(NamedTuple):
    """One request: who asked, for which path, and how it was answered."""

    peer: str
    path: str
    status: int


@dataclass
class PackageIndex:
    """The simple API at ``/simple/``, files at ``/files/``, a folder at ``/mirror/``.

    Debian's mirror, for apt, is at ``/debian/``.

    Args:
        cache: Where files are kept between runs.
        execute: Runs a command where it reaches the package index.
        mirror: What ``/mirror/`` shows; files of a test's own, such as builds of Python.
        upstream: The simple API that is asked.

    Attributes:
        requests: All there were.
    """

    cache: Path
    execute: Execute
    mirror: Path | None = None
    upstream: str = field(
        default_factory=lambda: os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
    )
    requests: list[Request] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    #: For machines.
    base: str = f"http://{network.INDEX}:{PORT}"
    #: For the programs of the box itself.
    local: str = f"http://127.0.0.1:{PORT}"

    @property
    def url(self) -> str:
        """What machines call the simple API."""
        return f"{self.base}/simple/"

    @property
    def local_url(self) -> str:
        """What the programs of the box call it."""
        return f"{self.local}/simple/"

    @property
    def asked_by_machines(self) -> list[Request]:
        """The requests of machines."""
        return [each for each in self.requests if each.peer != "127.0.0.1"]

    def open(self) -> None:
        """Let machines reach it."""
        self.listen()
        network.ip("addr", "replace", f"{network.INDEX}/32", "dev", "lo")

    def close(self) -> None:
        """Let nothing come back of what machines send there: as without a route."""
        if self.is_open:
            network.ip("addr", "delete", f"{network.INDEX}/32", "dev", "lo")

    @property
    def is_open(self) -> bool:
        """Whether machines' packets arrive."""
        return network.INDEX in network.ip("-o", "addr", "show", "dev", "lo")

    def listen(self) -> None:
        """Accept connections, as it does from the start."""
        if self._server is None:
            self._server = _Server(("", PORT), _Handler)
            self._server.index = self
            threading.Thread(
                target=self._server.serve_forever, args=(0.05,), name="index", daemon=True
            ).start()

    def refuse(self) -> None:
        """Refuse connections, of machines and of all others."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str, accept: str, host: str) -> tuple[HTTPStatus, str, bytes | Path]:
        """Answer a request: a status, a type, and a text or a file."""
        path = unquote(urlsplit(path).path)
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "simple" and rest.strip("/"):
            return self._project(rest.strip("/").lower(), accept, f"http://{host}")
        if kind == "files" and rest:
            return self._given(self._file(f"https://{rest}"))
        if kind == "debian" and rest:
            # Lists change; a file of a package has its version in its name.
            fresh = FRESH if rest.startswith("dists/") else float("inf")
            return self._given(self._file(f"{MIRROR}/{rest}", fresh=fresh))
        if kind == "mirror" and self.mirror is not None:
            wanted = (self.mirror / rest).resolve()
            inside = wanted.is_relative_to(self.mirror.resolve()) and wanted.is_file()
            return self._given(wanted if inside else None)
        return HTTPStatus.NOT_FOUND, "text/plain", b""

    def _given(self, file: Path | None) -> tuple[HTTPStatus, str, bytes | Path]:
        if file is None:
            return HTTPStatus.NOT_FOUND, "text/plain", b""
        return HTTPStatus.OK, "application/octet-stream", file

    def _project(self, name: str, accept: str, base: str) -> tuple[HTTPStatus, str, bytes]:
        page = self._file(f"{self.upstream.rstrip('/')}/{name}/", JSON, fresh=FRESH)
        if page is None:
            return HTTPStatus.NOT_FOUND, "text/plain", b""
        told: dict[str, Any] = json.loads(page.read_bytes())
        for each in told["files"]:
            _, _, place = each["url"].partition("://")
            each["url"] = f"{base}/files/{quote(place)}"
        if JSON in accept:
            return HTTPStatus.OK, JSON, json.dumps(told).encode()
        return HTTPStatus.OK, "text/html", _html(told).encode()

    def _file(self, url: str, accept: str = "*/*", fresh: float = float("inf")) -> Path | None:
        """A file from the cache, or else from outside; ``None``: there is none."""
        name = hashlib.sha256(f"{url} {accept}".encode()).hexdigest()
        kept = self.cache / "packages" / name[:2] / name[2:]
        if kept.exists() and time.time() - kept.stat().st_mtime < fresh:
            return kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        new = kept.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        command = [sys.executable, "-m", "tests.machines.download", url, accept, str(new)]
        own = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
        done = self.execute(command, {**own, "PYTHONPATH": str(Path(__file__).parents[2])})
        if done.returncode == 0:
            new.rename(kept)
            return kept
        new.unlink(missing_ok=True)
        if done.returncode == MISSING:
            return None
        raise OSError(done.stderr.strip())


def _html(told: dict[str, Any]) -> str:
    links = []
    for each in told["files"]:
        digest = each.get("hashes", {}).get("sha256", "")
        more = (
            f' data-requires-python="{_escape(each["requires-python"])}"'
            if each.get("requires-python")
            else ""
        )
        links.append(
            f'<a href="{each["url"]}#sha256={digest}"{more}>{_escape(each["filename"])}</a><br>'
        )
    return "<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    index: PackageIndex

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who asked has gone
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        index = cast("_Server", self.server).index
        accept, host = self.headers.get("Accept", ""), self.headers.get("Host", "")
        try:
            status, kind, body = index.answer(self.path, accept, host)
        except OSError as error:
            status, kind, body = HTTPStatus.BAD_GATEWAY, "text/plain", str(error).encode()
        index.requests.append(Request(str(self.client_address[0]), self.path, status))
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(body, bytes):
            self.wfile.write(body)
        else:
            with body.open("rb") as file:
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # they are counted
