"""Who is connected, and who has something to hear at the end of this turn of the loop."""

from __future__ import annotations

from collections.abc import Callable

from dayfly.master.events import NeedWorkers
from dayfly.master.peers import ClientPeer, WorkerPeer
from dayfly.wire import messages as m


class Switchboard:
    """The peers.

    Args:
        soon: Called when something is to be said: :meth:`speak` must be called in a moment.
        is_open: Whether a job runs.

    Attributes:
        clients: In the order in which they came.
        workers: By their instance's id.
        submitters: By open job, the client that submitted it, while that is connected.
        asleep: By open job, the names of clients that followed it and went silent.
    """

    def __init__(self, soon: Callable[[], None], is_open: Callable[[str], bool]) -> None:
        self._soon = soon
        self._is_open = is_open
        self.clients: dict[ClientPeer, None] = {}
        self.workers: dict[str, WorkerPeer] = {}
        self.submitters: dict[str, ClientPeer] = {}
        self.asleep: dict[str, set[str]] = {}
        self._waiting: dict[ClientPeer | WorkerPeer, None] = {}
        self._kept: dict[WorkerPeer, int] = {}

    def followers(self, job: str) -> list[ClientPeer]:
        """The clients that follow a job."""
        return [peer for peer in self.clients if job in peer.follows]

    def launcher(self, job: str) -> ClientPeer | None:
        """The client to ask for a job's workers."""
        return self.submitters.get(job) or next(iter(self.followers(job)), None)

    def ask_for_workers(self, needed: NeedWorkers) -> None:
        """Ask the client that may launch them."""
        if peer := self.launcher(needed.job):
            words = m.WorkersNeeded(
                job=needed.job, count=needed.count, reason=needed.reason, spared=needed.spared
            )
            self.say(peer, words)

    def is_awaited(self, job: str) -> bool:
        """Whether a client that followed a job may be asleep."""
        return bool(self.asleep.get(job))

    def awake(self, peer: ClientPeer, job: str) -> None:
        """A client follows a job, perhaps again."""
        self.asleep.get(job, set()).discard(peer.link.peer)

    def forget(self, peer: ClientPeer, *, silent: bool) -> None:
        """A client is gone, or asleep."""
        self.clients.pop(peer, None)
        if silent:
            for job in filter(self._is_open, peer.follows):
                self.asleep.setdefault(job, set()).add(peer.link.peer)
        for job in [job for job, submitter in self.submitters.items() if submitter is peer]:
            del self.submitters[job]

    def job_over(self, job: str) -> None:
        """Nobody is asked for its workers any more, or waited for."""
        self.submitters.pop(job, None)
        self.asleep.pop(job, None)

    def wake(self, peer: ClientPeer | WorkerPeer) -> None:
        """A peer has something to hear."""
        self._waiting[peer] = None
        self._soon()

    def wake_followers(self, job: str) -> None:
        """Whoever follows a job has something to hear."""
        for peer in self.followers(job):
            self.wake(peer)

    def say(self, peer: ClientPeer | WorkerPeer, message: m.Message) -> None:
        """Say something to a peer."""
        peer.say(message)
        self.wake(peer)

    def say_to_worker(self, worker: str, message: m.Message) -> None:
        """Say something to a worker, if it is connected."""
        if (peer := self.workers.get(worker)) is not None:
            self.say(peer, message)

    def acknowledge(self, peer: WorkerPeer, serial: int) -> None:
        """A worker's outcomes up to this serial number will be kept."""
        self._kept[peer] = max(serial, self._kept.get(peer, 0))
        self.wake(peer)

    def speak(self) -> None:
        """Everything is committed: let the peers hear it."""
        for worker, serial in self._kept.items():
            worker.kept = serial
        self._kept.clear()
        waiting, self._waiting = self._waiting, {}
        for peer in sorted(waiting, key=lambda peer: isinstance(peer, WorkerPeer)):
            peer.wake()  # clients first: somebody awaits what they hear
