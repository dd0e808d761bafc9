"""One round's own directory: its configuration, its cloud, its clients, its logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import yaml

import dayfly
from dayfly.clock import SystemClock, SystemEntropy
from dayfly.cloud.localhost import Faults, LocalhostCloud
from dayfly.model import InstanceSpec, InstanceState
from tests.chaos import client_program, strike
from tests.chaos.leftovers import CLOUD, STORAGE, TEMPORARY
from tests.chaos.plan import ClientPlan, JobPlan, Plan
from tests.chaos.victims import of_round, records, role_of

ROOT = Path(dayfly.__file__).parents[1]


@dataclass
class Stage:
    """A round's directory and what is kept in it.

    Attributes:
        home: ``$HOME`` of everything in the round. Short, because Unix sockets lie below it.
        addresses: Every address that a VM of the round ever had.
        trace: What happened, for people.
    """

    plan: Plan
    home: Path
    began: float = field(default_factory=time.monotonic)
    addresses: set[str] = field(default_factory=set)
    consumed: str = ""
    trace: list[str] = field(default_factory=list)
    _states: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, plan: Plan) -> Stage:
        """Make the directory and the configuration in it."""
        home = Path(tempfile.mkdtemp(prefix="dfly-chaos-"))
        stage = cls(plan, home)
        for name in (TEMPORARY, "received", "kept"):
            (home / name).mkdir()
        config = {
            "localhost": {
                "directory": str(home / CLOUD),
                "storage_directory": str(home / STORAGE),
                "soft_dismantle_timeout": plan.soft,
                "hard_dismantle_timeout": plan.hard,
                "start_timeout": 45,
                "boot_time": plan.boot_time,
                "delete_on_dismantle": not plan.keeps_disks,
                "request_spot_instances": plan.spot,
            }
        }
        (home / "config.yaml").write_text(yaml.safe_dump(config))
        return stage

    @property
    def cloud(self) -> LocalhostCloud:
        """The round's cloud."""
        return LocalhostCloud(self.home / CLOUD, clock=SystemClock(), entropy=SystemEntropy())

    @property
    def ledger(self) -> Path:
        """Where calls sign in."""
        return self.home / "received" / "started"

    def note(self, text: str) -> None:
        """Write something down."""
        self.trace.append(f"{time.monotonic() - self.began:8.3f}  {text}")

    @property
    def environment(self) -> dict[str, str]:
        """Of every process that the round starts."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DAYFLY_")}
        return kept | {
            "HOME": str(self.home),
            "TMPDIR": str(self.home / TEMPORARY),
            "DAYFLY_CONFIG_FILE": str(self.home / "config.yaml"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    # -- the user's own VM --

    async def launch_consumed(self) -> None:
        """A VM that the user made, with the user's own key."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        path = self.home / "key"
        path.write_bytes(key.export_private_key())
        path.chmod(0o600)
        public = key.export_public_key().decode().strip()
        spec = InstanceSpec(
            role="worker",
            instance_types=["local.2"],
            on_poweroff="stop",
            user_data=f'#cloud-config\nssh_authorized_keys: ["{public}"]\n',
            tags={"Name": "mine"},
        )
        launch = await self.cloud.launch(spec, 1, token="mine")
        self.consumed = launch.instances[0].id

    async def stop_consumed(self) -> None:
        """Stop the user's own VM, and forget it: it is nobody's but ours."""
        if not self.consumed:
            return
        await self.cloud.terminate([self.consumed])
        async with asyncio.timeout(20):
            while any(
                i.state is not InstanceState.TERMINATED
                for i in await self.cloud.list(ids=[self.consumed])
            ):
                await asyncio.sleep(0.05)

    # -- clients --

    def orders(self, client: ClientPlan) -> Path:
        """Write down what a client is to do."""
        by_mode: dict[str, list[JobPlan]] = {}
        for job in client.jobs:
            by_mode.setdefault(job.mode, []).append(job)
        executors = [(self._keys(jobs), [_told(job) for job in jobs]) for jobs in by_mode.values()]
        orders = {
            "executors": executors,
            "ledger": str(self.ledger),
            "received": str(self.home / "received" / "{life}"),
        }
        path = self.home / f"{client.name}.json"
        path.write_text(json.dumps(orders))
        return path

    def _keys(self, jobs: list[JobPlan]) -> dict[str, Any]:
        mode = jobs[0].mode
        keys: dict[str, Any] = {"exec_mode": mode, "max_workers": max(job.workers for job in jobs)}
        if mode == "consume":
            keys |= {
                "instance_id": self.consumed,
                "ssh_key_filename": str(self.home / "key"),
            }
        return keys

    async def start_client(self, client: ClientPlan, number: int) -> asyncio.subprocess.Process:
        """Run a client's program."""
        life = f"{client.name}.{number}"
        with (self.home / "kept" / f"{life}.stderr").open("wb") as said:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                client_program.__file__,
                str(self.home / f"{client.name}.json"),
                life,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=self.environment,
                cwd=self.home,
                start_new_session=True,
            )

    def received(self, life: str) -> list[dict[str, Any]]:
        """What a client has written."""
        return _lines(self.home / "received" / life)

    def started(self) -> list[dict[str, Any]]:
        """The calls that have signed in."""
        return _lines(self.ledger)

    async def command(self, *words: str, within: float) -> tuple[int | None, str]:
        """Run ``dayfly WORDS``; its status, ``None`` when it hung, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dayfly",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.environment,
            cwd=self.home,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(within):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            said, _ = await process.communicate()
            return None, said.decode(errors="replace")
        return process.returncode, said.decode(errors="replace")

    async def set_drops(self, seconds: float | None) -> None:
        """Have each new SSH connection cut after a while, or no more."""
        await self.cloud.set_faults(Faults(ssh_drops_after=seconds))

    # -- what is kept --

    async def keep_records(self) -> None:
        """Keep logs, addresses and states of VMs, until cancelled: VMs take theirs along."""
        while True:
            await asyncio.to_thread(self.keep)
            await asyncio.sleep(0.15)

    def keep(self) -> None:
        """Link every log to where it survives its VM, and write down what VMs became."""
        for record in records(self.home):
            self.addresses.add(record.instance.address)
            if self._states.get(record.id) != record.state:
                self._states[record.id] = record.state
                why = f": {record.instance.state_reason}" if record.instance.state_reason else ""
                self.note(f"{role_of(record)} {record.id} is {record.state}{why}")
        folder = self.home / CLOUD / "instances"
        logs = [*folder.glob("*/root/tmp/dayfly/*.log"), *folder.glob("*/console.log")]
        for log in logs:
            vm = log.relative_to(folder).parts[0]
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                kept = f"{vm}.{log.stem}.{log.stat().st_ino}.log"  # each boot has its own
                os.link(log, self.home / "kept" / kept)

    def logs(self) -> dict[str, str]:
        """The kept logs by name."""
        kept = sorted((self.home / "kept").iterdir())
        return {path.name: path.read_text(errors="replace") for path in kept}

    # -- the end --

    def end(self) -> None:
        """Kill whoever is left of the round. Whoever is stopped dies as well."""
        deadline = time.monotonic() + 10.0
        while (left := of_round(self.home)) and time.monotonic() < deadline:
            for who in left:
                strike.send(who, signal.SIGKILL, self.home)
            time.sleep(0.02)

    def delete(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.home, ignore_errors=True)


def _told(job: JobPlan) -> dict[str, Any]:
    calls = [[call.nap, call.size, call.fails] for call in job.calls]
    return {"name": job.name, "style": job.style, "detached": job.detached, "calls": calls}


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    *lines, rest = path.read_text().split("\n")
    assert not rest, f"{path} ends in mid-line"
    return [json.loads(line) for line in lines]
