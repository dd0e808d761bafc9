"""Storage in a bucket: what the contract does not say, on the emulated S3 and on a bad network."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from moto.s3.models import s3_backends

from dayfly.aws.session import Aws, Credentials
from dayfly.errors import (
    ConfigError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)
from dayfly.model import StorageConfig
from dayfly.storage.s3 import S3Storage
from dayfly.storage.s3.parts import PART, abreast, part_size, parts_of
from tests.aws.calls import Call
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.unit.ec2_support import TurnedClock

__all__ = ["aws"]


MIB = 1 << 20
BUCKET = "dayfly-123456789012-us-east-1"


@pytest.fixture
async def storage(aws: EmulatedAws) -> AsyncIterator[S3Storage]:
    async with opened(aws) as storage:
        yield storage


@asynccontextmanager
async def opened(
    aws: EmulatedAws, bucket: str = "", *, account: str = "", region: str = ""
) -> AsyncIterator[S3Storage]:
    storage = S3Storage(
        Aws(aws.region), bucket, account=account, region=region, owns=True, clock=TurnedClock()
    )
    try:
        yield storage
    finally:
        await storage.aclose()


def asked(aws: EmulatedAws) -> list[str]:
    return [call.action for call in aws.calls]


def unfinished(bucket: str = BUCKET) -> list[str]:
    """The uploads that were begun and neither completed nor aborted."""
    return list(s3_backends["123456789012"]["aws"].buckets[bucket].multiparts)


# -- the bucket --


async def test_the_first_write_makes_the_bucket_and_sets_it_up_once(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    await storage.put_object("x", b"1")
    await storage.put_object("y", b"2")
    assert await storage.get_object("x") == b"1"
    assert asked(aws) == [
        "GetCallerIdentity",
        "PutObject",
        "ListObjectsV2",
        "CreateBucket",
        "PutPublicAccessBlock",
        "PutBucketTagging",
        "PutBucketLifecycleConfiguration",
        "PutObject",
        "PutObject",
        "GetObject",
    ]
    made = s3_backends["123456789012"]["aws"].buckets[BUCKET]
    assert made.public_access_block
    assert made.public_access_block.block_public_policy is True
    assert s3_backends["123456789012"]["aws"].tagger.get_tag_dict_for_resource(made.arn) == {
        "dayfly:managed": "true"
    }
    assert made.rules[0].aimu_days == "7"


async def test_every_request_names_the_owner(aws: EmulatedAws, storage: S3Storage) -> None:
    await storage.put_object("x", os.urandom(17 * MIB))
    await storage.get_object("x")
    await storage.head_object("x")
    assert [key async for key in storage.list_keys()] == ["x"]
    await storage.delete_objects(["x", "y"])
    checked = {
        call.action
        for call in aws.calls
        if call.params.get("ExpectedBucketOwner") == aws.account and call.service == "s3"
    }
    assert {call.action for call in aws.calls if call.service == "s3"} - checked == {"CreateBucket"}
    assert len(checked) >= 10


async def test_locating_makes_the_bucket_and_says_where_it_is(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    expected = StorageConfig(
        kind="aws_s3", location=BUCKET, region="us-east-1", account="123456789012"
    )
    assert await storage.locate() == expected
    before = len(aws.calls)
    assert await storage.locate() == expected
    assert len(aws.calls) == before
    assert aws.count("CreateBucket") == 1


async def test_a_bucket_that_answered_is_not_looked_at_again(aws: EmulatedAws) -> None:
    async with opened(aws) as first:
        await first.locate()
    async with opened(aws) as second:
        with pytest.raises(ObjectNotFoundError):
            await second.get_object("x")
        await second.put_object("x", b"")
        before = len(aws.calls)
        await second.locate()
        assert len(aws.calls) == before


async def test_two_clients_at_once_make_one_bucket(aws: EmulatedAws) -> None:
    async with opened(aws) as first, opened(aws) as second:
        await asyncio.gather(
            *(each.put_object(f"{number}", b"") for number in range(5) for each in (first, second))
        )
        assert [key async for key in first.list_keys()] == ["0", "1", "2", "3", "4"]
    assert len(s3_backends["123456789012"]["aws"].buckets) == 1


async def test_a_client_that_came_second_in_making_the_bucket_goes_on(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    aws.fail_next("CreateBucket", "OperationAborted", 409)
    aws.fail_next("CreateBucket", "BucketAlreadyOwnedByYou", 409, after=True)
    await storage.put_object("x", b"data")
    assert await storage.get_object("x") == b"data"
    assert aws.count("CreateBucket") == 2


async def test_a_bucket_in_another_region_is_made_there(aws: EmulatedAws) -> None:
    async with opened(aws, region="eu-west-1") as storage:
        located = await storage.locate()
        await storage.put_object("x", b"")
    assert (located.location, located.region) == ("dayfly-123456789012-eu-west-1", "eu-west-1")
    made = s3_backends["123456789012"]["aws"].buckets[located.location]
    assert made.region_name == "eu-west-1"


async def test_a_bucket_may_lack_what_the_user_has_no_permission_to_set(
    aws: EmulatedAws, storage: S3Storage, caplog: pytest.LogCaptureFixture
) -> None:
    aws.deny("s3:PutBucketTagging")
    await storage.put_object("x", b"data")
    assert await storage.get_object("x") == b"data"
    assert "s3:PutBucketTagging" in caplog.text


async def test_a_storage_that_was_never_written_is_empty_and_stays_so(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    assert [key async for key in storage.list_keys()] == []
    await storage.delete_object("x")
    await storage.delete_objects(["x", "y"])
    for read in (
        storage.get_object("x"),
        storage.head_object("x"),
        storage.download_file("x", "y"),
    ):
        with pytest.raises(ObjectNotFoundError, match="'x'"):
            await read
    assert aws.count("CreateBucket") == 0


async def test_a_vm_asks_for_nothing_but_its_objects(aws: EmulatedAws) -> None:
    async with opened(aws) as client:
        there = await client.locate()
    aws.calls.clear()
    async with opened(aws, there.location, account=there.account) as vm:
        await vm.put_object("x", b"data")
        assert await vm.get_object("x") == b"data"
        assert await vm.locate() == there
    assert asked(aws) == ["PutObject", "GetObject"]
    assert aws.calls[0].params["ExpectedBucketOwner"] == "123456789012"


async def test_a_vm_does_not_make_a_bucket_that_is_gone(aws: EmulatedAws) -> None:
    async with opened(aws, "gone-bucket", account=aws.account) as vm:
        for attempt in (vm.put_object("x", b""), vm.get_object("x"), vm.delete_object("x")):
            with pytest.raises(StorageError, match="gone-bucket") as caught:
                await attempt
            assert "there is no bucket gone-bucket" in caught.value.cause
    assert aws.count("CreateBucket") == 0


async def test_a_name_that_no_bucket_can_have_is_told(aws: EmulatedAws) -> None:
    async with opened(aws, "No Bucket!") as storage:
        with pytest.raises(StorageError, match="No Bucket!") as caught:
            await storage.put_object("x", b"")
    assert "aws_s3.storage_bucket" in caught.value.hint


# -- whose it is --


def belongs_to(aws: EmulatedAws, owner: str, *, closed: bool) -> None:
    """Have S3 compare the owner, as the emulated one does not."""

    def check(call: Call, moment: str) -> None:
        expected = call.params.get("ExpectedBucketOwner", "")
        wrong = expected and expected != owner
        strange = closed and call.params.get("Bucket")
        if moment == "before" and call.service == "s3" and (wrong or strange):
            aws.fail_next(f"s3:{call.action}", "AccessDenied", 403, message="Access Denied")

    aws.on_call = check


@pytest.mark.parametrize("closed", [False, True], ids=["open to us", "closed"])
async def test_somebody_elses_bucket_is_refused(aws: EmulatedAws, closed: bool) -> None:
    if not closed:
        async with opened(aws) as theirs:
            await theirs.put_object("x", b"theirs")
    belongs_to(aws, "999999999999", closed=closed)
    async with opened(aws) as storage:
        for attempt in (storage.put_object("x", b""), storage.get_object("x"), storage.locate()):
            with pytest.raises(StorageError, match=BUCKET) as caught:
                await attempt
            assert f"{BUCKET} belongs to somebody else" in caught.value.cause
            assert "not to the account 123456789012" in caught.value.cause
            assert "aws_s3.storage_bucket" in caught.value.hint
    assert aws.count("ListBuckets") == closed


async def test_a_name_that_somebody_else_has_taken_is_told(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    aws.fail_next("CreateBucket", "BucketAlreadyExists", 409)
    with pytest.raises(StorageError, match=BUCKET) as caught:
        await storage.put_object("x", b"")
    assert "belongs to somebody else" in caught.value.cause


async def test_where_nobody_can_tell_whose_it_is_both_causes_are_told(aws: EmulatedAws) -> None:
    belongs_to(aws, "999999999999", closed=True)
    aws.deny("s3:ListAllMyBuckets")
    aws.deny("s3:ListBuckets")
    async with opened(aws) as storage:
        with pytest.raises(StorageError, match="'x' could not be written") as caught:
            await storage.put_object("x", b"")
    assert f"s3:PutObject on arn:aws:s3:::{BUCKET}/x is not allowed" in caught.value.cause
    assert "or the bucket belongs to somebody else" in caught.value.cause


# -- permissions and credentials --


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("s3:PutObject", f"arn:aws:s3:::{BUCKET}/a/x"),
        ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/a/x"),
        ("s3:ListBucket", f"arn:aws:s3:::{BUCKET}"),
        ("s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/a/x"),
    ],
)
@pytest.mark.parametrize("told", [False, True], ids=["S3 says little", "S3 says why"])
async def test_a_permission_that_lacks_is_named(
    aws: EmulatedAws, storage: S3Storage, action: str, resource: str, told: bool
) -> None:
    await storage.put_object("a/x", b"data")
    name = {"s3:ListBucket": "ListObjectsV2"}.get(action, action.removeprefix("s3:"))
    why = (
        f"User: arn:aws:iam::1:user/eve is not authorized to perform: {action} on resource: "
        f'"{resource}" because no identity-based policy allows the {action} action'
    )
    aws.fail_next(f"s3:{name}", "AccessDenied", 403, message=why if told else "Access Denied")
    attempt: dict[str, Callable[[], Awaitable[object]]] = {
        "s3:PutObject": lambda: storage.put_object("a/x", b""),
        "s3:GetObject": lambda: storage.get_object("a/x"),
        "s3:ListBucket": lambda: anext(aiter(storage.list_keys())),
        "s3:DeleteObject": lambda: storage.delete_object("a/x"),
    }
    with pytest.raises(StorageError) as caught:
        await attempt[action]()
    assert f"{action} on {resource} is not allowed" in caught.value.cause
    assert ("no identity-based policy" in caught.value.cause) is told
    assert caught.value.hint.startswith(f"allow {action} on {resource}; dayfly doctor")
    assert "somebody else" not in caught.value.cause


async def test_what_keeps_an_object_from_being_described_is_asked_again(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    await storage.put_object("x", b"data")
    aws.deny("s3:GetObject")
    with pytest.raises(StorageError, match="'x' could not be read") as caught:
        await storage.head_object("x")
    assert "s3:GetObject" in caught.value.cause


async def test_without_credentials_the_next_command_is_told(
    aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with opened(aws, "some-bucket", account=aws.account) as storage:
        with pytest.raises(ConfigError, match="'x' could not be written") as caught:
            await storage.put_object("x", b"")
    assert "no credentials were found" in caught.value.cause
    assert "aws configure" in caught.value.hint


async def test_credentials_that_have_expired_are_told(aws: EmulatedAws, storage: S3Storage) -> None:
    await storage.put_object("x", b"data")
    aws.fail_next("s3:GetObject", "ExpiredToken", 400)
    with pytest.raises(ConfigError, match="'x' could not be read") as caught:
        await storage.get_object("x")
    assert "expired" in caught.value.cause
    assert "aws sso login" in caught.value.hint


async def test_s3_that_cannot_be_reached_is_told(
    aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("dayfly.aws.session.ATTEMPTS", 1)
    async with opened(aws, "some-bucket", account=aws.account) as storage:
        with pytest.raises(StorageError, match="'x' could not be written") as caught:
            await storage.put_object("x", b"")
    assert "127.0.0.1:9 could not be reached" in caught.value.cause


# -- large objects --


async def test_a_large_object_goes_in_parts(
    aws: EmulatedAws, storage: S3Storage, tmp_path: Path
) -> None:
    await storage.locate()
    data = os.urandom(40_000_000)
    (tmp_path / "up").write_bytes(data)
    await storage.upload_file(tmp_path / "up", "file")
    await storage.put_object("bytes", data)
    assert aws.count("UploadPart") == 2 * 5
    assert aws.count("CreateMultipartUpload") == aws.count("CompleteMultipartUpload") == 2
    assert await storage.get_object("file") == data
    (tmp_path / "down").write_bytes(b"before")
    await storage.download_file("bytes", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["down", "up"]
    middle = (9_000_000, 30_000_000)
    assert await storage.get_object("file", byte_range=middle) == data[slice(*middle)]
    streamed = hashlib.sha256()
    async for piece in storage.stream_object("file"):
        streamed.update(piece)
    assert streamed.digest() == hashlib.sha256(data).digest()
    assert unfinished() == []


def test_parts_are_never_more_than_s3_takes() -> None:
    assert part_size(16 * MIB) == PART
    assert list(parts_of(5, 5 + 20 * MIB)) == [
        (5, 5 + 8 * MIB),
        (5 + 8 * MIB, 5 + 16 * MIB),
        (5 + 16 * MIB, 5 + 20 * MIB),
    ]
    for size in (PART * 10_000, PART * 10_000 + 1, 5 << 40):
        assert len(range(0, size, part_size(size))) <= 10_000
        assert part_size(size) * abreast(size) <= max(32 * MIB, part_size(size))


async def test_of_eight_puts_one_wins(aws: EmulatedAws, storage: S3Storage) -> None:
    async def put(number: int, size: int) -> bool:
        try:
            await storage.put_object(f"new/{size}", bytes([number]) * size, if_absent=True)
        except ObjectExistsError:
            return False
        return True

    for size, racers in ((1000, 8), (17 * MIB, 3)):
        won = await asyncio.gather(*(put(number, size) for number in range(racers)))
        assert won.count(True) == 1
        assert await storage.get_object(f"new/{size}") == bytes([won.index(True)]) * size
    assert unfinished() == []


@pytest.mark.parametrize("size", [1000, 17 * MIB])
async def test_a_put_whose_answer_was_lost_knows_its_own_object(
    aws: EmulatedAws, storage: S3Storage, size: int
) -> None:
    await storage.locate()
    last = "PutObject" if size < MIB else "CompleteMultipartUpload"
    aws.hang_up_next(last, after=True)
    await storage.put_object("x", b"1" * size, if_absent=True)
    assert aws.count(last) == 2
    with pytest.raises(ObjectExistsError, match="'x' exists already"):
        await storage.put_object("x", b"2" * size, if_absent=True)
    assert await storage.get_object("x") == b"1" * size
    assert unfinished() == []


async def test_an_upload_whose_last_answer_was_lost_is_known_to_be_complete(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    aws.fail_next("CompleteMultipartUpload", "NoSuchUpload", 404, after=True)
    await storage.put_object("x", b"1" * 17 * MIB)
    assert aws.count("CompleteMultipartUpload") == 1
    assert await storage.get_object("x") == b"1" * 17 * MIB


@pytest.mark.parametrize("size", [1000, 17 * MIB])
async def test_puts_that_met_are_said_again(
    aws: EmulatedAws, storage: S3Storage, size: int
) -> None:
    await storage.locate()
    last = "PutObject" if size < MIB else "CompleteMultipartUpload"
    aws.fail_next(last, "ConditionalRequestConflict", 409, times=2)
    await storage.put_object("x", b"1" * size, if_absent=True)
    assert aws.count(last) == 3
    assert await storage.get_object("x") == b"1" * size
    assert unfinished() == []


async def test_an_upload_that_fails_leaves_nothing_behind(
    aws: EmulatedAws, storage: S3Storage, tmp_path: Path
) -> None:
    await storage.put_object("x", b"before")
    (tmp_path / "up").write_bytes(os.urandom(40 * MIB))
    aws.fail_next("UploadPart", "AccessDenied", 403, message="Access Denied")
    with pytest.raises(StorageError, match="'x' could not be written"):
        await storage.upload_file(tmp_path / "up", "x")
    assert unfinished() == []
    assert await storage.get_object("x") == b"before"


@pytest.mark.parametrize("moment", ["CreateMultipartUpload", "UploadPart"])
async def test_an_upload_that_is_cancelled_leaves_nothing_behind(
    aws: EmulatedAws, storage: S3Storage, moment: str
) -> None:
    await storage.locate()
    loop, reached = asyncio.get_running_loop(), asyncio.Event()

    def tell(call: Call, _: str) -> None:
        if call.action == moment:
            loop.call_soon_threadsafe(reached.set)

    aws.on_call = tell
    putting = asyncio.create_task(storage.put_object("x", bytes(40 * MIB)))
    await reached.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert aws.count("CreateMultipartUpload") == 1
    assert unfinished() == []
    with pytest.raises(ObjectNotFoundError):
        await storage.get_object("x")


async def test_parts_that_cannot_be_cleared_away_are_told(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    aws.fail_next("UploadPart", "AccessDenied", 403, message="Access Denied")
    aws.deny("s3:AbortMultipartUpload")
    with pytest.raises(StorageError) as caught:
        await storage.put_object("x", bytes(17 * MIB))
    assert "aws s3api abort-multipart-upload --bucket" in caught.value.__notes__[0]


async def test_a_file_that_shrinks_while_it_goes_up_is_told(
    aws: EmulatedAws, storage: S3Storage, tmp_path: Path
) -> None:
    (tmp_path / "up").write_bytes(bytes(40 * MIB))

    def shrink(call: Call, _: str) -> None:
        if call.action == "CreateMultipartUpload":
            os.truncate(tmp_path / "up", 20 * MIB)

    aws.on_call = shrink
    with pytest.raises(StorageError, match=r"/up could not be read") as caught:
        await storage.upload_file(tmp_path / "up", "x")
    assert "became shorter" in caught.value.cause
    assert unfinished() == []


# -- listing and deleting --


async def test_a_long_listing_comes_in_pages_and_goes_in_batches(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    await storage.locate()
    backend = s3_backends["123456789012"]["aws"]
    names = [f"many/{number:05}" for number in range(2500)]
    for name in [*names, "many/", "many//x", "many/../y"]:
        backend.put_object(BUCKET, name, b"")
    assert [key async for key in storage.list_keys("many/")] == names
    assert aws.count("ListObjectsV2") == 1 + 3
    await storage.delete_objects(names)
    assert aws.count("DeleteObjects") == 3
    assert [key async for key in storage.list_keys("many/")] == []


async def test_keys_that_xml_cannot_carry_are_deleted_one_by_one(
    aws: EmulatedAws, storage: S3Storage
) -> None:
    names = ["a", "b\x01", "c\r", "d\ufffe", "e"]
    for name in names:
        await storage.put_object(name, b"")
    await storage.delete_objects(names)
    assert [key async for key in storage.list_keys()] == []
    assert (aws.count("DeleteObjects"), aws.count("DeleteObject")) == (1, 3)


class Answers(Aws):
    """An account whose S3 answers what a test says."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        super().__init__("us-east-1")
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    async def client(self, service: str, *, repeat: bool = True, region: str = "") -> Any:
        return self

    async def delete_objects(self, **parameters: Any) -> dict[str, Any]:
        self.asked.append(parameters)
        return self.answers.pop(0)


