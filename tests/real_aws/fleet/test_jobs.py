"""What a user does, on VMs of a real account; in order, so that one cluster serves most of it."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
import yaml

import dayfly
from dayfly.model import Tag
from tests.real_aws import listing
from tests.real_aws.conftest import Launcher
from tests.real_aws.own import users_own_vm
from tests.real_aws.run import Run, command


def square(x: int) -> int:
    return x * x


def where(x: int) -> tuple[int, str]:
    """The instance's id, by its own metadata (IMDSv2)."""
    import urllib.request

    here = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254")

    def ask(path: str, method: str, name: str, value: str) -> str:
        request = urllib.request.Request(  # noqa: S310  # no other scheme comes here
            f"{here.rstrip('/')}/latest/{path}", method=method, headers={name: value}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return str(answer.read().decode())

    token = ask("api/token", "PUT", "X-aws-ec2-metadata-token-ttl-seconds", "60")
    return x, ask("meta-data/instance-id", "GET", "X-aws-ec2-metadata-token", token)


def slow(x: int) -> int:
    time.sleep(0.5)
    return x


def test_hello_comes_back_and_says_where_the_time_went(run: Run) -> None:
    config = {**run.config, "aws_ec2": run.config["aws_ec2"] | {"max_cost": run.ledger.for_a_job}}
    Path("hello.yaml").write_text(yaml.safe_dump(config))
    said = command("hello", "-m", "8", "-c", "hello.yaml")
    assert said.exit_code == 0, said.output
    assert "(8 calls)" in said.output
    run.measured(f"dayfly hello -m 8, from nothing:\n{said.output}")


async def test_a_map_runs_and_a_second_program_finds_its_machines(
    run: Run, launcher: Launcher
) -> None:
    began = time.monotonic()
    async with launcher() as first:
        job = first.map(square, range(8))
        assert await job == [x * x for x in range(8)]
    cold = time.monotonic() - began
    assert job.cost is not None, "prices of this region are missing: prices.py, catalogue.json"
    machines = {i.id for i in await run.listed()}
    began = time.monotonic()
    async with launcher() as second:
        assert await second.map(square, range(4)) == [0, 1, 4, 9]
    warm = time.monotonic() - began
    assert {i.id for i in await run.listed()} == machines, "nothing was launched"
    run.measured(f"a map of 8 on 2 workers: {cold:.1f} s, a second program {warm:.2f} s")


async def test_what_was_launched_carries_its_tags_and_its_end(run: Run, launcher: Launcher) -> None:
    async with launcher() as ex:
        await ex.map(square, range(4))
    told = await listing.instances(run.region, run.settings.run)
    assert told
    for each in told.values():
        tags = {tag["Key"]: tag["Value"] for tag in each["Tags"]}
        assert tags.keys() >= {Tag.MANAGED, Tag.OWNER, Tag.EXPIRES_AT, Tag.ROLE, *run.mark}
        assert float(tags[Tag.EXPIRES_AT]) > time.time()
        assert each["MetadataOptions"]["HttpTokens"] == "required"
        spot = each.get("InstanceLifecycle") == "spot"
        assert spot is (tags[Tag.ROLE] == "worker"), "workers are spot, the master is not"


async def test_large_results_come_back_by_storage(launcher: Launcher) -> None:
    def large(x: int) -> bytes:
        return bytes([x]) * 5_000_000

    async with launcher() as ex:
        assert [len(set(b)) for b in await ex.map(large, range(3))] == [1, 1, 1]


async def test_another_machine_of_the_same_user_lists_and_follows(
    run: Run, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with launcher() as ex:
        job = ex.map(square, range(4))
        await job
    elsewhere = Path(tempfile.mkdtemp(dir=run.home))
    if not run.emulated:
        (elsewhere / ".aws").symlink_to(run.home / ".aws")
    monkeypatch.setenv("HOME", str(elsewhere))
    listed = command("worker", "list")
    assert listed.output.count("dayfly-worker") >= 1, listed.output
    jobs = command("job", "list")
    assert job.id in jobs.output, jobs.output


async def test_doctor_has_nothing_to_say_against_the_fleet_that_runs(
    run: Run, launcher: Launcher
) -> None:
    """Its dry runs have instances to be about now."""
    async with launcher() as ex:
        await ex.map(square, range(4))
    looked = command("doctor", "-m", "3")
    assert looked.exit_code == 0, looked.output


async def test_create_mode_gives_its_workers_back(run: Run, launcher: Launcher) -> None:
    async with launcher(exec_mode="create", max_workers=1) as ex:
        one = {vm for _, vm in await ex.map(where, range(4))}
        two = {vm for _, vm in await ex.map(where, range(4))}
    assert not one & two

    async def gone() -> bool:
        up = {i.id for i in await run.fleet("worker", "pending", "running", "shutting-down")}
        return not up & (one | two)

    await run.eventually(gone, "the job's workers to be terminated")


async def test_a_worker_that_is_taken_away_costs_no_result(run: Run, launcher: Launcher) -> None:
    """On the real EC2 by a termination: an interruption cannot be ordered without a role for FIS.

    What an interruption is like is in its metadata; see the README.
    """
    async with launcher() as ex:
        job = ex.map(slow, range(24))

        async def begun() -> bool:
            return job.progress.done > 2

        await run.eventually(begun, "the job to begin")
        taken = (await run.fleet("worker", "running"))[0].id
        if run.emulated:
            run.emulated.interrupt(taken)
        else:
            await listing.terminate(run.region, [taken])
        assert await job == list(range(24))


async def test_the_soft_timeout_ends_the_workers_and_stops_the_master(
    run: Run, launcher: Launcher
) -> None:
    async with launcher(soft_dismantle_timeout=5) as ex:
        await ex.map(square, range(4))

    async def rested() -> bool:
        workers = await run.fleet("worker", "pending", "running", "shutting-down")
        return not workers and [m.state for m in await run.fleet("master")] == ["stopped"]

    took = await run.eventually(rested, "the workers to be gone and the master stopped")
    masters = [m.id for m in await run.fleet("master")]
    began = time.monotonic()
    async with launcher() as ex:
        assert await ex.map(square, range(2)) == [0, 1]
    woken = time.monotonic() - began
    assert [m.id for m in await run.fleet("master")] == masters, "it was started again"
    run.measured(
        f"soft_dismantle_timeout 5: all at rest {took:.1f} s after the job; a map with the master"
        f" stopped: {woken:.1f} s"
    )


async def test_the_hard_timeout_cuts_a_job_and_keeps_what_is_done(
    run: Run, launcher: Launcher
) -> None:
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    async with launcher(max_workers=1) as ex:
        await ex.map(nap, [0.0] * 3)  # the machines are up: the timeout bounds the job alone
    hard = 4 if run.emulated else 45
    async with launcher(max_workers=1, hard_dismantle_timeout=hard) as ex:
        job = ex.map(nap, [0.0, 0.1, 900.0])
        with pytest.raises(dayfly.HardTimeoutError, match="hard_dismantle_timeout"):
            await job
        assert job.progress.done == 2

    async def rested() -> bool:
        up = [i for i in await run.listed() if i.state not in ("stopped", "terminated")]
        return not up

    await run.eventually(rested, "all to be at rest")


async def test_a_job_stops_where_its_money_ends(launcher: Launcher) -> None:
    async with launcher(max_cost=0.000001) as ex:
        with pytest.raises(dayfly.DayflyError, match="max_cost"):
            await ex.map(square, range(2))


async def test_clean_all_leaves_nothing_and_the_next_map_begins_anew(
    run: Run, launcher: Launcher
) -> None:
    before = {i.id for i in await run.listed()}
    cleaned = command("clean", "--all")
    assert cleaned.exit_code == 0, cleaned.output
    assert "nothing of ours is left" in cleaned.output
    assert not await listing.instances(run.region, run.settings.run)
    assert not await listing.objects(run.region, run.bucket, "dayfly/")
    async with launcher(max_workers=1) as ex:
        assert await ex.map(square, range(2)) == [0, 1]
    assert not before & {i.id for i in await run.listed() if i.state == "running"}


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "running"])
async def test_consume_uses_the_users_own_instance_and_leaves_it_as_it_was(
    run: Run, launcher: Launcher, stopped: bool
) -> None:
    key = Path(tempfile.mkdtemp(dir=run.home)) / "key"
    async with users_own_vm(run, key, stopped=stopped) as mine:
        tags = await tags_of(run, mine)
        async with launcher(
            exec_mode="consume",
            instance_id=mine,
            ssh_key_filename=str(key),
            soft_dismantle_timeout=5,
            max_workers=1,
            max_cost=None,  # is refused: dayfly does not know what a user's own VM costs
        ) as ex:
            assert await ex.map(where, range(6)) == [(n, mine) for n in range(6)]

        async def at_rest() -> bool:
            told = await listing.instances(run.region, run.settings.run)
            return bool(told[mine]["State"]["Name"] == "stopped")

        await run.eventually(at_rest, "the user's instance to be stopped by its timer")
        assert await tags_of(run, mine) == tags, "never re-tagged"


async def tags_of(run: Run, instance_id: str) -> dict[str, str]:
    told = await listing.instances(run.region, run.settings.run)
    return {tag["Key"]: tag["Value"] for tag in told[instance_id]["Tags"]}
