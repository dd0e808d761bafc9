"""Carrying a launch out, wave by wave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from dayfly.cloud.base import Notes
from dayfly.cloud.ec2.api import WORTH_TELLING, Ec2Api
from dayfly.cloud.ec2.instances.listing import YOUNG, Listing
from dayfly.cloud.ec2.instances.view import view
from dayfly.cloud.ec2.launch.outcomes import Carried, answered, complaint, may_be_new, refused
from dayfly.cloud.ec2.launch.pools import RESTING, Batch, Outlook, Resting, learn, plan, unasked
from dayfly.cloud.ec2.launch.recipe import client_token, parameters
from dayfly.cloud.ec2.launch.waves import Book, Order, Wave
from dayfly.errors import ApiError, DayflyError
from dayfly.model import Instance, Launch, Shortfall, Tag

#: Seconds for which what was made just now may be unknown to EC2, and between two attempts.
NEW, NEW_PAUSE = 60.0, 3.0
#: Seconds after which a launch that was broken off is not gone on with: what it says (tags, a
#: deadline) is of then, and a call that was under way has long come to its end.
STALE: Final = 900.0
#: Seconds for which a launch waits for the account's launch budget; what comes later is left out.
PATIENCE: Final = 60.0
#: Seconds between two looks for instances that were launched before, and are not listed yet.
_LOOK: Final = 1.0

Prepare = Callable[[], Awaitable[tuple[Order, Outlook]]]
Terminate = Callable[[Sequence[str]], Awaitable[None]]


class Launcher:
    """Launches, in one region.

    Args:
        api: Who asks.
        notes: Where waves are written down before their calls.
        listing: Which instances there are.
        terminate: Ends what is not to stay.
        resting: The pools that were dry minutes ago; those of the process.
    """

    def __init__(
        self,
        api: Ec2Api,
        notes: Notes,
        listing: Listing,
        terminate: Terminate,
        *,
        resting: Resting = RESTING,
    ) -> None:
        self._api = api
        self._notes = notes
        self._listing = listing
        self._terminate = terminate
        self._resting = resting

    async def launch(self, token: str, prepare: Prepare) -> Launch:
        """Launch, or go on with what was begun under this token.

        Args:
            token: The launch's.
            prepare: Finds out what a new launch needs; not asked for one that was begun.

        Raises:
            CapacityError: Fewer than the minimum could be had; none is left.
            ConfigError: A key of the configuration makes it impossible; none is left.
            CloudError: Anything else. What came by then is found again by the same token.
        """
        book = Book(self._notes, token)
        begun = await book.read()
        if begun is not None:
            order, wave = begun
            if wave.last:
                return await self._as_now(token, wave)
            if self._age(wave) > STALE:
                wave = await book.write(await self._broken_off(token, wave))
        else:
            order, outlook = await prepare()
            wave = await book.write(self._first(order, outlook))
            order = wave.order or order
        seen: dict[str, Instance] = {}
        fatal: DayflyError | None = None
        while not wave.last:
            carried = await self._carry_out(token, order, wave)
            new = {i.id: i for one in carried for i in one.instances}
            self._listing.launched(new.values())
            seen |= new
            fatal = next((one.fatal for one in carried if one.fatal is not None), None)
            wave = await book.write(self._following(wave, carried))
            # Another program went on with this launch, and without these.
            if surplus := new.keys() - set(wave.came):
                await self._terminate(sorted(surplus))
        if wave.failed:
            self._listing.expect(wave.came)
            await self._terminate(wave.came)
            raise fatal or complaint(order, wave)
        return Launch(instances=await self._collect(token, wave, seen), shortfalls=wave.shortfalls)

    def _first(self, order: Order, outlook: Outlook) -> Wave:
        now = self._api.clock.monotonic()
        resting = self._resting.among(self._api.region, outlook.pools, now)
        allowed, held_back = self._allowance(order)
        outlook = msgspec.structs.replace(outlook, resting=resting, missing=allowed)
        batches = plan(outlook)
        return Wave(
            number=0,
            at=self._api.clock.now(),
            order=order,
            outlook=outlook,
            batches=batches,
            shortfalls=held_back if batches else [*held_back, *unasked(outlook)],
            failed=not batches and outlook.enough > 0,
        )

    def _allowance(self, order: Order) -> tuple[int, list[Shortfall]]:
        """How many instances to launch now, and the shortfall where these are not all."""
        now, limits = self._api.clock.monotonic(), self._api.limits
        budget = limits.budget(self._api.region, order.count, now)
        if budget.seconds >= WORTH_TELLING:
            self._api.told(f"EC2 limits launches per account: {budget}")
        soon = limits.within(self._api.region, PATIENCE, now)
        allowed = min(order.count, max(soon, order.minimum))
        if allowed == order.count:
            return allowed, []
        return allowed, [
            Shortfall(
                pool=f"launches in {self._api.region}",
                asked=order.count,
                got=allowed,
                code="RequestLimitExceeded",
                message=f"EC2 limits launches per account: {budget}",
            )
        ]

    async def _broken_off(self, token: str, wave: Wave) -> Wave:
        """The last note of a launch that nobody goes on with: what it brought, as listed."""
        found = await self._listing.find(tags={Tag.LAUNCH: token[:64]})
        return Wave(
            number=wave.number + 1,
            at=self._api.clock.now(),
            outlook=wave.outlook,
            batches=[],
            came=[instance.id for instance in found],
            shortfalls=wave.shortfalls,
        )

    def _following(self, wave: Wave, carried: Sequence[Carried]) -> Wave:
        outcomes = [one.outcome for one in carried]
        outlook = learn(wave.outlook, outcomes)
        fatal = any(one.fatal is not None for one in carried)
        batches = [] if fatal else plan(outlook)
        shortfalls = [*wave.shortfalls, *(s for o in outcomes if (s := o.shortfall))]
        return Wave(
            number=wave.number + 1,
            at=self._api.clock.now(),
            outlook=outlook,
            batches=batches,
            came=[*wave.came, *(i.id for one in carried for i in one.instances)],
            shortfalls=shortfalls if batches else [*shortfalls, *unasked(outlook)],
            failed=fatal or (not batches and outlook.enough > 0),
        )

    async def _carry_out(self, token: str, order: Order, wave: Wave) -> list[Carried]:
        answers = await asyncio.gather(
            *(
                self._ask(order, batch, client_token(token, wave.number, index, batch))
                for index, batch in enumerate(wave.batches)
            ),
            return_exceptions=True,
        )
        carried = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer  # its outcome is not known; a rerun asks again
            if answer.dry:
                now = self._api.clock.monotonic()
                self._resting.add(self._api.region, answer.outcome.batch.pool, now)
            carried.append(answer)
        return carried

    async def _ask(self, order: Order, batch: Batch, token: str) -> Carried:
        """Make one call, and put its answer or error in the launch's terms."""
        told = parameters(order.recipe, batch, token)
        patience = self._api.clock.monotonic() + NEW - NEW_PAUSE
        while True:
            try:
                answer = await self._api.call("run_instances", **told)
            except ApiError as error:
                if not may_be_new(order, error) or self._api.clock.monotonic() > patience:
                    return refused(order, batch, error)
                self._api.told(f"EC2 does not know yet what was made just now ({error.code})")
                await self._api.clock.sleep(NEW_PAUSE)
                continue
            instances = [
                view(one, ssh_port=self._listing.ssh_port) for one in answer.get("Instances", ())
            ]
            return answered(batch, instances)

    async def _as_now(self, token: str, wave: Wave) -> Launch:
        """A launch that is over: its instances as they are now."""
        if wave.failed:
            # Whoever found that it failed may have been killed before all were ended.
            if self._fresh(wave):
                self._listing.expect(wave.came)
            await self._terminate(wave.came)
            return Launch(instances=[], shortfalls=wave.shortfalls)
        return Launch(instances=await self._collect(token, wave, {}), shortfalls=wave.shortfalls)

    def _fresh(self, wave: Wave) -> bool:
        return self._age(wave) < YOUNG

    def _age(self, wave: Wave) -> float:
        return self._api.clock.now() - wave.at

    async def _collect(self, token: str, wave: Wave, seen: dict[str, Instance]) -> list[Instance]:
        """The instances that came: as they were answered, or else as they are listed."""
        known = dict(seen)
        while absent := set(wave.came) - known.keys():
            found = await self._listing.find(tags={Tag.LAUNCH: token[:64]})
            known |= {i.id: i for i in found if i.id in absent}
            if not self._fresh(wave) or not set(wave.came) - known.keys():
                break
            await self._api.clock.sleep(_LOOK)
        return [known[i] for i in dict.fromkeys(wave.came) if i in known]