def refusal(key: str, code: str) -> dict[str, str]:
    return {"Key": key, "Code": code, "Message": f"it is {code}"}


async def test_objects_that_could_not_be_deleted_are_named() -> None:
    account = Answers(
        {
            "Errors": [
                refusal("a", "AccessDenied"),
                refusal("b", "InternalError"),
                refusal("c", "SlowDown"),
            ]
        },
        {"Errors": [refusal("b", "SlowDown"), refusal("c", "SlowDown")]},
        {},
    )
    storage = S3Storage(account, "bucket", account="1", clock=TurnedClock())
    with pytest.raises(StorageError, match="1 of 3 objects could not be deleted") as caught:
        await storage.delete_objects(["a", "b", "c"])
    assert caught.value.cause == "'a': it is AccessDenied (AccessDenied)"


# -- a bad network --


class BadServer:
    """An S3 with one object, whose connections break while they answer.

    Attributes:
        data: The object.
        breaks: How many bytes each answer brings before its connection is cut; then whole ones.
        asked: The header lines of each request.
        version: The object's ETag.
        checksum: Of the object, as the server says.
    """

    def __init__(self, data: bytes, *breaks: int) -> None:
        self.data = data
        self.breaks = list(breaks)
        self.asked: list[dict[str, str]] = []
        self.version = '"v1"'
        self.checksum = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                lines = request.decode().splitlines()[1:-1]
                headers = dict(line.lower().split(": ", 1) for line in lines)
                self.asked.append(headers)
                if not await self.answer(headers, writer):
                    break
        except asyncio.IncompleteReadError:
            pass  # the client has gone
        finally:
            writer.close()

    async def answer(self, headers: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        if headers.get("if-match", self.version) != self.version:
            body = b"<Error><Code>PreconditionFailed</Code></Error>"
            writer.write(b"HTTP/1.1 412 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            return True
        first, _, last = headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        body = self.data[int(first) : int(last) + 1 if last else None]
        head = [
            "HTTP/1.1 206 Some" if "range" in headers else "HTTP/1.1 200 All",
            f"Content-Length: {len(body)}",
            f"ETag: {self.version}",
        ]
        if "range" not in headers:
            head.append(f"x-amz-checksum-crc32: {self.checksum}")
        writer.write("\r\n".join([*head, "", ""]).encode())
        cut = self.breaks.pop(0) if self.breaks else None
        writer.write(body[:cut])
        await writer.drain()
        return cut is None


@asynccontextmanager
async def bad_network(
    server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[S3Storage]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    keys = Credentials(access_key_id="A", secret_access_key="S")
    storage = S3Storage(
        Aws("us-east-1", keys), "bucket", account="1", owns=True, clock=TurnedClock()
    )
    try:
        yield storage
    finally:
        await storage.aclose()
        listening.close()
        await listening.wait_closed()


async def test_a_stream_that_breaks_is_taken_up_where_it_broke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = BadServer(os.urandom(5 * MIB), 2_000_000, 0, 1_000_000)
    async with bad_network(server, monkeypatch) as storage:
        pieces = [piece async for piece in storage.stream_object("x", chunk_size=700_000)]
    assert b"".join(pieces) == server.data
    assert {len(piece) for piece in pieces[:-1]} == {700_000}
    assert [each.get("range") for each in server.asked] == [
        None,
        "bytes=2000000-5242879",
        "bytes=2000000-5242879",
        "bytes=3000000-5242879",
    ]
    assert {each.get("if-match") for each in server.asked[1:]} == {'"v1"'}


async def test_reads_and_downloads_that_break_are_taken_up_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = BadServer(os.urandom(20 * MIB), 10, 5, 1_000_000)
    async with bad_network(server, monkeypatch) as storage:
        assert await storage.get_object("x") == server.data
        server.breaks = [10, 5, 1_000_000]
        await storage.download_file("x", tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == server.data
        server.breaks = [1000]
        assert await storage.get_object("x", byte_range=(7, 70_000)) == server.data[7:70_000]
    assert server.asked[-1]["range"] == "bytes=1007-69999"


async def test_an_object_that_is_replaced_while_it_is_read_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = BadServer(os.urandom(5 * MIB), 2_000_000)
    async with bad_network(server, monkeypatch) as storage:
        stream = aiter(storage.stream_object("x", chunk_size=700_000))
        await anext(stream)
        server.version = '"v2"'
        with pytest.raises(StorageError, match="'x' could not be read") as caught:
            async for _ in stream:
                pass
        assert "replaced while it was being read" in caught.value.cause


async def test_a_stream_that_keeps_breaking_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    server = BadServer(bytes(MIB), 100, *[0] * 50)
    async with bad_network(server, monkeypatch) as storage:
        with pytest.raises(StorageError, match="'x' could not be read") as caught:
            await storage.get_object("x")
    assert "it broke 6 times without a byte, 1048476 bytes before the end" in caught.value.cause
    assert len(server.asked) == 6


async def test_an_object_that_comes_damaged_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = BadServer(os.urandom(MIB))
    server.checksum = "AAAAAA=="
    async with bad_network(server, monkeypatch) as storage:
        with pytest.raises(StorageError, match="'x' could not be read") as caught:
            await storage.download_file("x", tmp_path / "x")
    assert "it came damaged" in caught.value.cause
    assert list(tmp_path.iterdir()) == []


async def test_a_stream_that_is_left_early_lets_go_of_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = BadServer(bytes(5 * MIB))
    async with bad_network(server, monkeypatch) as storage:
        stream = storage.stream_object("x", chunk_size=10)
        assert await anext(aiter(stream)) == bytes(10)
        await stream.aclose()  # type: ignore[attr-defined]  # a generator
        assert await storage.get_object("x", byte_range=(0, 3)) == bytes(3)
    assert len(server.asked) == 2
