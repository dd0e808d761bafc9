"""One seed's whole story: users run their programs, misfortune strikes, heals, and all must end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from dayfly import FunctionExecutor, errors
from dayfly.client.clean import clean
from dayfly.client.launches import EXPIRY_SLACK
from dayfly.cloud.base import Resource
from dayfly.parts import Parts
from tests.simulation.evidence import Evidence
from tests.simulation.faults import Faults, misfortune
from tests.simulation.invariants import Judge
from tests.simulation.knobs import ClientKnobs, Knobs
from tests.simulation.loop import Busy, Deadlock, Endless
from tests.simulation.process import Process
from tests.simulation.program import Program, Script
from tests.simulation.report import Report
from tests.simulation.victims import Everyone
from tests.simulation.world import Client, DiedError, World

#: Seconds until a user starts a killed program again.
AGAIN = (0.1, 240.0)
#: Times that a user does.
TRIES = 4
#: Seconds within which ``clean`` must be over: instances are waited for, for 300 s
#: (``clean.PATIENCE``), after the master was reached, or not.
CLEANING = 2000.0
#: Seconds after which what struck before is over, too: a limit of requests that was used up.
SETTLED = 600.0
#: Seconds for which a story can go on at the most, after the faults are over.
LONGEST = 40 * 3600.0


def tell(knobs: Knobs, *, keep_trace: bool = False) -> Report:
    """Tell the story of a seed; whatever goes wrong is in the report."""
    began = time.monotonic()
    report = Report(seed=knobs.seed)
    made: list[Faults] = []

    def faults(chance: object, note: object) -> Faults:
        made.append(Faults(knobs.faults, chance, note))  # type: ignore[arg-type]
        return made[0]

    with World(knobs.seed, knobs, faults=faults) as world:
        evidence = Evidence(world.loop.time, world.note)
        with evidence.listening():
            judge = Judge(world, knobs, evidence, made[0])
            world.loop.after_step = judge.step
            story = Story(judge, made[0], report.ends)
            try:
                world.run(story.run())
            except (Deadlock, Busy, Endless) as error:
                judge.violated("no await hangs", f"{type(error).__name__}: {error}")
            except Exception as error:  # of the harness, or what it did not expect
                judge.violated("the simulation itself works", f"{error!r}")
                if keep_trace:
                    raise
            judge.at_the_end()
        report.steps, report.seconds = world.loop.steps, world.loop.time()
        report.digest = world.loop.digest()
        report.violations = judge.violations
        report.faults, report.timers = made[0].counts, evidence.counts
        report.sizes = judge.sizes()
        if judge.violations or keep_trace:
            report.trace = world.trace
    report.wall = time.monotonic() - began
    return report


class Story:
    """What happens in one world."""

    def __init__(self, judge: Judge, faults: Faults, ends: Counter[str]) -> None:
        self._judge = judge
        self._world = judge.world
        self._knobs = judge.knobs
        self._faults = faults
        self._ends = ends
        self._victims = Everyone(judge, faults)
        self._random = judge.world.chance.stream("story")

    async def run(self) -> None:
        """The whole story."""
        healing = asyncio.create_task(self._heal(), name="heal")
        bad_luck = asyncio.create_task(misfortune(self._faults, self._victims), name="misfortune")
        if len(self._knobs.clients) > 1:
            self._faults.struck("two clients")
        users = [
            asyncio.create_task(self._user(number, client), name=f"user {number}")
            for number, client in enumerate(self._knobs.clients)
        ]
        await asyncio.gather(*users)
        await healing
        bad_luck.cancel()
        await asyncio.wait([bad_luck])
        await self._ending()

    async def _heal(self) -> None:
        if self._knobs.faults:
            await asyncio.sleep(self._knobs.heal)
            self._faults.heal()
            self._victims.heal()

    # -- users --

    async def _user(self, number: int, client: ClientKnobs) -> None:
        """Run a program, and again when its process is killed."""
        await asyncio.sleep(client.after)
        script = Script(client, list(client.jobs))
        for run in range(TRIES):
            name = f"client {number}" + f", run {run + 1}" * bool(run)

            async def program(process: Process) -> None:
                self._judge.clients.append(process)
                process.on_kill(lambda: self._judge.gone(process))
                await Program(self._judge, script, process, self._ends).run()

            started = self._world.client(program, laptop=client.laptop, name=name)
            if await self._ended(started) and not script.attaches:
                return
            if script.printed and self._random.random() < 0.5:
                script.attaches = True
            await asyncio.sleep(self._faults.amount("client killed", *AGAIN))

    async def _ended(self, client: Client) -> bool:
        """Whether a program has come to its end, and was not killed."""
        await asyncio.wait([client.ended])
        try:
            client.ended.result()
        except DiedError:
            self._world.note(f"{client.process.name} is dead")
            return False
        except asyncio.CancelledError:
            self._judge.violated("the simulation itself works", "a program was cancelled")
        except errors.DayflyError as error:
            # Leaving may tell what could not be done; a reader's errors were told before.
            self._world.note(f"{client.process.name} ends by {error!r}")
            self._judge.left_by(error)
        return True

    # -- the end --

    async def _ending(self) -> None:
        if deserted := self._judge.remains.deserted():
            await self._deserted(deserted)
        if self._knobs.ending == "timers":
            await self._until_timers_have_fired()
        if self._knobs.ending != "timers" or self._up():
            await self._clean(everything=self._knobs.ending == "clean --all")

    def _up(self) -> list[str]:
        return [vm.id for vm in self._world.cloud.up() if vm.token]

    async def _until_timers_have_fired(self) -> None:
        """All that has a timer goes; what could not boot goes by the sweep of a later client."""
        if not self._knobs.auto:
            return
        bound = 2 * self._knobs.hard + 4 * self._judge.deadlines.slack + 600.0
        until = self._judge.now + bound
        while self._up() and self._judge.now < until:
            await asyncio.sleep(30.0)
        self._judge.remains.timers_have_fired(self._up())
        if self._up():
            await self._until_swept()

    async def _deserted(self, deserted: dict[str, str]) -> None:
        """The next client on that laptop ends what a killed one has launched."""
        for laptop in sorted(set(deserted.values())):
            await asyncio.sleep(SETTLED)
            mine = [name for name, where in deserted.items() if where == laptop]
            since = self._judge.now
            await self._later_client(laptop)
            self._judge.remains.swept(mine, since, "what a killed client has launched")

    async def _until_swept(self) -> None:
        """What has never booted is past its expiry by now: any client's start sweeps it."""
        await asyncio.sleep(EXPIRY_SLACK)
        late = self._up()
        since = self._judge.now
        await self._later_client("laptop")
        self._judge.remains.swept(late, since, "what is past its expiry")
        await asyncio.sleep(self._knobs.hard + 2 * self._judge.deadlines.slack + 600.0)

    async def _later_client(self, laptop: str) -> None:
        """Somebody runs a small job."""

        async def program(process: Process) -> None:
            sections = self._judge.config
            parts = self._world.open_parts(process, sections)
            async with FunctionExecutor(
                sections, parts=parts, progress=False, clock=parts.clock
            ) as executor:
                with suppress(errors.DayflyError):
                    await executor.map(abs, [1])
                await asyncio.sleep(60.0)

        client = self._world.client(program, laptop=laptop, name="a later client")
        await asyncio.wait([client.ended])
        client.ended.exception()

    async def _clean(self, *, everything: bool) -> None:
        async def program(process: Process) -> None:
            judge = self._judge
            parts = self._world.open_parts(process, self._judge.config)
            now = judge.now
            try:
                with judge.bounded("clean", lambda: now + CLEANING):
                    left = await self._clean_patiently(parts, everything=everything)
            finally:
                await parts.aclose()
            judge.remains.cleaned(list(left), everything=everything)

        self._judge.cleaning = True
        client = self._world.client(program, name="clean")
        await asyncio.wait([client.ended])
        try:
            client.ended.result()
        except DiedError:
            pass  # it was told that it hung
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self._judge.violated("clean leaves nothing behind", f"it failed: {error!r}")

    async def _clean_patiently(self, parts: Parts, *, everything: bool) -> Sequence[Resource]:
        """Do as the error says, where instances take longer to end than ``clean`` waits."""

        def told(text: str) -> None:
            self._world.note(f"clean: {text}")

        while True:
            try:
                return await clean(parts, everything=everything, told=told)
            except errors.CloudError as error:
                throttled = self._judge.now < self._knobs.heal + SETTLED
                slow = "not gone after" in str(error) or "could not be removed" in str(error)
                if not slow and not throttled:
                    raise
                self._world.note(f"clean again: {error}")
                await asyncio.sleep(30.0)
