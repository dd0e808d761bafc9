"""A bare VM that cannot get its packages: each reason has its own words, and its own advice."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import io
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dayfly.environment.kit.network import trouble
from dayfly.environment.kit.record import scrubbed
from dayfly.environment.kit.wheels import DEPOSITS, digest
from dayfly.environment.order import FileOrder, Interpreters, Source
from tests.unit.kit_support import Index, Run, Vm, ended, wheel


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    with made.serving():
        yield made


@pytest.fixture
def vm(tmp_path: Path, index: Index, tmp_path_factory: pytest.TempPathFactory) -> Vm:
    root = tmp_path / "vm"
    root.mkdir()
    return Vm(root, index, tmp_path_factory.getbasetemp() / "uv.whl")


def from_only(file: FileOrder, url: str) -> FileOrder:
    return msgspec.structs.replace(file, sources=(Source(name="index", url=url),), deposit="")


# -- the network --


@pytest.mark.parametrize("status", [403, 503])
def test_an_index_that_does_not_give_a_file_is_told_with_its_answer(vm: Vm, status: int) -> None:
    file = vm.file("wanted")
    vm.index.faults[f"/index/{file.filename}"] = [status] * 9
    failed = vm.run(vm.order(file)).last
    assert failed["failed"] == "fetch"
    assert failed["kind"] == "network"
    assert failed["package"] == "wanted==1.0"
    assert f"index: 127.0.0.1 answered HTTP {status}" in failed["cause"]
    assert "storage: 127.0.0.1 answered HTTP 404" in failed["cause"]
    assert "routes" in failed["advice"]


def test_an_index_that_nobody_serves_is_given_up_once_for_all_of_its_files(vm: Vm) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/index/x.whl"
        files = [from_only(vm.file(f"wanted{n}"), url) for n in range(40)]
        run = vm.run(vm.order(*files))
    assert "127.0.0.1 refuses the connection" in run.last["cause"]


def test_an_index_that_says_nothing_is_told_at_the_deadline(vm: Vm) -> None:
    file = vm.file("wanted")
    vm.index.silent.set()
    failed = vm.run(vm.order(file, deadlines={"fetch": 0.3})).last
    assert failed["kind"] == "deadline"
    assert failed["what"] == "the fetch step did not end within 0.3 s"
    # uv, from a disk, may be under way too where that is slow.
    assert failed["cause"].startswith("under way: ")
    assert failed["cause"].endswith(f"{file.filename} from storage")


def test_an_index_that_says_nothing_is_given_up_after_a_silence(vm: Vm) -> None:
    vm.index.silent.set()
    failed = vm.run(vm.order(vm.file("wanted"), silence=0.1, pauses=())).last
    assert failed["kind"] == "network"
    assert "127.0.0.1 does not answer (timeout)" in failed["cause"]


def test_a_storage_that_does_not_answer_is_given_up_for_all_files(vm: Vm, tmp_path: Path) -> None:
    vm.index.deaf.set()
    files = []
    for n in range(20):
        file = vm.file(f"wanted{n}")
        here = tmp_path / file.filename
        here.write_bytes(vm.index.files[f"/index/{file.filename}"])
        from_here = (Source(name="index", url=here.as_uri()),)
        files.append(msgspec.structs.replace(file, sources=from_here))
    run = vm.run(vm.order(*files, silence=0.5))
    assert run.done
    assert run.step("deposit")["files"] == 0
    told = [note for note in run.notes if "127.0.0.1 does not answer (timeout)" in note]
    assert len(told) == len(files)
    puts = [each for each in vm.index.asked if each.startswith("PUT")]
    assert len(puts) <= DEPOSITS, "one for each lane, and none after them"


def test_an_index_whose_certificate_nobody_knows_is_not_trusted(vm: Vm, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "index.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    async def main() -> Run:
        def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            file = from_only(vm.file("wanted"), f"https://127.0.0.1:{port}/wanted.whl")
            return await asyncio.to_thread(vm.run, vm.order(file))

    failed = asyncio.run(main()).last
    assert failed["kind"] == "network"
    assert "the certificate of 127.0.0.1 is not trusted on the VM" in failed["cause"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no DNS server knows pypi.test"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no route to pypi.test"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to pypi.test"),
        (TimeoutError(), "pypi.test does not answer"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "no TLS with pypi.test"),
        (ConnectionResetError(), "pypi.test broke the connection"),
    ],
)
def test_what_a_network_does_has_words(error: OSError, words: str) -> None:
    known = trouble(urllib.error.URLError(error), "https://me:pw@pypi.test/simple?token=x")
    assert words in known.words
    assert known.passing is not isinstance(error, TimeoutError), "20 s of knocking are enough"
    assert trouble(error, "https://pypi.test/").passing


def test_no_secret_of_a_url_is_told_or_kept(vm: Vm) -> None:
    files = []
    for name in ("one", "two"):
        file = vm.file(name)
        urls = (vm.index.url(f"/{name}", user="me:hunter2@"), vm.index.url(f"/other/{name}"))
        sources = tuple(Source(name="index", url=url) for url in urls)
        files.append(msgspec.structs.replace(file, sources=sources))
    run = vm.run(vm.order(*files))
    assert run.status == 1
    logs = (vm.home / "log").read_text() + (vm.root / "tmp/dayfly/bootstrap.log").read_text()
    for said in (run.output, run.errors, logs):
        assert "s3cr3t" not in said
        assert "hunter2" not in said
    assert f"http://127.0.0.1:{vm.index.port}/one" in logs


# -- files --


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_was_deleted_everywhere_is_told_with_how_to_lock_anew(
    vm: Vm, status: int, tmp_path: Path
) -> None:
    file = vm.file("wanted")
    nowhere = Source(name="storage", url=(tmp_path / "nowhere").as_uri())
    vm.index.faults[f"/index/{file.filename}"] = [status] * 2
    for sources in (file.sources, (nowhere, file.sources[1])):
        failed = vm.run(vm.order(msgspec.structs.replace(file, sources=sources))).last
        assert (failed["kind"], failed["package"]) == ("file", "wanted==1.0")
        assert failed["what"] == f"no source has {file.filename} any more"
        assert f"index: 127.0.0.1 answered HTTP {status}" in failed["cause"]
        assert "dayfly clean --all, then run the program again" in failed["advice"]


def test_a_file_that_is_altered_everywhere_is_refused(vm: Vm) -> None:
    file = vm.file("wanted")
    vm.index.files[f"/index/{file.filename}"] = wheel("wanted", "told = 'evil'")
    failed = vm.run(vm.order(file)).last
    assert failed["kind"] == "file"
    assert failed["package"] == "wanted==1.0"
    assert "SHA-256" in failed["cause"]
    assert not list((vm.root / "opt/dayfly/wheels" / file.sha256).iterdir())


def test_a_wheel_that_is_no_wheel_is_named(vm: Vm) -> None:
    failed = vm.run(vm.order(vm.file("fine"), vm.file("broken", content=b"no zip at all"))).last
    assert failed["failed"] == "install"
    assert failed["kind"] == "package"
    assert failed["package"] == "broken==1.0"
    assert "broken-1.0-py3-none-any.whl cannot be installed on the VM" in failed["what"]


def test_a_wheel_for_another_machine_is_named(vm: Vm) -> None:
    filename = "foreign-1.0-cp27-cp27mu-manylinux1_i686.whl"
    file = msgspec.structs.replace(vm.file("foreign"), filename=filename)
    failed = vm.run(vm.order(file)).last
    assert failed["kind"] == "package"
    assert failed["package"] == "foreign==1.0"
    assert "glibc" in failed["what"]


def test_a_module_that_cannot_be_imported_is_told_with_its_traceback(vm: Vm) -> None:
    source = "raise ImportError('libGL.so.1: cannot open shared object file')"
    failed = vm.run(vm.order(vm.file("fine"), vm.file("opencv", source))).last
    assert failed["failed"] == "check"
    assert failed["kind"] == "import"
    assert failed["package"] == "opencv"
    assert "libGL.so.1" in failed["cause"]
    assert "extra_apt_packages" in failed["advice"]
    assert not (vm.home / "complete").exists()


def test_a_module_that_kills_the_interpreter_is_named(vm: Vm) -> None:
    source = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
    failed = vm.run(vm.order(vm.file("fine"), vm.file("crashing", source))).last
    assert failed["package"] == "crashing"
    assert "SIGSEGV" in failed["what"]


# -- the interpreter --


def test_a_python_that_cannot_be_had_is_named_with_what_the_vm_has(vm: Vm) -> None:
    failed = vm.run(vm.order(python="3.99")).last
    assert failed["failed"] == "python"
    assert failed["kind"] == "interpreter"
    assert "the VM has no Python 3.99" in failed["what"]
    assert f"is cpython {sys.version_info.major}.{sys.version_info.minor}" in failed["cause"]
    for way in ("target_ami", "python_mirror", "dayfly image build"):
        assert way in failed["advice"]


def python_archive(vm: Vm) -> FileOrder:
    # It says that it is 3.99, and that the interpreter below it is the one of this test.
    told = f'{{"version": "3.99", "implementation": "cpython", "free": false, "lacks": [],\
 "base": "{sys.executable}"}}'
    program = f"#!/bin/sh\necho '{told}'\n".encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("python/bin/python3.99")
        entry.size, entry.mode = len(program), 0o755
        tar.addfile(entry, io.BytesIO(program))
    archive = vm.file("cpython", content=buffer.getvalue())
    return msgspec.structs.replace(archive, filename="cpython-3.99.tar.gz")


def test_a_python_is_brought_from_storage_as_an_archive(vm: Vm) -> None:
    order = vm.order(python="3.99", interpreters=Interpreters(archive=python_archive(vm)))
    run = vm.run(order)
    assert run.done
    assert run.step("python")["brought"]
    assert run.step("deposit")["files"] == 1
    shutil.rmtree(vm.home)
    vm.index.files.clear()
    assert not vm.run(order).step("python")["brought"]


def test_two_environments_that_need_the_same_python_at_once_bring_it_once(vm: Vm) -> None:
    order = vm.order(python="3.99", interpreters=Interpreters(archive=python_archive(vm)))
    assert vm.run(order).step("python")["brought"]
    brought = vm.root / "opt/dayfly/python"
    under_way = brought.rename(brought.with_name("elsewhere"))
    with (vm.root / "opt/dayfly/python.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        child = vm.start(msgspec.structs.replace(order, key="another"))
        until = time.monotonic() + 1
        while not brought.exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert not brought.exists()
        under_way.rename(brought)
    run = ended(child)
    assert run.done
    assert not run.step("python")["brought"]


def test_an_archive_that_is_damaged_is_told(vm: Vm) -> None:
    archive = vm.file("cpython", content=b"no archive")
    failed = vm.run(vm.order(python="3.99", interpreters=Interpreters(archive=archive))).last
    assert failed["kind"] == "interpreter"
    assert "cannot be unpacked" in failed["cause"]


# -- the disk; in a mount namespace, which is gone with the process --


def namespaces() -> bool:
    try:
        done = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


mounts = pytest.mark.skipif(not namespaces(), reason="needs mount namespaces")


def disk(vm: Vm, options: str, then: str = "") -> str:
    return f"mount -t tmpfs -o {options} none {vm.root}; mkdir {vm.root}/opt; {then}"


@mounts
def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(vm: Vm) -> None:
    file = vm.file("wanted")
    failed = vm.run(vm.order(file), before=disk(vm, "size=20m")).last
    assert failed["failed"] == "room"
    assert failed["kind"] == "disk"
    assert "MB are needed" in failed["what"]
    assert "21 MB are free" in failed["what"] or "20 MB are free" in failed["what"]
    assert "ebs_volumes" in failed["advice"]
    assert vm.index.asked == []


@mounts
def test_a_disk_without_room_for_many_files_is_told(vm: Vm) -> None:
    failed = vm.run(vm.order(), before=disk(vm, "size=1g,nr_inodes=100")).last
    assert failed["kind"] == "disk"
    assert "cannot hold enough files" in failed["what"]


@mounts
@pytest.mark.parametrize("step", ["fetch", "install"])
def test_a_disk_that_becomes_full_on_the_way_is_told_with_numbers(vm: Vm, step: str) -> None:
    large = bytes(90 << 20)
    content = large if step == "fetch" else wheel("wanted", extra={"wanted.bin": large})
    file = vm.file("wanted", content=content, size=0)  # the index does not tell sizes
    order = vm.order(file, uv=msgspec.structs.replace(vm.uv, size=0))
    failed = vm.run(order, before=disk(vm, "size=120m")).last
    assert failed["failed"] == step
    assert failed["kind"] == "disk"
    assert "the VM's disk is full" in failed["what"]
    assert "files are left at" in failed["what"]


@mounts
def test_a_disk_that_can_only_be_read_is_told(vm: Vm) -> None:
    before = disk(vm, "size=300m", f"mount -o remount,ro {vm.root}")
    failed = vm.run(vm.order(), before=before).last
    assert failed["kind"] == "disk"
    assert "can only be read" in failed["what"]


@mounts
def test_a_disk_from_which_nothing_may_be_run_is_told(vm: Vm) -> None:
    failed = vm.run(vm.order(), before=disk(vm, "size=300m,noexec")).last
    assert failed["kind"] == "permission"
    assert "noexec" in failed["advice"]


def test_a_folder_that_is_not_ours_is_told(vm: Vm) -> None:
    vm.root.chmod(0o500)
    # Root may write anywhere, unless it gives that up.
    humbly = 'set -- setpriv --bounding-set=-dac_override "$@"' if os.getuid() == 0 else ""
    failed = vm.run(vm.order(), before=humbly).last
    assert failed["kind"] == "permission"
    assert "chown" in failed["advice"]


# -- orders that make no sense --


@pytest.mark.parametrize("order", [b"", b"[]", b"{}", b'{"key": "../../etc"}'])
def test_an_order_that_makes_no_sense_is_refused(vm: Vm, order: bytes) -> None:
    run = ended(vm.start(order))
    assert run.status == 1
    assert run.last["failed"] == "order"
    assert run.last["kind"] == "order"
    assert list(vm.root.iterdir()) == []


def test_secrets_are_cut_from_any_text() -> None:
    text = "error at https://me:pw@host.test/a/b.whl?X-Sig=abc&y=1, caused by 'http://h/?q=1'\nnext"
    assert scrubbed(text) == ("error at https://host.test/a/b.whl caused by 'http://h/'\nnext")
    assert scrubbed("https://me:p@ss@host.test/a?b=c@d") == "https://host.test/a"


def test_the_same_file_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    with path.open("rb") as file:
        assert digest(file) == hashlib.sha256(b"x" * 1_000_000).hexdigest()
