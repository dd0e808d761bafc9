"""One round: clients run, blows fall, and then it is looked at what is left."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

from dayfly.dismantle import SLACK
from dayfly.errors import CloudError
from tests.chaos import leftovers, strike, verdicts
from tests.chaos.plan import ClientPlan, Plan, Strike
from tests.chaos.stage import Stage
from tests.chaos.verdicts import Blow, Facts, Life
from tests.chaos.victims import Who, of_round, wires

#: Seconds for a blow's victim to appear, and between looks.
PATIENCE, PAUSE = 8.0, 0.03
#: Seconds that a VM has to go once its time has come, on a machine that has much to do: the
#: timers' own slack, an orderly shutdown, and the second between looks at a VM's own deadline.
GOING = SLACK + 10.0
#: What a log of a service, or what a program printed, must not contain.
COMPLAINTS = ("Traceback (most recent call last)", "was never retrieved", "was never awaited")


@dataclass
class Result:
    """What became of a round.

    Attributes:
        blows: How often whom was struck how.
        missed: Blows whose victim never appeared.
        longest: Seconds that the slowest client took.
    """

    plan: Plan
    violations: list[str] = field(default_factory=list)
    blows: Counter[Blow] = field(default_factory=Counter)
    missed: int = 0
    jobs: int = 0
    outcomes: int = 0
    run_again: int = 0
    longest: float = 0.0
    seconds: float = 0.0
    trace: list[str] = field(default_factory=list)
    kept: str = ""


async def play(plan: Plan) -> Result:
    """Carry a plan out. The round's directory is kept if something is wrong."""
    stage = await asyncio.to_thread(Stage.make, plan)
    play = _Round(stage)
    keeps = False
    try:
        result = await play.run()
        keeps = bool(result.violations)
    except Exception:  # noqa: BLE001  # a fault of the harness must not hide, nor end the campaign
        keeps = True
        result = Result(plan, violations=[f"the round broke: {traceback.format_exc()}"])
        result.trace = stage.trace
    finally:
        await asyncio.to_thread(stage.end)
        if not keeps:
            await asyncio.to_thread(stage.delete)
    if keeps:
        result.kept = str(stage.home)
        (stage.home / "trace").write_text("\n".join(result.trace) + "\n")
    return result


