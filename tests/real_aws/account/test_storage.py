"""The contract of storage, kept by S3 itself: all that ``tests/contract`` says of every form."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from dayfly.aws.session import Aws
from dayfly.storage.base import Storage
from dayfly.storage.s3 import S3Storage
from tests.contract import test_storage as contract
from tests.real_aws import listing
from tests.real_aws.run import Run, in_thread

# The others are of the directory alone.
globals().update(
    {
        name: test
        for name, test in vars(contract).items()
        if name.startswith("test_")
        and {"storage", "form"} & set(inspect.signature(test).parameters)
    }
)

Form = Callable[[], AbstractAsyncContextManager[Storage]]


@pytest.fixture(scope="module")
def bucket(run: Run) -> Iterator[str]:
    """One for all: a hundred of them a minute is not what S3 is for."""
    name = f"dayfly-test-{run.settings.run}"
    yield name
    if in_thread(listing.objects(run.region, name)) is not None:
        in_thread(listing.delete_bucket(run.region, name))


@pytest.fixture
def form(run: Run, bucket: str) -> Form:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Storage]:
        storage = S3Storage(Aws(run.region), bucket, owns=True)
        try:
            yield storage
        finally:
            await storage.delete_objects([key async for key in storage.list_keys("")])
            assert not await listing.objects(run.region, bucket)
            await storage.aclose()

    return opened


@pytest.fixture
async def storage(form: Form) -> AsyncIterator[Storage]:
    async with form() as storage:
        yield storage
