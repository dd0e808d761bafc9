"""What the person says who runs this on a real account; without it nothing is called."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: Says that real money may be spent.
SWITCH: Final = "DAYFLY_REAL_AWS"
EMULATED: Final = "DAYFLY_REAL_AWS_EMULATED"
REGION: Final = "DAYFLY_REAL_AWS_REGION"
ROLE: Final = "DAYFLY_REAL_AWS_ROLE"
AMI: Final = "DAYFLY_REAL_AWS_AMI"
MAX_COST: Final = "DAYFLY_REAL_AWS_MAX_COST"
PROBE_LIMITS: Final = "DAYFLY_REAL_AWS_PROBE_LIMITS"

#: US dollars that a run may cost, unless it is told otherwise.
DEFAULT_MAX_COST: Final = 1.0
#: On each thing that a run makes; its value is the run's id.
TEST_TAG: Final = "dayfly-test"


class RefusedError(Exception):
    """The suite does not run, and why."""

    def __init__(self, *reasons: str) -> None:
        lines = "\n".join(f"  * {reason}" for reason in reasons)
        super().__init__(
            f"the tests of a real AWS account are refused:\n{lines}\nsee tests/real_aws/README.md"
        )


@dataclass(frozen=True)
class Settings:
    """One run.

    Attributes:
        emulated: Against the emulated account, which needs none of the rest.
        region: Of the account.
        role: The instance profile of the VMs.
        ami: Their image; empty: Ubuntu's.
        max_cost: US dollars for the whole run.
        probe_limits: Whether to exhaust the account's rate limits for some seconds.
        run: The run's id, on everything that it makes.
    """

    emulated: bool
    region: str
    role: str
    ami: str
    max_cost: float
    probe_limits: bool
    run: str


def read(environ: Mapping[str, str], *, credentials: bool) -> Settings:
    """Read a run's settings.

    Args:
        environ: Where they are.
        credentials: Whether the standard chain has found any.

    Raises:
        RefusedError: Something is missing; all of it is named.
    """
    emulated = environ.get(EMULATED) == "1"
    reasons = [] if emulated else _missing(environ, credentials=credentials)
    try:
        max_cost = float(environ.get(MAX_COST, DEFAULT_MAX_COST))
    except ValueError:
        max_cost = 0.0
    if not 0 < max_cost <= 100:
        reasons.append(f"{MAX_COST}={environ[MAX_COST]!r}: give US dollars, more than 0, up to 100")
    if reasons:
        raise RefusedError(*reasons)
    return Settings(
        emulated=emulated,
        region=environ.get(REGION, ""),
        role=environ.get(ROLE, ""),
        ami=environ.get(AMI, ""),
        max_cost=max_cost,
        probe_limits=emulated or environ.get(PROBE_LIMITS) == "1",
        run=f"run-{secrets.token_hex(4)}",
    )


def _missing(environ: Mapping[str, str], *, credentials: bool) -> list[str]:
    reasons = []
    if environ.get(SWITCH) != "1":
        reasons.append(f"they spend money, and {SWITCH}=1 does not say that they may")
    if not credentials:
        reasons.append("the standard chain finds no credentials: aws sts get-caller-identity")
    if environ.get("AWS_ENDPOINT_URL"):
        reasons.append("AWS_ENDPOINT_URL is set: that is no real account")
    if not environ.get(REGION):
        reasons.append(f"{REGION} is not set: a region that nothing else of yours is in")
    if not environ.get(ROLE):
        reasons.append(f"{ROLE} is not set: the instance profile of the VMs, by its name")
    return reasons
