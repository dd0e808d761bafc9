"""The emulated account with machines behind it, in the place of a real one, for a whole run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dayfly.cloud.ec2.network import making
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import shared
from tests.aws.imds import MetadataService
from tests.aws.machine_fixtures import issue_keys
from tests.aws.machines import EmbeddedMachines
from tests.aws.world import ACCOUNT, REGION
from tests.conftest import processes_of


@contextmanager
def emulated_account(home: Path, patch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    """An account whose instances are really reached; found by the standard chain."""
    aws = shared()
    aws.reset()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in aws.environment.items():
        patch.setenv(name, value)
    # The emulated EC2 lists what it made at once.
    patch.setattr(making, "SETTLE", 0.1)

    def zone(instance_id: str) -> str:
        return aws.world.lives[instance_id].pool[1]

    with MetadataService(region=REGION, account=ACCOUNT, zone=zone, issue=issue_keys) as metadata:
        machines = EmbeddedMachines(home / "ec2", metadata, endpoint=aws.endpoint)
        aws.machines = machines
        try:
            yield aws
        finally:
            aws.machines = None
            machines.raze()
            left = processes_of(home)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
    assert not left, f"processes left behind: {left}"
    assert not aws.crashes, "the emulated AWS itself has failed:\n" + "\n".join(aws.crashes)
