"""One run of the suite: its account, its ledger, and the proof that it leaves nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aioboto3
from aiobotocore.config import AioConfig
from click.testing import CliRunner, Result

from dayfly.cli.root import dayfly
from dayfly.config import load
from dayfly.model import Instance, Tag
from dayfly.parts import Parts, open_parts
from dayfly.storage import keys
from tests.aws.emulator import EmulatedAws
from tests.aws.machines import SSH_PORT
from tests.real_aws import listing
from tests.real_aws.ledger import Ledger
from tests.real_aws.settings import TEST_TAG, RefusedError, Settings

T = TypeVar("T")

MASTER, WORKER = "t3.micro", "t3.small"
#: The most workers that any executor may ask for.
FLEET = 3
#: Seconds within which EC2 forgets a thing that was deleted.
FORGETS = 300.0


@dataclass
class Run:
    """What all tests share.

    Attributes:
        home: ``$HOME`` of the run.
        config: What to hand to ``FunctionExecutor(config=...)``.
        emulated: The emulated account, if it is one.
        facts: What was measured; printed at the end.
    """

    settings: Settings
    home: Path
    config: dict[str, dict[str, Any]]
    emulated: EmulatedAws | None
    ledger: Ledger
    owner: str = ""
    bucket: str = ""
    facts: list[str] = field(default_factory=list)
    #: The bucket of dayfly's own was there before.
    had_bucket: bool = False

    @property
    def region(self) -> str:
        """Where it runs."""
        return self.config["aws"]["region"]  # type: ignore[no-any-return]

    @property
    def role(self) -> str:
        """The instance profile of the VMs."""
        return self.config["aws_ec2"]["instance_role"]  # type: ignore[no-any-return]

    @property
    def pace(self) -> float:
        """Seconds between looks."""
        return 0.1 if self.emulated else 2.0

    @property
    def mark(self) -> dict[str, str]:
        """The tag by which what this run makes is known."""
        return {TEST_TAG: self.settings.run}

    def measured(self, fact: str) -> None:
        """Note something that only a real account can tell."""
        self.facts.append(fact)

    def open(self) -> Parts:
        """The parts of the run's configuration; whoever opened them closes them."""
        return open_parts(load(self.config))

    async def listed(self) -> list[Instance]:
        """Everything that the run has launched, by dayfly's own listing."""
        async with self.open() as parts:
            return await parts.cloud.list(tags=self.mark)

    async def fleet(self, role: str, *states: str) -> list[Instance]:
        """The masters, or the workers, in some states; without any, in whichever."""
        return [
            i
            for i in await self.listed()
            if i.tags.get(Tag.ROLE) == role and (not states or i.state in states)
        ]

    async def eventually(
        self, holds: Callable[[], Awaitable[bool]], what: str, within: float = 300.0
    ) -> float:
        """Wait until something holds; returns the seconds that it took."""
        began = time.monotonic()
        while not await holds():
            waited = time.monotonic() - began
            assert waited < within, f"waited {waited:.0f} s in vain for {what}"
            await asyncio.sleep(self.pace)
        return time.monotonic() - began

    # Before and after

    def begin(self) -> None:
        """Look who we are, and refuse an account in which the last ``clean`` would do harm.

        Raises:
            RefusedError: Something of the same owner is there already.
        """
        there = in_thread(self._look_around())
        if there:
            raise RefusedError(
                f"the run ends with `dayfly clean --all`, which removes all that is {self.owner}'s"
                f" in {self.region}, and there is something: " + ", ".join(there),
                "let it go, by `dayfly clean --all`, or run this in another region or as another"
                " user or role",
            )

    async def _look_around(self) -> list[str]:
        async with self.open() as parts:
            assert parts.aws is not None
            account = await parts.aws.account()
            self.owner = await parts.cloud.owner()
            self.bucket = f"dayfly-{account}-{self.region}"
            found = [f"{each.kind} {each.id}" for each in await parts.cloud.inventory()]
        # What an earlier run has launched as a user does, and was killed before it ended them.
        found += [f"instance {id_} of a test" for id_ in await listing.instances(self.region)]
        objects = await listing.objects(self.region, self.bucket, keys.ROOT)
        self.had_bucket = objects is not None
        return found + [f"s3://{self.bucket}/{key}" for key in (objects or [])[:3]]

    def look(self) -> None:
        """Book what the VMs cost up to now."""
        self.ledger.look(in_thread(self.listed()))

    def end(self) -> None:
        """Remove all that the run has made, and prove it by the account's own listings.

        Raises:
            AssertionError: Something is left, or ``dayfly clean`` was not enough.
        """
        try:
            self.look()
            in_thread(self._end_users_own())
        finally:  # whatever that said, the rest must go too
            cleaned = command("clean", "--all")
            if cleaned.exit_code:  # said again it goes on; and the run has failed all the same
                command("clean", "--all")
        left = in_thread(self._left())
        assert cleaned.exit_code == 0, f"dayfly clean --all has failed:\n{cleaned.output}"
        assert "nothing of ours is left" in cleaned.output, cleaned.output
        assert not left, f"left in the account: {', '.join(left)}"

    async def _end_users_own(self) -> None:
        """What tests have launched as a user does, and could not end themselves."""
        async with self.open() as parts:
            mine = [i for i in await parts.cloud.list(tags=self.mark) if Tag.MANAGED not in i.tags]
        await listing.terminate(self.region, [i.id for i in mine])

    async def _left(self) -> list[str]:
        """What is there still, when EC2 has had time to forget what was deleted."""
        found: list[str] = []

        async def nothing() -> bool:
            found[:] = await listing.left(self.region, owner=self.owner, run=self.settings.run)
            return not found

        with suppress(AssertionError):  # it is told with the rest, below
            within = 20.0 if self.emulated else FORGETS
            await self.eventually(nothing, "EC2 to forget what was deleted", within)
        async with self.open() as parts:
            found += [f"{each.kind} {each.id}" for each in await parts.cloud.inventory()]
        objects = await listing.objects(self.region, self.bucket, keys.ROOT)
        found += [f"s3://{self.bucket}/{key}" for key in objects or []]
        if objects == [] and not self.had_bucket:
            await listing.delete_bucket(self.region, self.bucket)
        return found


