"""One bucket, and the one door to it: every request to S3 goes through :meth:`Bucket.call`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from dayfly.aws.errors import in_our_words
from dayfly.aws.session import ATTEMPTS, READ, Aws
from dayfly.clock import Clock, Entropy
from dayfly.errors import ApiError, CloudError, DeniedError, StorageError
from dayfly.model import StorageConfig
from dayfly.storage import keys
from dayfly.storage.s3.making import make
from dayfly.storage.s3.owner import judge
from dayfly.storage.s3.parts import AT_ONCE, PART
from dayfly.storage.s3.seam import TRIES
from dayfly.storage.s3.words import NO_BUCKET, Ours, RefusedError, denied, foreign, refused, undone

#: Seconds before it is said again: at most the first, doubled each time up to the second.
_FIRST, _LAST = 0.1, 5.0
#: Bytes per second below which a transfer counts as stuck.
_SLOWEST: Final = 16 * 1024
#: Requests that no owner can be named with.
_OWNERLESS: Final = {"create_bucket", "list_buckets"}
_WITH_BODY: Final = {"put_object", "upload_part"}


class Bucket:
    """A bucket whose owner is checked with every request.

    Args:
        aws: The account.
        name: Empty: ``dayfly-ACCOUNT-REGION``.
        account: Who must own it; empty: the caller.
        region: Of the bucket; empty: the account's.
        make: Whether a write makes a bucket that is missing.
        clock: For waits before something is said again.
        entropy: For their jitter, and for marks.
    """

    def __init__(
        self,
        aws: Aws,
        name: str,
        *,
        account: str,
        region: str,
        make: bool,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.region = region or aws.region
        self.entropy = entropy
        self.makes = make
        self._aws = aws
        self._name = name
        self._account = account
        self.clock = clock
        #: Held by each part that is on its way, of whichever object.
        self.gate = asyncio.Semaphore(AT_ONCE // PART)
        self._there = not make
        self._making = asyncio.Lock()
        self._judging = asyncio.Lock()
        self._judgement: Ours | None = None

    async def place(self) -> StorageConfig:
        """Where it is and whose; asks STS who calls, at most once and only if need be."""
        if not self._account:
            self._account = await self._aws.account()
        if not self._name:
            self._name = f"dayfly-{self._account}-{self.region}"
        return StorageConfig(
            kind="aws_s3", location=self._name, region=self.region, account=self._account
        )

    async def call(
        self, operation: str, key: str = "", *, body: bytes = b"", writes: bool = False, **more: Any
    ) -> dict[str, Any]:
        """Ask S3 for something.

        Args:
            operation: As botocore names it.
            key: Of the object, if one is meant.
            body: Bytes that go with it.
            writes: Whether the bucket is made if it is missing.
            more: The other parameters.

        Raises:
            ObjectNotFoundError: There is no such object.
            RefusedError: S3 said no, and said why.
            StorageError: S3 could not be asked.
            ConfigError: There are no credentials, or they are not valid.
        """
        for attempt in range(TRIES):
            try:
                answer = await self.ask(operation, key, body=body, **more)
            except RefusedError as error:
                missing = error.code == NO_BUCKET and writes and self.makes
                if not missing or attempt == TRIES - 1:
                    raise
                if attempt:  # made, and not everywhere known yet
                    await self.pause(attempt)
                await self.ensure()
            else:
                self._there = True
                return answer
        raise AssertionError("the last try returns or raises")

    async def ensure(self) -> None:
        """Make the bucket unless it is known to be there."""
        async with self._making:
            if self._there:
                return
            try:
                # Not HeadBucket: its refusal has no body, and so no reason.
                await self.ask("list_objects_v2", MaxKeys=1, Prefix=keys.ROOT)
            except RefusedError as error:
                if error.code != NO_BUCKET:
                    raise
                await make(self)
            self._there = True

    async def pause(self, attempt: int) -> None:
        """Wait before the next attempt; the first one is number 1."""
        longest = min(_LAST, _FIRST * 2 ** (attempt - 1))
        await self.clock.sleep(longest * (0.5 + self.entropy.fraction() / 2))

    async def ask(
        self, operation: str, key: str = "", *, body: bytes = b"", **more: Any
    ) -> dict[str, Any]:
        """Ask S3 once; see :meth:`call`."""
        name, account = (place := await self.place()).location, place.account
        try:
            return await self.send(operation, key, body=body, **more)
        except DeniedError as error:
            ours = await self._ours()
            if ours is Ours.NO:
                raise foreign(operation, name, key, account, error.cause) from error
            raise denied(error, operation, self.region, name, key, ours) from error
        except ApiError as error:
            raise refused(error, operation, name, key) from error
        except CloudError as error:
            raise StorageError(error.what, cause=error.cause, hint=error.hint) from error

    async def send(
        self,
        operation: str,
        key: str = "",
        *,
        body: bytes = b"",
        checked: bool = True,
        **more: Any,
    ) -> dict[str, Any]:
        """Send a request, as it is, and raise what :func:`in_our_words` raises.

        Args:
            operation: See :meth:`call`.
            key: See :meth:`call`.
            body: See :meth:`call`.
            checked: Whether the bucket's owner is.
            more: See :meth:`call`.
        """
        place = await self.place()
        client = await self._aws.client("s3", region=self.region)
        if operation != "list_buckets":
            more["Bucket"] = place.location
        if key:
            more["Key"] = key
        if place.account and checked and operation not in _OWNERLESS:
            more["ExpectedBucketOwner"] = place.account
        if operation in _WITH_BODY:
            more["Body"] = body
        what = undone(operation, place.location, key)
        limit = ATTEMPTS * (READ + len(body) / _SLOWEST)
        try:
            async with asyncio.timeout(limit):
                with in_our_words(what):
                    answer: dict[str, Any] = await getattr(client, operation)(**more)
                    return answer
        except TimeoutError as error:
            raise CloudError(what, cause=f"it took longer than {limit:.0f} s") from error

    async def sign(self, operation: str, key: str, *, seconds: float) -> str:
        """A URL that carries the right to one request; nobody is asked.

        The bucket's owner is not part of it: whoever has the URL would have to say it too.
        """
        place = await self.place()
        client = await self._aws.client("s3", region=self.region)
        with in_our_words(undone(operation, place.location, key)):
            url: str = await client.generate_presigned_url(
                operation,
                Params={"Bucket": place.location, "Key": key},
                ExpiresIn=max(1, round(seconds)),
            )
            return url

    async def _ours(self) -> Ours:
        """Whose the bucket is, after a denial; asked once."""
        async with self._judging:
            if self._judgement is None:
                self._judgement = await judge(self)
            return self._judgement
