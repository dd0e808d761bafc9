"""A registry of container images in the box, private and with TLS; and images for it.

The registry is Debian's. Its images are made of the files of Debian that machines are made of, so
that nothing has to be fetched: a Python, and a file that tells that one is in the image.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import ssl
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.machines import network

PORT: Final = 5000
#: As in the names of its images.
NAME: Final = f"{network.GATEWAY}:{PORT}"
USER, PASSWORD = "reader", "a-pass-word-of-the-registry"
#: Of that password, by htpasswd -B.
_HTPASSWD: Final = f"{USER}:$2b$05$qtCN/o/85mv3LGNz/KJBROnrmnd87981o1SBwMVdbwdv5xw2bgqiu\n"
#: Where an image says that it is one.
MARKER: Final = "/etc/in-the-image"
#: What a Python of Debian's needs of a root, and what commands of tests do.
_FOLDERS: Final = ("usr/lib/python3", "usr/lib/python3.11", "usr/lib/python3.13", "usr/lib64")
_PROGRAMS: Final = ("python3", "python3.11", "python3.13", "sh", "dash", "sleep", "setsid", "id")
_LIBRARIES: Final = (
    *("c", "m", "z", "expat", "ffi", "ssl", "crypto", "bz2", "lzma", "uuid"),
    *("gcc_s", "stdc++", "selinux", "pcre2-8"),
)
_LINKS: Final = {name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")}
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Registry:
    """One that runs; ``ca`` is what machines must trust, in PEM."""

    ca: str
    log: Path

    def push(self, name: str, layer: bytes, **config: Any) -> str:
        """Put an image of one layer there, by its ``name:tag``; returns its full name.

        Args:
            name: Without the registry.
            layer: See :func:`layer_of`.
            config: More of its configuration: ``User``, ``Env``, ...
        """
        repository, _, tag = name.partition(":")
        described = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": ["PATH=/usr/bin:/bin"], "WorkingDir": "/tmp"} | config,
                "rootfs": {"type": "layers", "diff_ids": [_digest(gzip.decompress(layer))]},
                "history": [{"created_by": "test"}],
            }
        ).encode()
        blobs = {
            "application/vnd.oci.image.config.v1+json": described,
            "application/vnd.oci.image.layer.v1.tar+gzip": layer,
        }
        parts = []
        for kind, blob in blobs.items():
            self._upload(repository, blob)
            parts.append({"mediaType": kind, "size": len(blob), "digest": _digest(blob)})
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": parts[0]}
        self._ask(
            "PUT",
            f"/v2/{repository}/manifests/{tag}",
            json.dumps(manifest | {"layers": parts[1:]}).encode(),
            _MANIFEST,
        )
        return f"{NAME}/{name}"

    def _upload(self, repository: str, blob: bytes) -> None:
        place = self._ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        _, _, place = place.partition(NAME)
        joint = "&" if "?" in place else "?"
        self._ask("PUT", f"{place}{joint}digest={_digest(blob)}", blob)

    def _ask(
        self, method: str, path: str, body: bytes, kind: str = "application/octet-stream"
    ) -> str:
        context = ssl.create_default_context(cadata=self.ca)
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": kind}
        asked = http.client.HTTPSConnection(network.GATEWAY, PORT, context=context, timeout=30)
        try:
            asked.request(method, path, body, headers)
            answer = asked.getresponse()
            said = answer.read()
            assert answer.status < 300, (method, path, answer.status, said)
            return answer.headers.get("Location", "")
        finally:
            asked.close()

    def until_up(self) -> None:
        """Wait for it."""
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError):
                self._ask("GET", "/v2/", b"")
                return
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@contextmanager
def serving(folder: Path, program: Path) -> Iterator[Registry]:
    """Run a registry.

    Args:
        folder: For all that it keeps.
        program: Debian's ``docker-registry``.
    """
    folder.mkdir()
    ca = _certificate(folder)
    (folder / "htpasswd").write_text(_HTPASSWD)
    config = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "auth": {"htpasswd": {"realm": "box", "path": str(folder / "htpasswd")}},
        "http": {
            "addr": f"{network.GATEWAY}:{PORT}",
            "host": f"https://{NAME}",
            "tls": {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")},
        },
    }
    (folder / "config.yml").write_text(json.dumps(config))
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [program, "serve", folder / "config.yml"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={"OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        registry = Registry(ca, log)
        registry.until_up()
        yield registry
    finally:
        process.terminate()
        process.wait()


def layer_of(root: Path, cache: Path) -> bytes:
    """The one layer of an image with Python: a few files of a Debian, packed once.

    Args:
        root: That Debian.
        cache: Where it is kept.
    """
    told = repr((root.name, _FOLDERS, _PROGRAMS, _LIBRARIES, MARKER)).encode()
    kept = cache / f"container-{hashlib.sha256(told).hexdigest()[:12]}.tar.gz"
    if not kept.exists():
        buffer = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as tar,
        ):
            _pack(tar, root)
        new = kept.with_suffix(f".{time.monotonic_ns()}")
        new.write_bytes(buffer.getvalue())
        new.rename(kept)
    return kept.read_bytes()


def _pack(tar: tarfile.TarFile, root: Path) -> None:
    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in entry.name else entry

    for name, target in _LINKS.items():
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, target
        tar.addfile(link)
    for name in ("tmp", "usr", "usr/bin", "usr/sbin", "usr/lib", "etc", "proc", "dev", "sys"):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
        tar.addfile(entry)
    for name in (*_FOLDERS, *(f"usr/bin/{each}" for each in _PROGRAMS)):
        if (root / name).exists() or (root / name).is_symlink():
            tar.add(root / name, name, filter=plain)
    libraries = root / "usr/lib/x86_64-linux-gnu"
    wanted = {f"lib{name}.so" for name in _LIBRARIES} | {"ld-linux-x86-64.so"}
    for path in sorted(libraries.iterdir()):
        if path.name.partition(".so")[0] + ".so" in wanted:
            tar.add(path, f"usr/lib/x86_64-linux-gnu/{path.name}")
    for name, text in ((MARKER.lstrip("/"), "yes"), ("etc/passwd", "root:x:0:0::/root:/bin/sh\n")):
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(text), 0o644
        tar.addfile(entry, io.BytesIO(text.encode()))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _certificate(folder: Path) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a registry in a box")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(network.GATEWAY))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    shown = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(shown)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return shown.decode()
