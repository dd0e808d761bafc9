"""A package index on loopback, and the tiny wheels in it."""

from __future__ import annotations

import base64
import hashlib
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    files: Mapping[str, str | bytes] | None = None,
    requires: tuple[str, ...] = (),
    python: str = ">=3.8",
    entry_points: str = "",
) -> Path:
    """A wheel of a module of its own name, or of ``files``, as a build tool makes it."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    content: dict[str, bytes] = {}
    for path, text in (
        files or {f"{name.replace('-', '_')}.py": f"version = {version!r}\n"}
    ).items():
        content[path] = text.encode() if isinstance(text, str) else text
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Python: {python}", *(f"Requires-Dist: {each}" for each in requires)]
    content[f"{info}/METADATA"] = ("\n".join(metadata) + "\n").encode()
    pure = str(tag.endswith("-any")).lower()
    tags = "".join(f"Tag: {each}\n" for each in expanded(tag))
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\n{tags}".encode()
    if entry_points:
        content[f"{info}/entry_points.txt"] = entry_points.encode()
    record = [f'"{path}",sha256={_digest(data)},{len(data)}' for path, data in content.items()]
    record.append(f"{info}/RECORD,,")
    content[f"{info}/RECORD"] = ("\n".join(record) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(target, "w") as bundle:
        for path, data in content.items():
            bundle.writestr(path, data)
    return target


def expanded(tag: str) -> list[str]:
    pythons, abis, platforms = (part.split(".") for part in tag.split("-"))
    return [f"{p}-{a}-{m}" for p in pythons for a in abis for m in platforms]


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@dataclass
class Index:
    """What a package index has, and what it was asked.

    Attributes:
        folder: Its files.
        url: Of the simple API.
        asked: Paths, in order.
        authorization: What a client must send; empty: nothing.
        hashes: Whether its pages tell the hash of each file.
    """

    folder: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)
    authorization: str = ""
    hashes: bool = True

    def page(self, name: str) -> str | None:
        found = []
        for path in sorted(self.folder.iterdir()):
            if path.name.partition("-")[0].replace("_", "-").lower() == name:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                anchor = f"#sha256={digest}" if self.hashes else ""
                found.append(f'<a href="/files/{path.name}{anchor}">{path.name}</a>')
        return (
            "<!DOCTYPE html><html><body>" + "\n".join(found) + "</body></html>" if found else None
        )


@contextmanager
def serve(folder: Path) -> Iterator[Index]:
    """Serve a folder of wheels and source archives as a package index."""
    folder.mkdir(parents=True, exist_ok=True)
    index = Index(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.asked.append(self.path)
            sent = self.headers.get("Authorization", "")
            if index.authorization and sent != index.authorization:
                self.answer(401, b"")
            elif self.path.startswith("/simple/"):
                page = index.page(self.path.removeprefix("/simple/").strip("/"))
                self.answer(200 if page else 404, (page or "").encode(), "text/html")
            else:
                path = folder / self.path.removeprefix("/files/")
                known = path.is_file()
                self.answer(200 if known else 404, path.read_bytes() if known else b"")

        do_HEAD = do_GET  # noqa: N815  # the server asks for this name

        def answer(self, status: int, body: bytes, kind: str = "application/octet-stream") -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="packages"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