class _Round:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._plan = stage.plan
        self._result = Result(stage.plan)
        self._lives: list[Life] = []
        self._left: list[str] = []
        self._stopped: set[Who] = set()
        #: Clients that died by our hand, by pid.
        self._killed: set[int] = set()
        #: Worker VMs that were killed or taken back.
        self._lost: set[str] = set()
        self._over = asyncio.Event()
        self._abandoned = asyncio.Event()

    async def run(self) -> Result:
        plan, stage = self._plan, self._stage
        async with _while_open(stage.keep_records()):
            if "consume" in plan.modes:
                await stage.launch_consumed()
            for client in plan.clients:
                stage.orders(client)
            await self._act()
            await self._end()
        await asyncio.to_thread(stage.keep)
        return await asyncio.to_thread(self._judged)

    # -- the play --

    async def _act(self) -> None:
        blows = [asyncio.create_task(self._strike(each)) for each in self._plan.strikes]
        if self._plan.ending == "abandoned":
            blows.append(asyncio.create_task(self._abandon()))
        try:
            async with asyncio.TaskGroup() as group:
                for client in self._plan.clients:
                    group.create_task(self._live(client))
        finally:
            self._over.set()
            await asyncio.gather(*blows)
            for who in self._stopped:
                strike.send(who, signal.SIGCONT, self._stage.home)

    async def _live(self, client: ClientPlan) -> None:
        """Run a client's program, again each time that it was killed."""
        await asyncio.sleep(client.begins)
        deadline = time.monotonic() + self._plan.patience
        number = 0
        while not self._abandoned.is_set():
            number += 1
            began = time.monotonic()
            process = await self._stage.start_client(client, number)
            self._stage.note(f"{client.name}, run {number}: pid {process.pid}")
            status = await self._await_end(process, deadline)
            seconds = time.monotonic() - began
            self._result.longest = max(self._result.longest, seconds)
            killed = process.pid in self._killed
            self._stage.note(f"{client.name}, run {number}: status {status}, {seconds:.2f} s")
            self._lives.append(self._life(client, number, status, killed=killed))
            if not killed:
                return
            await self._pause(client.returns)

    async def _await_end(self, process: asyncio.subprocess.Process, deadline: float) -> int | None:
        try:
            async with asyncio.timeout(max(1.0, deadline - time.monotonic())):
                return await process.wait()
        except TimeoutError:
            self._stage.note(f"client {process.pid} hangs; it is asked for its stacks")
            process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(1.0)
            process.kill()
            await process.wait()
            return None

    def _life(self, client: ClientPlan, number: int, status: int | None, *, killed: bool) -> Life:
        lines = self._stage.received(f"{client.name}.{number}")
        said = self._stage.home / "kept" / f"{client.name}.{number}.stderr"
        complaints = [] if killed else _complaints(said.read_text(errors="replace"))
        return Life(client.name, number, killed, status, lines, complaints)

    async def _abandon(self) -> None:
        """Kill the clients for good, and perhaps silence the master."""
        await self._moment("at work", 0.5)
        self._abandoned.set()
        for who in await self._people():
            if who.role == "client" and self._send(who, signal.SIGKILL):
                self._killed.add(who.pid)
            if who.role == "master service" and self._plan.silenced:
                self._send(who, signal.SIGSTOP)

    # -- blows --

    async def _strike(self, blow: Strike) -> None:
        await self._moment(blow.after, blow.delay)
        deadline = time.monotonic() + PATIENCE
        while not self._over.is_set() and not self._abandoned.is_set():
            if await self._struck(blow):
                self._result.blows[blow.kind, blow.victim] += 1
                return
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(PAUSE)
        self._result.missed += 1
        self._stage.note(f"missed: {blow}")

    async def _struck(self, blow: Strike) -> bool:
        if blow.kind == "drop":
            await self._drop(blow)
            return True
        people = await self._people()
        if blow.kind == "cut":
            found = await asyncio.to_thread(wires, people)
            ends = [wire for wire in found if wire.role == blow.victim]
            if not ends:
                return False
            end = ends[int(blow.choice * len(ends))]
            self._stage.note(f"cut {end}")
            return strike.cut(end, self._stage.home)
        candidates = [who for who in people if who.role == blow.victim and self._whole(who)]
        if not candidates:
            return False
        victim = candidates[int(blow.choice * len(candidates))]
        if blow.kind == "kill":
            return self._kill(victim)
        if blow.kind == "notice":
            return await self._announce(victim, blow.lasts)
        return await self._stop(victim, blow.lasts)

    def _whole(self, who: Who) -> bool:
        return who not in self._stopped and who.pid not in self._killed

    def _kill(self, victim: Who) -> bool:
        if not self._send(victim, signal.SIGKILL):
            return False
        if victim.role == "client":
            self._killed.add(victim.pid)
        if victim.role == "worker vm":
            self._lost.add(victim.instance)
        return True

    async def _stop(self, victim: Who, lasts: float) -> bool:
        if not self._send(victim, signal.SIGSTOP):
            return False
        self._stopped.add(victim)
        await self._pause(lasts)
        self._stopped.discard(victim)
        self._send(victim, signal.SIGCONT)
        return True

    async def _announce(self, victim: Who, seconds: float) -> bool:
        """Take a spot VM back."""
        try:
            await self._stage.cloud.interrupt(victim.instance, notice=seconds)
        except CloudError as error:
            self._stage.note(f"{victim.instance} is not taken back: {error.what}")
            return False
        self._lost.add(victim.instance)
        self._stage.note(f"{victim.instance} is taken back in {seconds:.2f} s")
        return True

    def _send(self, who: Who, number: signal.Signals) -> bool:
        there = strike.send(who, number, self._stage.home)
        self._stage.note(f"{number.name} to {who}{'' if there else ', who is gone'}")
        return there

    async def _drop(self, blow: Strike) -> None:
        self._stage.note("each new SSH connection is cut after 0.4 s")
        await self._stage.set_drops(0.4)
        await self._pause(blow.lasts)
        await self._stage.set_drops(None)
        self._stage.note("SSH connections are cut no more")

    async def _people(self) -> list[Who]:
        return await asyncio.to_thread(of_round, self._stage.home)

    async def _moment(self, after: str, delay: float) -> None:
        """Wait for something to begin, and a while longer; or until the clients have ended."""
        while not self._over.is_set() and not self._has_come(after):
            await asyncio.sleep(PAUSE)
        await self._pause(delay)

    def _has_come(self, moment: str) -> bool:
        if moment == "at work":
            return self._stage.ledger.exists()
        return moment == "begun" or bool(self._stage.addresses)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not longer than there are clients."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    # -- the end --

    async def _end(self) -> None:
        """Let the timers end it or the user, and see what is left."""
        if self._plan.ending != "clean":
            await self._outlast()
        home = self._stage.home
        status, said = await self._stage.command("clean", "--all", within=60.0)
        self._stage.note(f"dayfly clean --all: status {status}")
        if status != 0 or "nothing of ours is left" not in said:
            self._left.append(f"clean --all ended with status {status}: {said}")
        own = frozenset({self._stage.consumed} - {""})
        left = await leftovers.gone(lambda: leftovers.processes(home, besides=own), 2.0)
        self._left += [f"after clean: {text}" for text in left]
        await self._stage.stop_consumed()
        left = await leftovers.gone(lambda: leftovers.processes(home), 2.0)
        self._left += [f"at the end: {text}" for text in left]
        self._left += leftovers.files(home, besides=own)
        self._left += leftovers.sockets(self._stage.addresses)

    async def _outlast(self) -> None:
        """Wait for the timers: the soft ones, or the hard ones where a job lives on."""
        plan, home = self._plan, self._stage.home
        soft = plan.ending == "timers" and not (
            self._result.blows.keys() & _ORPHANING or self._lost_on_their_way()
        )
        within = (plan.soft if soft else plan.hard) + GOING
        began = time.monotonic()
        own = leftovers.untouched(self._stage.consumed, self._stage.logs())
        left = await leftovers.gone(lambda: leftovers.processes(home, besides=own), within)
        self._stage.note(f"{time.monotonic() - began:.2f} s until all VMs were gone by timers")
        left += await asyncio.to_thread(leftovers.not_at_rest, home, besides=own)
        self._left += [f"{within:.0f} s after the last job: {text}" for text in left]

    def _lost_on_their_way(self) -> set[str]:
        """Worker VMs that were taken before they had a master: it waits for them."""
        served = {
            name.partition(".")[0]
            for name, text in self._stage.logs().items()
            if ".worker-service." in name and "connected to the master" in text
        }
        return self._lost - served

    def _judged(self) -> Result:
        result, stage = self._result, self._stage
        facts = Facts(
            plan=self._plan,
            lives=self._lives,
            blows=[blow for blow, count in result.blows.items() for _ in range(count)],
            started=stage.started(),
            left=self._left,
            complaints=[
                f"{name}: {text}"
                for name, log in stage.logs().items()
                if "-service." in name  # and not the embedded cloud's consoles
                for text in _complaints(log)
            ],
        )
        result.violations = verdicts.judge(facts)
        result.jobs = sum(len(client.jobs) for client in self._plan.clients)
        result.outcomes = sum("index" in line for life in self._lives for line in life.lines)
        result.run_again = verdicts.run_again(facts)
        result.seconds = time.monotonic() - stage.began
        result.trace = sorted(stage.trace)
        return result


#: Blows that leave a job without its client, or a VM without its master, for a while.
_ORPHANING: set[Blow] = {
    ("kill", "client"),
    ("kill", "master service"),
    ("kill", "master vm"),
    ("kill", "consumed vm"),
}


def _complaints(text: str) -> list[str]:
    lines = text.splitlines()
    return [
        " | ".join(lines[max(0, number - 1) : number + 25])
        for number, line in enumerate(lines)
        if any(words in line for words in COMPLAINTS)
    ][:3]


@contextlib.asynccontextmanager
async def _while_open(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
