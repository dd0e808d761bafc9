"""The workers' lives, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import msgspec
import pytest

from dayfly.dismantle import SLACK, Due
from dayfly.environment.report import EnvironmentFailure
from dayfly.errors import HostKeyError, UnreachableError
from dayfly.master.events import Pool
from dayfly.master.fleet import TRIAL, Fleet
from dayfly.master.journal import KeptInstance
from dayfly.model import DismantlePolicy, ExecMode, InstanceState
from dayfly.wire import messages as m
from tests.unit.master_support import POLICY, FakeClock, FakeInstaller, instance, settle


@dataclass
class Listener:
    """Everything that the fleet tells."""

    coming: list[tuple[str, bool]] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    innocent: list[str] = field(default_factory=list)
    drains: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    kept: dict[str, KeptInstance] = field(default_factory=dict)
    history: list[KeptInstance] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    absolved: list[str] = field(default_factory=list)
    accusing: set[str] = field(default_factory=set)
    unfit: dict[str, EnvironmentFailure] = field(default_factory=dict)

    def worker_coming(
        self, worker: str, pool: Pool, *, returning: bool, engaged: list[str]
    ) -> None:
        self.coming.append((worker, returning))

    def worker_drains(self, worker: str, reason: str) -> None:
        self.drains[worker] = reason

    def worker_unfit(self, worker: str, failure: EnvironmentFailure) -> None:
        self.unfit[worker] = failure

    def worker_lost(self, worker: str, reason: str, *, innocent: bool = False) -> bool:
        self.lost[worker] = reason
        if innocent:
            self.innocent.append(worker)
        return worker in self.accusing

    def worker_gone(self, worker: str, *, innocent: bool = False) -> None:
        (self.absolved if innocent else self.verdicts).append(worker)

    def notice(
        self, level: str, text: str, pool: Pool, *, lost: str = "", silent: bool = False
    ) -> None:
        self.notices.append(text)

    def keep(self, kept: KeptInstance) -> None:
        self.kept[kept.instance.id] = kept
        self.history.append(kept)

    def fleet_changed(self) -> None:
        pass


@dataclass
class Yard:
    """A fleet with all that it stands on."""

    fleet: Fleet
    clock: FakeClock
    installer: FakeInstaller
    listener: Listener
    said: dict[str, list[m.SetDeadline | m.PowerOff]] = field(default_factory=dict)

    def adopt(self, name: str, policy: DismantlePolicy = POLICY, job: str = "") -> None:
        mode = ExecMode.CREATE if job else ExecMode.REUSE
        kept = KeptInstance(instance=instance(name, mode=mode), policy=policy, job=job)
        self.fleet.adopt(kept)

    def link(self, name: str) -> bool:
        said = self.said.setdefault(name, [])
        return self.fleet.link_opened(name, said.append)

    async def up(self, name: str, policy: DismantlePolicy = POLICY, job: str = "") -> None:
        self.adopt(name, policy, job)
        await settle()
        self.link(name)
        self.fleet.asked_for_work(name, spare=False)
        await settle()

    def phases(self) -> dict[str, str]:
        return {row.instance: row.phase for row in self.fleet.rows(lambda _: 0)}

    def deadline(self, name: str) -> float | None:
        return [s.seconds for s in self.said[name] if isinstance(s, m.SetDeadline)][-1]

    def powered_off(self, name: str) -> bool:
        return any(isinstance(s, m.PowerOff) for s in self.said.get(name, []))

    def after_a_restart(self) -> Yard:
        return a_yard(self.clock)


def a_yard(clock: FakeClock) -> Yard:
    installer, listener = FakeInstaller(), Listener()
    due: Callable[[], Due | None] = lambda: Due(clock.monotonic() + 77.0, "soft")  # noqa: E731
    fleet = Fleet(
        own="m0",
        own_due=due,
        installer=installer,
        listener=listener,
        start_timeout=300.0,
        clock=clock,
    )
    return Yard(fleet, clock, installer, listener)


@pytest.fixture
async def yard() -> AsyncIterator[Yard]:
    yard = a_yard(FakeClock())
    yield yard
    await yard.fleet.aclose()


async def test_all_vms_are_reached_at_once_and_each_phase_is_shown(yard: Yard) -> None:
    yard.installer.hangs = {"w1"}
    for name in ("w1", "w2", "w3"):
        yard.adopt(name)
    await settle()
    assert yard.installer.installed == ["w2", "w3"]
    yard.link("w3")
    assert yard.phases() == {"w1": "connecting", "w2": "starting", "w3": "starting"}
    yard.fleet.asked_for_work("w3", spare=False)
    assert yard.phases()["w3"] == "idle"
    assert yard.fleet.waiting(["w1", "w2"], 3) == "1 of 3 VMs to answer SSH, the agent on 1 VM"
    assert yard.listener.kept["w3"].ready


async def test_a_vm_that_cannot_be_reached_is_lost_with_the_evidence(yard: Yard) -> None:
    yard.installer.failures["w1"] = HostKeyError("w1 showed a foreign key", cause="SHA256:abc")
    yard.adopt("w1")
    await settle()
    assert "SHA256:abc" in yard.listener.lost["w1"]
    assert "SHA256:abc" in yard.listener.notices[0]
    assert yard.phases() == {}
    # It could not be powered off from here; its own deadline takes it.
    assert yard.installer.powered_off == []


async def test_an_agent_that_never_calls_is_given_up_after_the_start_timeout(yard: Yard) -> None:
    yard.adopt("w1")
    await yard.clock.advance(299)
    assert yard.listener.lost == {}
    await yard.clock.advance(2)
    assert "never called" in yard.listener.lost["w1"]
    assert yard.installer.powered_off == ["w1"]


async def test_a_worker_that_comes_back_within_the_grace_is_not_lost(yard: Yard) -> None:
    await yard.up("w1")
    for _ in range(3):
        yard.fleet.link_closed("w1")
        await yard.clock.advance(4)
        yard.link("w1")
        yard.fleet.asked_for_work("w1", spare=False)
        await yard.clock.advance(10)
    assert yard.listener.lost == {}
    yard.fleet.link_closed("w1")
    await yard.clock.advance(6)
    assert "did not come back within 5 s" in yard.listener.lost["w1"]
    assert yard.installer.powered_off == ["w1"]
    assert yard.listener.kept["w1"].gone


async def test_the_soft_timer_powers_a_worker_off_over_its_link(yard: Yard) -> None:
    await yard.up("w1")
    now = yard.clock.monotonic()
    yard.fleet.engage("w1", "j", POLICY, now)
    await yard.clock.advance(1000)
    yard.fleet.disengage("w1", "j")
    assert yard.deadline("w1") == pytest.approx(305)
    await yard.clock.advance(299)
    assert not yard.powered_off("w1")
    await yard.clock.advance(2)
    assert yard.powered_off("w1")
    assert "soft timer" in yard.listener.lost["w1"]
    assert yard.phases() == {"w1": "leaving"}
    yard.fleet.link_closed("w1")
    await settle()
    assert yard.phases() == {}
    assert yard.installer.powered_off == []


async def test_a_new_job_cancels_the_soft_timer_and_the_vm_is_told(yard: Yard) -> None:
    await yard.up("w1")
    yard.fleet.engage("w1", "a", POLICY, yard.clock.monotonic())
    yard.fleet.disengage("w1", "a")
    await yard.clock.advance(299)
    yard.fleet.engage("w1", "b", POLICY, yard.clock.monotonic())
    assert yard.deadline("w1") == pytest.approx(3605)
    await yard.clock.advance(3599)
    assert not yard.powered_off("w1")
    await yard.clock.advance(2)
    assert yard.powered_off("w1")
    assert "hard timer" in yard.listener.lost["w1"]


async def test_a_worker_that_comes_after_its_job_is_over_has_the_soft_timer(yard: Yard) -> None:
    yard.adopt("w1")
    await settle()
    yard.link("w1")
    yard.fleet.asked_for_work("w1", spare=True)
    assert yard.deadline("w1") == pytest.approx(305)
    yard.fleet.engage("w1", "j", POLICY, yard.clock.monotonic())
    assert yard.deadline("w1") == pytest.approx(3605)


async def test_a_worker_that_had_no_call_of_its_job_is_spare_when_that_is_over(yard: Yard) -> None:
    await yard.up("w1")
    (member,) = yard.fleet.rows(lambda _: 0)
    assert member.dismantle_why == "hard"
    pool = yard.fleet.pool("w1")
    assert pool is not None
    yard.fleet.job_over("j", pool)
    assert yard.deadline("w1") == pytest.approx(305)


async def test_a_vm_that_does_not_obey_its_link_is_powered_off_over_ssh(yard: Yard) -> None:
    await yard.up("w1", DismantlePolicy(hard=100.0))
    await yard.clock.advance(101)
    assert yard.powered_off("w1")
    assert yard.installer.powered_off == []
    await yard.clock.advance(11)
    assert yard.installer.powered_off == ["w1"]
    assert yard.phases() == {}


async def test_a_vm_that_is_still_booting_is_bounded_by_the_hard_timer(yard: Yard) -> None:
    yard.installer.hangs = {"w1"}
    yard.adopt("w1", DismantlePolicy(hard=100.0))
    await yard.clock.advance(101)
    assert yard.installer.powered_off == ["w1"]
    assert "hard timer" in yard.listener.lost["w1"]


async def test_without_auto_dismantle_a_vm_is_told_never(yard: Yard) -> None:
    policy = DismantlePolicy(auto=False)
    await yard.up("w1", policy)
    assert yard.deadline("w1") is None
    await yard.clock.advance(1_000_000)
    assert not yard.powered_off("w1")
    (row,) = yard.fleet.rows(lambda _: 0)
    assert (row.dismantle_in, row.dismantle_why) == (None, "")


async def test_the_workers_of_a_create_job_go_when_it_is_over(yard: Yard) -> None:
    await yard.up("w1", job="j")
    await yard.up("w2", job="k")
    yard.fleet.job_over("j", Pool(ExecMode.CREATE, job="j"))
    await settle()
    assert yard.powered_off("w1")
    assert not yard.powered_off("w2")


async def test_the_masters_own_vm_is_a_worker_with_the_masters_deadline(yard: Yard) -> None:
    await yard.up("m0", DismantlePolicy(hard=10.0))
    assert yard.installer.installed == []
    assert yard.deadline("m0") == pytest.approx(82)
    await yard.clock.advance(1000)
    assert not yard.powered_off("m0")
    yard.fleet.link_closed("m0")
    await yard.clock.advance(6)
    assert yard.installer.powered_off == []


async def test_an_instance_that_was_given_up_counts_again_once_it_is_started_anew(
    yard: Yard,
) -> None:
    yard.installer.failures["w1"] = UnreachableError("w1 is silent")
    yard.adopt("w1")
    await settle()
    assert yard.phases() == {}
    yard.installer.failures.clear()
    yard.adopt("w1")  # a client says again what it had said
    assert yard.phases() == {}
    again = instance("w1", launched_at=1_000_500.0)
    yard.fleet.adopt(KeptInstance(instance=again, policy=POLICY))
    await settle()
    assert yard.installer.installed == ["w1"]


async def test_a_worker_that_was_ready_before_a_restart_is_awaited_and_not_installed(
    yard: Yard,
) -> None:
    for name in ("w1", "w2"):
        kept = KeptInstance(instance=instance(name), policy=POLICY, ready=True)
        yard.fleet.adopt(kept, returning=True)
    assert yard.listener.coming == [("w1", True), ("w2", True)]
    await settle()
    yard.link("w1")
    yard.fleet.asked_for_work("w1", spare=False)
    await yard.clock.advance(6)
    assert list(yard.listener.lost) == ["w2"]
    assert yard.installer.installed == []
    assert yard.phases() == {"w1": "idle"}


async def test_a_worker_whose_timer_ran_out_while_its_master_was_down_first_says_what_it_holds(
    yard: Yard,
) -> None:
    ended = yard.clock.now() - POLICY.soft - 1.0
    for name in ("w1", "w2", "w3", "w4"):
        kept = KeptInstance(instance=instance(name), policy=POLICY, ready=True, completed=ended)
        yard.fleet.adopt(kept, returning=True)
    await settle()
    for name in ("w1", "w2", "w3"):
        yard.link(name)
    await settle()
    assert yard.said == {"w1": [], "w2": [], "w3": []}, "each has a deadline of its own"
    yard.fleet.asked_for_work("w1", spare=True)
    yard.fleet.asked_for_work("w3", spare=True, holds=True)  # of a job that is said again in time
    yard.fleet.asked_for_work("w2", spare=False)
    yard.fleet.engage("w2", "j", POLICY, yard.clock.monotonic())
    await settle()
    assert [yard.powered_off(name) for name in ("w1", "w2", "w3")] == [True, False, False]
    await yard.clock.advance(6)
    assert (yard.phases()["w2"], yard.phases()["w3"]) == ("idle", "idle")
    assert "soft timer" in yard.listener.lost["w4"]
    assert yard.installer.powered_off == ["w4"]


async def test_a_worker_that_was_started_anew_while_its_master_was_down_is_not_waited_for_in_vain(
    yard: Yard,
) -> None:
    before = instance("w1")
    kept = KeptInstance(instance=before, policy=POLICY, ready=True)
    yard.fleet.adopt(kept, returning=True)
    await settle()
    yard.fleet.adopt(KeptInstance(instance=before, policy=POLICY))
    assert yard.phases() == {"w1": "starting"}, "the same VM, told of again"
    anew = msgspec.structs.replace(before, launched_at=before.launched_at + 60.0)
    yard.fleet.adopt(KeptInstance(instance=anew, policy=POLICY))
    await settle()
    assert yard.installer.installed == ["w1"]
    await yard.clock.advance(20)
    assert not yard.listener.lost


async def test_a_worker_that_was_started_anew_is_still_known_by_that_after_a_restart(
    yard: Yard,
) -> None:
    before = instance("w1")
    yard.fleet.adopt(KeptInstance(instance=before, policy=POLICY))
    await settle()
    anew = msgspec.structs.replace(before, launched_at=before.launched_at + 60.0)
    yard.fleet.adopt(KeptInstance(instance=anew, policy=POLICY))  # its boot goes on
    await settle()
    yard.link("w1")
    yard.fleet.asked_for_work("w1", spare=False)
    yard.fleet.engage("w1", "j", POLICY, yard.clock.monotonic())
    kept = yard.listener.kept["w1"]
    assert (kept.instance.launched_at, kept.engaged) == (anew.launched_at, ["j"])
    await yard.fleet.aclose()
    restarted = yard.after_a_restart()
    restarted.fleet.adopt(kept, returning=True)
    restarted.fleet.adopt(KeptInstance(instance=anew, policy=POLICY))  # its client says it again
    await settle()
    assert restarted.phases() == {"w1": "starting"}
    assert restarted.listener.kept["w1"].engaged == ["j"], "its soft timer waits for that"
    await restarted.fleet.aclose()


async def test_each_start_of_a_vm_is_paid_for_by_itself(yard: Yard) -> None:
    before = instance("w1")
    yard.fleet.adopt(KeptInstance(instance=before, policy=POLICY))
    anew = msgspec.structs.replace(before, launched_at=before.launched_at + 60.0)
    yard.fleet.adopt(KeptInstance(instance=anew, policy=POLICY))
    told = [(kept.instance.launched_at, kept.ended) for kept in yard.listener.history]
    assert told[:2] == [(before.launched_at, None), (before.launched_at, anew.launched_at)]
    assert set(told[2:]) == {(anew.launched_at, None)}


async def test_a_lost_worker_whose_agent_returns_is_a_worker_again(yard: Yard) -> None:
    yard.installer.power_off_hangs = True
    await yard.up("w1")
    yard.fleet.link_closed("w1")
    await yard.clock.advance(6)
    assert yard.phases() == {"w1": "lost"}
    assert yard.link("w1")
    yard.fleet.asked_for_work("w1", spare=False)
    await settle()
    assert yard.phases() == {"w1": "idle"}
    assert yard.listener.coming == [("w1", False), ("w1", False)]
    (row,) = yard.fleet.rows(lambda _: 3)
    assert (row.state, row.phase, row.running) == (InstanceState.RUNNING, "busy", 3)


async def test_a_worker_whose_job_ended_elsewhere_while_it_was_lost_goes_by_its_soft_timer(
    yard: Yard,
) -> None:
    yard.installer.power_off_hangs = True
    await yard.up("w1")
    yard.fleet.engage("w1", "j", POLICY, yard.clock.monotonic())
    yard.fleet.link_closed("w1")
    await yard.clock.advance(6)
    assert yard.phases() == {"w1": "lost"}
    pool = yard.fleet.pool("w1")
    assert pool is not None
    yard.fleet.job_over("j", pool)
    await yard.clock.advance(4)
    yard.link("w1")
    yard.fleet.asked_for_work("w1", spare=True)
    assert yard.deadline("w1") == POLICY.soft - 4.0 + SLACK


async def test_a_lost_worker_is_kept_without_a_job_that_ended_while_another_goes_on(
    yard: Yard,
) -> None:
    yard.installer.power_off_hangs = True
    await yard.up("w1")
    for job in ("j1", "j2"):
        yard.fleet.engage("w1", job, POLICY, yard.clock.monotonic())
    yard.fleet.link_closed("w1")
    await yard.clock.advance(6)
    pool = yard.fleet.pool("w1")
    assert pool is not None
    yard.fleet.job_over("j1", pool)
    assert yard.listener.kept["w1"].engaged == ["j2"]


async def test_a_silent_worker_whose_return_saves_a_call_is_not_ended_in_haste(
    yard: Yard,
) -> None:
    yard.listener.accusing = {"w1"}
    await yard.up("w1")
    yard.fleet.link_closed("w1")
    await yard.clock.advance(5 + TRIAL - 1)
    assert "did not come back within 5 s" in yard.listener.lost["w1"]
    # A client that hears of it ends the VM.
    assert (yard.listener.notices, yard.installer.powered_off) == ([], [])
    assert yard.link("w1")
    yard.fleet.asked_for_work("w1", spare=False)
    await yard.clock.advance(100)
    assert yard.phases() == {"w1": "idle"}
    assert (yard.listener.notices, yard.listener.verdicts) == ([], [])


async def test_whether_a_silent_worker_comes_back_is_known_within_a_bound(yard: Yard) -> None:
    yard.listener.accusing = {"w1", "m0"}
    await yard.up("w1")
    await yard.up("m0")
    for name in ("w1", "m0"):
        yard.fleet.link_closed(name)
    yard.installer.power_off_hangs = True  # nobody can tell when that is over
    await yard.clock.advance(5 + TRIAL + 1)
    assert yard.listener.verdicts == ["w1", "m0"]
    assert len(yard.listener.notices) == 2


@pytest.mark.parametrize("silent", [1.0, 10.0])
@pytest.mark.parametrize(
    ("reason", "taken"),
    [
        ("Server.SpotInstanceTermination: Spot instance termination", True),
        ("Client.UserInitiatedShutdown: User initiated shutdown", True),
        ("Client.InstanceInitiatedShutdown: Instance initiated shutdown", False),
        ("Server.InternalError: init was killed by SIGKILL", False),
    ],
)
async def test_what_the_cloud_says_of_a_vm_that_ended_tells_whether_a_call_may_have_done_it(
    yard: Yard, silent: float, reason: str, taken: bool
) -> None:
    yard.listener.accusing = {"w1"}
    await yard.up("w1")
    yard.fleet.link_closed("w1")
    await yard.clock.advance(silent)
    yard.fleet.ended("w1", reason)
    await settle()
    assert yard.listener.verdicts == ([] if taken else ["w1"])
    assert "w1" in yard.listener.absolved or not taken
    assert yard.listener.innocent == (["w1"] if taken and silent < 5 else [])
    assert yard.phases() == {}


async def test_a_worker_that_its_client_has_ended_is_waited_for_no_longer(yard: Yard) -> None:
    yard.installer.hangs = {"w1"}
    yard.installer.power_off_hangs = True
    yard.adopt("w1", job="j")
    await settle()
    yard.fleet.job_over("j", Pool(ExecMode.CREATE, job="j"))
    await settle()
    assert yard.phases() == {"w1": "leaving"}
    assert yard.fleet.awaits_any  # it still boots, and is to be told to go
    yard.fleet.ended("w1", "its client has ended it (Client.UserInitiatedShutdown)")
    await settle()
    assert yard.phases() == {}
    assert not yard.fleet.awaits_any


async def test_the_fleet_tells_who_would_be_left_to_its_hard_timer(yard: Yard) -> None:
    yard.installer.hangs = {"w1"}
    yard.adopt("w1")
    await settle()
    assert yard.fleet.awaits_any  # it boots
    yard.fleet.ended("w1", "no capacity")
    await settle()
    assert not yard.fleet.awaits_any
    yard.adopt("w2")
    await settle()
    yard.link("w2")
    assert yard.fleet.awaits_any  # its agent has called, and has not been told of another timer
    yard.fleet.asked_for_work("w2", spare=True)
    assert not yard.fleet.awaits_any
    yard.installer.power_off_hangs = True
    await yard.up("w3", job="j")
    yard.fleet.link_closed("w3")
    yard.fleet.job_over("j", Pool(ExecMode.CREATE, job="j"))
    await settle()
    assert yard.fleet.awaits_any  # it is to go, and cannot be told
    await yard.up("w4", DismantlePolicy(auto=False))
    await yard.up("m0")
    yard.link("w3")
    yard.fleet.link_closed("w3")


async def test_a_worker_lost_before_it_asked_for_work_is_waited_for_again_when_it_is_back(
    yard: Yard,
) -> None:
    yard.installer.power_off_hangs = True
    yard.adopt("w1")
    await settle()
    yard.link("w1")
    yard.fleet.link_closed("w1")  # its agent heard no answer
    await yard.clock.advance(6)
    assert yard.phases() == {"w1": "lost"}
    assert yard.link("w1")
    await settle()
    assert yard.fleet.awaits_any  # it has not been told yet that its job is over
    assert yard.installer.installed == ["w1"]  # once
    yard.fleet.asked_for_work("w1", spare=True)
    assert not yard.fleet.awaits_any
    assert yard.deadline("w1") == POLICY.soft + SLACK


async def test_a_worker_that_goes_by_its_own_timer_is_not_waited_for(yard: Yard) -> None:
    await yard.up("w1", DismantlePolicy(hard=100.0))
    await yard.clock.advance(101)
    assert yard.phases() == {"w1": "leaving"}
    assert not yard.fleet.awaits_any


async def test_a_worker_that_was_given_up_while_it_was_cut_off_goes_once_it_is_heard_again(
    yard: Yard,
) -> None:
    await yard.up("w1")
    yard.installer.failures["w1"] = UnreachableError("w1 is silent")
    yard.fleet.link_closed("w1")
    await yard.clock.advance(6)
    assert yard.listener.kept["w1"].gone
    assert yard.link("w1")  # what it has done meanwhile is heard
    assert yard.powered_off("w1")
    assert yard.phases() == {}
    assert yard.listener.coming == [("w1", False)]


async def test_a_worker_that_was_given_up_before_the_master_restarted_goes_as_well(
    yard: Yard,
) -> None:
    yard.fleet.adopt(KeptInstance(instance=instance("w1"), policy=POLICY, gone=True))
    assert yard.link("w1")
    assert yard.powered_off("w1")
    yard.said.clear()
    again = instance("w1", launched_at=1_000_500.0)
    yard.fleet.adopt(KeptInstance(instance=again, policy=POLICY))
    await settle()
    assert yard.link("w1")
    assert not yard.powered_off("w1")


async def test_a_stranger_is_no_worker(yard: Yard) -> None:
    assert not yard.link("w9")


async def test_a_worker_that_the_cloud_takes_back_goes_once_its_hands_are_empty(
    yard: Yard,
) -> None:
    await yard.up("w1")
    yard.fleet.drain("w1", 120.0, "spot")
    assert "goes in 120 s: spot" in yard.listener.drains["w1"]
    (row,) = yard.fleet.rows(lambda _: 2)
    assert (row.phase, row.dismantle_why, row.dismantle_in) == ("draining", "spot", 118.0)
    assert yard.deadline("w1") == pytest.approx(123)
    await yard.clock.advance(60)
    assert not yard.powered_off("w1")
    yard.fleet.let_go("w1", "spot")
    await settle()
    assert yard.powered_off("w1")
    assert yard.listener.innocent == ["w1"]


async def test_a_worker_that_the_cloud_takes_back_goes_with_the_notice_at_the_latest(
    yard: Yard,
) -> None:
    await yard.up("w1", DismantlePolicy(auto=False))
    yard.fleet.drain("w1", 120.0, "spot")
    await yard.clock.advance(119)
    assert yard.powered_off("w1")
    assert "the cloud takes it back" in yard.listener.lost["w1"]
    assert yard.listener.innocent == ["w1"]


async def test_a_draining_worker_that_falls_silent_is_lost_by_the_clouds_doing(
    yard: Yard,
) -> None:
    await yard.up("w1")
    await yard.up("w2")
    yard.fleet.drain("w1", 120.0, "spot")
    for name in ("w1", "w2"):
        yard.fleet.link_closed(name)
    await yard.clock.advance(6)
    assert set(yard.listener.lost) == {"w1", "w2"}
    assert yard.listener.innocent == ["w1"]


async def test_a_draining_worker_that_connects_anew_still_drains(yard: Yard) -> None:
    await yard.up("w1")
    yard.fleet.drain("w1", 120.0, "spot")
    yard.fleet.link_closed("w1")
    yard.link("w1")
    yard.fleet.drain("w1", 110.0, "spot")  # it says so again
    yard.fleet.asked_for_work("w1", spare=False)
    assert yard.phases() == {"w1": "draining"}


async def test_a_vm_whose_timer_fires_took_nobody_down(yard: Yard) -> None:
    await yard.up("w1", DismantlePolicy(hard=100.0))
    await yard.clock.advance(101)
    yard.adopt("w2")
    await settle()
    yard.fleet.ended("w2", "Server.SpotInstanceTermination")
    await settle()
    assert yard.listener.innocent == ["w1", "w2"]
