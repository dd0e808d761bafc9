"""The contract of a cloud, kept by EC2 itself: the suite of ``tests/contract``, all of it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dayfly.cloud.base import Cloud
from dayfly.model import InstanceState
from tests.contract import test_cloud as contract
from tests.contract.forms import Form
from tests.contract.test_cloud import *  # noqa: F403  # every promise, also those to come
from tests.real_aws.apart import Ec2CloudApart, default_network
from tests.real_aws.run import Run

#: Seconds for what takes longest: a console shows nothing for minutes.
PATIENCE = 900.0


@pytest.fixture
async def form(run: Run, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Form]:
    async def eventually(there: Callable[[], bool | Awaitable[bool]], what: str) -> None:
        async def holds() -> bool:
            answer = there()
            return answer if isinstance(answer, bool) else await answer

        await run.eventually(holds, what, PATIENCE)

    # The same questions with EC2's patience in place of the embedded cloud's.
    monkeypatch.setattr(contract, "eventually", eventually)
    cloud = Ec2CloudApart(run, secrets.token_hex(3), await default_network(run))
    try:
        yield Form(
            cloud=cloud,
            instance_type="t3.micro",
            processes=("m5.xlarge", 4),
            unknown=("t3.nope", "local.2"),
        )
    finally:
        await cloud.terminate([i.id for i in await cloud.list()])

        async def over() -> bool:
            return all(i.state is InstanceState.TERMINATED for i in await cloud.list())

        await run.eventually(over, "the test's instances to be terminated")
        await cloud.aclose()


@pytest.fixture
def cloud(form: Form) -> Cloud:
    return form.cloud
