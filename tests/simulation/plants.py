"""Faults to be planted in the code, one at a time: the simulation must see each of them.

Each is the kind of slip that a change could bring: a line that is forgotten, a check that is
dropped, two steps in the wrong order.
"""

from __future__ import annotations

import msgspec


class Edit(msgspec.Struct, frozen=True):
    """One change of the code.

    Attributes:
        module: The file below ``src/dayfly``.
        good: The text that is there, once.
        bad: What takes its place.
    """

    module: str
    good: str
    bad: str


class Plant(msgspec.Struct, frozen=True, kw_only=True):
    """One fault.

    Attributes:
        name: In a few words.
        promise: What it breaks.
        edits: Where one mechanism backs up another, both must fail for a fault to be felt.
    """

    name: str
    promise: str
    edits: tuple[Edit, ...]


PLANTS = (
    Plant(
        name="a lost worker's lease is dropped",
        promise="no call is lost with its worker",
        edits=(
            Edit(
                module="master/scheduler.py",
                good="        self._hands.lost(worker, event, out)\n",
                bad="        self._roster.hold(worker, -worker.held)\n",
            ),
        ),
    ),
    Plant(
        name="a worker's timers are not re-armed when a job ends",
        promise="a VM goes by its soft timer",
        edits=(
            Edit(
                module="master/fleet.py",
                good="        member.changed.set()\n        self._listener.keep(member.kept())",
                bad="        self._listener.keep(member.kept())",
            ),
        ),
    ),
    Plant(
        name="the expiry is tagged after the launch",
        promise="every VM carries its tags from birth",
        edits=(
            Edit(
                module="client/launches.py",
                good="            Tag.EXPIRES_AT: expiry(self._parts, policy),\n",
                bad="",
            ),
        ),
    ),
    Plant(
        name="a launch's token is drawn anew each time",
        promise="a launch whose answer was lost is not made twice",
        edits=(
            Edit(
                module="client/launches.py",
                good='        text = "\\0".join([self._access.serial, *map(str, parts)])',
                bad='        text = "\\0".join([self._parts.entropy.hex(8), *map(str, parts)])',
            ),
        ),
    ),
    Plant(
        name="a launch is not written down before it is made",
        promise="VMs of a client that was killed are found and ended",
        edits=(
            Edit(
                module="client/intents.py",
                good="await self._notes.claim(token + _INTENT, msgspec.msgpack.encode(ours))",
                bad="msgspec.msgpack.encode(ours)",
            ),
        ),
    ),
    Plant(
        name="an outcome that comes twice counts twice",
        promise="each outcome is delivered exactly once",
        edits=(
            Edit(
                module="master/ledger.py",
                good="            if not 0 <= index < known or (holder := held[index]) == DONE:",
                bad="            if not 0 <= index < known:\n"
                "                continue\n"
                "            holder = FREE if held[index] == DONE else held[index]\n"
                "            if holder == DONE:",
            ),
        ),
    ),
    Plant(
        name="the client takes outcomes of a second master again",
        promise="each outcome is delivered exactly once",
        edits=(
            Edit(
                module="client/received.py",
                good="            came[index] = 1\n",
                bad="            came[index] = 0\n",
            ),
        ),
    ),
    Plant(
        name="there is no hard timer",
        promise="no VM outlives its hard timer",
        edits=(
            Edit(
                module="dismantle.py",
                good="    if busy or completed is None:\n        return hard\n",
                bad="    if busy or completed is None:\n        return None\n",
            ),
        ),
    ),
    Plant(
        name="a VM's own deadline is not armed at boot",
        promise="no VM outlives its hard timer, even when everything else is dead",
        edits=(
            Edit(
                module="bootstrap.py",
                good='    cap = str(max(1, round(policy.hard))) if policy.auto else "never"',
                bad='    cap = "never" if policy.auto else "never"',
            ),
        ),
    ),
    Plant(
        name="deliveries are not written to the journal",
        promise="no result is lost when the master's service is killed",
        edits=(
            Edit(
                module="master/books.py",
                good="                self.journal.deliver(job, number, frame)\n",
                bad="",
            ),
        ),
    ),
    Plant(
        name="peers are told of what is not committed",
        promise="no result is lost when the master's service is killed",
        edits=(
            Edit(
                module="master/books.py",
                good="        self.journal.commit()\n        for job, number",
                bad="        for job, number",
            ),
        ),
    ),
    Plant(
        name="a restarted master forgets its workers",
        promise="workers of a restarted master are kept and timed",
        edits=(
            Edit(
                module="master/recovery.py",
                good="    for instance in instances:\n        _recover_instance(hub, instance)\n",
                bad="    del instances\n",
            ),
        ),
    ),
    Plant(
        name="what a returning worker holds is not heard",
        promise="a call runs again only if its worker was lost",
        edits=(
            Edit(
                module="master/hands.py",
                good="self._claim(worker, job, spans, out)",
                bad="self._claim(worker, job, [], out)",
            ),
        ),
    ),
    Plant(
        name="an agent drops what was not acknowledged when it reconnects",
        promise="no result is lost when a connection breaks",
        edits=(
            Edit(
                module="worker/outbox.py",
                good="        self._again = deque(done for done, _ in self._kept.values())\n",
                bad="        self._kept.clear()\n",
            ),
        ),
    ),
    Plant(
        name="what was said to the master is not said again after a break",
        promise="no await hangs",
        edits=(
            Edit(
                module="client/conversation.py",
                good="            for message in channel.said:\n"
                "                await ascent.door.send(message)\n",
                bad="",
            ),
        ),
    ),
    Plant(
        name="the workers of create mode are not dismissed",
        promise="create leaves nothing behind",
        edits=(
            Edit(
                module="client/staffing.py",
                good="ended = await self._cluster.end_workers_of(channel.id, supply.launched)",
                bad="ended: list[str] = []",
            ),
            Edit(
                module="master/fleet.py",
                good='        self.dismiss(Pool(ExecMode.CREATE, job=job), "the job that',
                bad='        self.waiting((), 0), ("the job that',
            ),
        ),
    ),
    Plant(
        name="a job whose client is dead goes on",
        promise="nobody pays for a job that nobody awaits",
        edits=(
            Edit(
                module="master/scheduler.py",
                good="            job.orphan_since = None if goes_on else now\n",
                bad="            job.orphan_since = None\n",
            ),
        ),
    ),
    Plant(
        name="max_cost is not watched",
        promise="a job never costs more than max_cost and the stated bound",
        edits=(
            Edit(
                module="master/till.py",
                good="            if cap is None:\n",
                bad="            if cap is not None or cap is None:\n",
            ),
        ),
    ),
    Plant(
        name="a worker that powers itself off is stopped, not terminated",
        promise="nothing is left when the timers have fired",
        edits=(
            Edit(
                module="client/launches.py",
                good='            on_poweroff="stop" if stays else "terminate",',
                bad='            on_poweroff="terminate"'
                ' if role == "worker" and compute.request_spot_instances else "stop",',
            ),
        ),
    ),
    Plant(
        name="a job's end is not told to those who follow it",
        promise="no await hangs",
        edits=(
            Edit(
                module="master/books.py",
                good="        return [*numbers, *(ended.job for _, ended, _ in ends)]",
                bad="        return [*numbers]",
            ),
        ),
    ),
    Plant(
        name="a decision is made on what was true before an await",
        promise="no VM is powered off under a job",
        edits=(
            Edit(
                module="dismantle.py",
                good="            return await act(now.why)\n",
                bad="            await clock.sleep(0.2)\n            return await act(now.why)\n",
            ),
        ),
    ),
    Plant(
        name="a soft timer does not heed that a job is on",
        promise="no VM is powered off under a job",
        edits=(
            Edit(
                module="master/member.py",
                good="            busy=bool(self.engaged),",
                bad="            busy=False,",
            ),
            Edit(
                module="master/member.py",
                good="        self.engaged[job] = None\n        self.completed = None\n",
                bad="        self.engaged[job] = None\n",
            ),
        ),
    ),
    Plant(
        name="calls are dealt to a worker before it has said what it holds",
        promise="a call runs again only if its worker was lost",
        edits=(
            Edit(
                module="master/doors.py",
                good="    hub.handle(e.WorkerAway(worker=peer.name))\n    before",
                bad="    before",
            ),
            Edit(
                module="master/doors.py",
                good="            hub.handle(e.WorkerAway(worker=peer.name))\n",
                bad="",
            ),
        ),
    ),
    Plant(
        name="a new journal's deliveries are numbered on",
        promise="no result is lost with the master's disk",
        edits=(
            Edit(
                module="client/conversation.py",
                good="            self.journal, self.last = journal, 0\n",
                bad="            self.journal = journal\n",
            ),
        ),
    ),
    Plant(
        name="a launch without an answer is neither said again nor ended",
        promise="a launch whose answer was lost is said again",
        edits=(
            Edit(
                module="client/launches.py",
                good="                pause = next(pauses, None) if _unanswered(error) else None\n",
                bad="                pause = None\n",
            ),
            Edit(
                module="client/launches.py",
                good="                        await self._abandon(intent)\n",
                bad="                        pass\n",
            ),
        ),
    ),
    Plant(
        name="leaving does not wait for the dismissal of create's workers",
        promise="create leaves nothing behind",
        edits=(
            Edit(
                module="client/session.py",
                good="                    await asyncio.wait(under_way)\n",
                bad="                    break\n",
            ),
            Edit(
                module="master/fleet.py",
                good='        self.dismiss(Pool(ExecMode.CREATE, job=job), "the job that',
                bad='        self.waiting((), 0), ("the job that',
            ),
        ),
    ),
    Plant(
        name="an archive that storage refused counts as written",
        promise="a result is kept until storage has it",
        edits=(
            Edit(
                module="master/archive.py",
                good="                    self._done(record, failure)\n",
                bad='                    self._done(record, "")\n                    return\n',
            ),
        ),
    ),
    Plant(
        name="a draining worker is given calls",
        promise="a worker that the cloud takes back takes no more",
        edits=(
            Edit(
                module="master/roster.py",
                good="        return self.ready and not self.draining",
                bad="        return self.ready",
            ),
        ),
    ),
    Plant(
        name="a detached job is confirmed before its submission is durable",
        promise="a job that was left to its master is known there",
        edits=(
            Edit(
                module="master/doors.py",
                good="await hub.books.journal.sync()",
                bad="hub.books.journal.commit()",
            ),
            Edit(
                module="master/archive.py",
                good="await self._journal.sync()",
                bad="self._journal.commit()",
            ),
        ),
    ),
)
