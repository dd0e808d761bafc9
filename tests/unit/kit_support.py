"""A bare VM for the kit: a folder, tiny wheels, and an index on loopback that can misbehave."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import uv

from dayfly.environment.order import FileOrder, Interpreters, Order, Source
from dayfly.environment.program import program

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
KEY = "0123456789abcdef0123456789abcdef"


def wheel(name: str, source: str = "", *, extra: dict[str, bytes] | None = None) -> bytes:
    """A wheel of one module."""
    info = f"{name}-1.0.dist-info"
    contents = {
        f"{name}.py": source.encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **(extra or {}),
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    contents[f"{info}/RECORD"] = record.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for path, content in contents.items():
            packed.writestr(path, content)
    return buffer.getvalue()


class Index:
    """An HTTP server that has files by their path, and behaves as it is told.

    Attributes:
        files: Path -> content; what is PUT comes here too.
        faults: Path -> statuses to be answered first.
        asked: What was asked for: "GET /index/a.whl".
        tokens: The Authorization headers that came.
        silent: Whether what is asked for is not answered; ``deaf``: nor what is PUT.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.tokens: list[str] = []
        self.silent = threading.Event()
        self.deaf = threading.Event()
        self.go_on = threading.Event()
        index = self

        class Handler(BaseHTTPRequestHandler):
            def _path(self) -> str:
                path = self.path.partition("?")[0]
                index.asked.append(f"{self.command} {path}")
                token = self.headers.get("Authorization")
                if token:
                    index.tokens.append(token)
                return path

            def do_GET(self) -> None:
                path = self._path()
                if index.silent.is_set():
                    index.go_on.wait(10)
                    return
                faults = index.faults.get(path)
                status = faults.pop(0) if faults else 200 if path in index.files else 404
                content = index.files[path] if status == 200 else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_PUT(self) -> None:
                path = self._path()
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if index.deaf.is_set():
                    index.go_on.wait(10)
                    return
                faults = index.faults.get(path)
                status = faults.pop(0) if faults else 200
                if status == 200:
                    index.files[path] = content
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            self.go_on.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def url(self, path: str, *, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}{path}?X-Signature=s3cr3t&Expires=60"


@cache
def uv_wheel() -> bytes:
    """uv's own wheel, of the uv that is installed here."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr("uv-1.0.data/scripts/uv", Path(uv.find_uv_bin()).read_bytes())
    return buffer.getvalue()


class Vm:
    """A VM's disk, with what runs on it."""

    def __init__(self, root: Path, index: Index, uv_path: Path) -> None:
        self.root = root
        self.index = index
        self.kit = uv_path.with_name("kit.pyz")
        if not self.kit.exists():
            self.kit.write_bytes(program())
        content = uv_wheel()
        if not uv_path.exists():
            uv_path.write_bytes(content)
        self.uv = FileOrder(
            package="uv",
            version="1.0",
            filename="uv-1.0-py3-none-any.whl",
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            sources=(Source(name="storage", url=uv_path.as_uri()),),
        )

    @property
    def home(self) -> Path:
        return self.root / "opt/dayfly/env" / KEY

    def file(self, name: str, source: str = "", **changes: Any) -> FileOrder:
        """A wheel that the index has, and storage does not."""
        content = changes.pop("content", None) or wheel(
            name, source, extra=changes.pop("extra", None)
        )
        filename = f"{name}-1.0-py3-none-any.whl"
        self.index.files[f"/index/{filename}"] = content
        wanted = FileOrder(
            package=name,
            version="1.0",
            filename=filename,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            sources=(
                Source(name="storage", url=self.index.url(f"/storage/{filename}")),
                Source(name="index", url=self.index.url(f"/index/{filename}")),
            ),
            deposit=self.index.url(f"/storage/{filename}"),
        )
        return msgspec.structs.replace(wanted, **changes)

    def order(self, *files: FileOrder, **changes: Any) -> Order:
        wanted = Order(
            key=KEY,
            name="test",
            python=PYTHON,
            uv=self.uv,
            files=files,
            check=tuple(file.package for file in files),
            deadline=50.0,
            pauses=(0.01, 0.01),
            interpreters=Interpreters(mirror=self.index.url("/mirror").partition("?")[0]),
        )
        return msgspec.structs.replace(wanted, **changes)

    def start(
        self, order: Order | bytes, *, before: str = "", **options: Any
    ) -> subprocess.Popen[bytes]:
        """Begin to run the kit, as SSH does; ``before``: shell text, as root of namespaces."""
        argv = [sys.executable, "-I", str(self.kit)]
        if before:
            argv = ["unshare", "-rm", "sh", "-ec", f'{before}\nexec "$@"', "sh", *argv]
        child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            env={**os.environ, "DAYFLY_ROOT": str(self.root)},
        )
        assert child.stdin
        child.stdin.write(order.encode() if isinstance(order, Order) else order)
        child.stdin.close()
        child.stdin = None
        return child

    def run(self, order: Order | bytes, *, before: str = "") -> Run:
        """Run the kit to its end."""
        return ended(self.start(order, before=before))

    def imports(self, module: str) -> str:
        """What a module of the environment says of itself: ``NAME.told``."""
        python = self.home / "venv/bin/python"
        code = f"import {module}; print({module}.told)"
        return subprocess.run(
            [python, "-I", "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()


class Run(msgspec.Struct):
    """What a run of the kit said."""

    output: str
    errors: str
    status: int

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.output.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1]

    @property
    def done(self) -> bool:
        assert self.errors == ""
        return self.status == 0 and any("done" in line for line in self.lines)

    def step(self, name: str) -> dict[str, Any]:
        return next(line for line in self.lines if line.get("step") == name and "note" not in line)

    @property
    def notes(self) -> list[str]:
        return [line["note"] for line in self.lines if "note" in line]


def ended(child: subprocess.Popen[bytes]) -> Run:
    output, errors = child.communicate(timeout=55)
    return Run(output=(output or b"").decode(), errors=errors.decode(), status=child.returncode)
