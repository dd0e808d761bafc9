"""Fixtures with an emulated AWS whose instances are real machines, for the system as a whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.sts.models import sts_backends

from dayfly.cloud.ec2.network import making
from tests.aws.emulator import EmulatedAws
from tests.aws.imds import Keys, MetadataService
from tests.aws.machines import SSH_PORT, EmbeddedMachines
from tests.aws.world import ACCOUNT, REGION
from tests.conftest import processes_of

__all__ = ["issue_keys", "machines"]

#: Seconds for which a role's keys are good on an instance.
_KEYS_LAST = 6 * 3600


@dataclass(frozen=True)
class Ec2Home:
    """A user's home, and an AWS account whose instances are real machines, for one test.

    Attributes:
        path: ``$HOME``.
        config: What to hand to ``FunctionExecutor(config=...)``.
        config_file: The same as a file, found by every process that the test starts.
        aws: The emulated account.
        machines: What is behind its instances.
    """

    path: Path
    config: dict[str, dict[str, Any]]
    config_file: Path
    aws: EmulatedAws
    machines: EmbeddedMachines
    _timers: list[threading.Timer] = field(default_factory=list)

    def interrupt(self, instance_id: str, notice: float = 120.0) -> None:
        """Take a spot instance back as EC2 does: announced in its metadata, and then cut."""
        self.machines.metadata.announce(instance_id, time.time() + notice)
        timer = threading.Timer(notice, self.aws.interrupt, [instance_id])
        self._timers.append(timer)
        timer.start()

    def close(self) -> None:
        """Delete the machines; interruptions that are still to come do not."""
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self.aws.machines = None
        self.machines.raze()


@pytest.fixture
def machines(
    own_home: Path, aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ec2Home]:
    """Real machines behind emulated instances; the test fails if a process is left."""
    config: dict[str, dict[str, Any]] = {
        "dayfly": {"backend": "aws_ec2"},
        "aws": {"region": REGION},
        "aws_ec2": {
            "instance_role": aws.role,
            "environment": "image",  # the machines have the tests' own Python
            "ssh_port": SSH_PORT,
            "ssh_cidr": "127.0.0.0/8",
            "master_instance_type": "t3.micro",
            "worker_instance_type": "t3.medium",
            "start_timeout": 60,
        },
    }
    config_file = own_home / "config.yaml"
    config_file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("DAYFLY_CONFIG_FILE", str(config_file))
    # The emulated EC2 lists what it made at once.
    monkeypatch.setattr(making, "SETTLE", 0.1)

    def zone(instance_id: str) -> str:
        return aws.world.lives[instance_id].pool[1]

    with MetadataService(region=REGION, account=ACCOUNT, zone=zone, issue=issue_keys) as metadata:
        behind = EmbeddedMachines(own_home / "ec2", metadata, endpoint=aws.endpoint)
        aws.machines = behind
        home = Ec2Home(own_home, config, config_file, aws, behind)
        yield home
        home.close()
        left = processes_of(own_home)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"processes left behind: {left}"


def issue_keys(role: str, instance_id: str) -> Keys:
    """A role's keys as an instance gets them: of a session that is named after it."""
    session = sts_backends[ACCOUNT]["aws"].assume_role(
        region_name=REGION,
        role_session_name=instance_id,
        role_arn=f"arn:aws:iam::{ACCOUNT}:role/{role}",
        policy="",
        duration=_KEYS_LAST,
        external_id="",
    )
    return Keys(
        session.access_key_id,
        session.secret_access_key,
        session.session_token,
        time.time() + _KEYS_LAST,
    )