def configuration(settings: Settings, emulated: EmulatedAws | None) -> dict[str, dict[str, Any]]:
    """What every executor and every command of the run goes by."""
    ec2: dict[str, Any] = {
        "instance_role": settings.role,
        "master_instance_type": MASTER,
        "worker_instance_type": [WORKER, "t3a.small"],
        "max_workers": FLEET,
        "soft_dismantle_timeout": 120,
        "hard_dismantle_timeout": 600,
        "tags": {TEST_TAG: settings.run},
    }
    if settings.ami:
        ec2["target_ami"] = settings.ami
    if emulated:
        ec2 |= {
            "instance_role": emulated.role,
            "environment": "image",  # the machines have the tests' own Python
            "ssh_port": SSH_PORT,
            "ssh_cidr": "127.0.0.0/8",
            "start_timeout": 60,
        }
    region = emulated.region if emulated else settings.region
    return {"dayfly": {"backend": "aws_ec2"}, "aws": {"region": region}, "aws_ec2": ec2}


def command(*words: str) -> Result:
    """A command of dayfly's, in a thread of its own: a loop of the test's may be running."""
    answer: list[Result] = []
    thread = threading.Thread(target=lambda: answer.append(CliRunner().invoke(dayfly, words)))
    thread.start()
    thread.join()
    return answer[0]


def in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run something to its end on a loop of its own, where another one may be running."""
    answer: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            answer.append(asyncio.run(coroutine))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return answer[0]


@asynccontextmanager
async def client(run: Run, service: str, **settings: Any) -> AsyncIterator[Any]:
    """A bare client of AWS's, without a line of dayfly's; it may be given botocore's settings."""
    session = aioboto3.Session(region_name=run.region)
    async with session.client(service, config=AioConfig(**settings)) as made:
        yield made
