"""Where dayfly's own objects lie in storage.

Workers read below ``dayfly/in/`` and ``dayfly/env/`` and write below ``dayfly/out/`` only; a
cluster's secrets are below ``dayfly/clusters/``, out of their reach.
"""

from __future__ import annotations

ROOT = "dayfly/"
CLUSTERS = ROOT + "clusters/"
JOBS = ROOT + "jobs/"
IN = ROOT + "in/"
OUT = ROOT + "out/"
ENVIRONMENTS = ROOT + "env/"
#: What ``clean`` deletes without ``--all``.
TEMPORARY = (IN, OUT, JOBS)


def access(cluster: str) -> str:
    """The cluster's keys and secrets."""
    return f"{CLUSTERS}{cluster}/access"


def launch(token: str) -> str:
    """What is written down of one launch, before it is made."""
    return f"{CLUSTERS}launches/{token}/"


def function(job: str) -> str:
    """A job's pickled function, when it is too large to travel inline."""
    return f"{IN}{job}/function"


def items(job: str, start: int) -> str:
    """A chunk of a job's pickled items, by the index of its first."""
    return f"{IN}{job}/items/{start:012d}"


def modules(digest: str) -> str:
    """An archive of local modules, by its content."""
    return f"{IN}modules/{digest}.zip"


def outcome(job: str, index: int) -> str:
    """A large outcome."""
    return f"{OUT}{job}/{index:012d}"


def outcome_pack(job: str, index: int, mark: str) -> str:
    """Several large outcomes one after the other, by the index of the first.

    Args:
        job: The job.
        index: Of the first.
        mark: Drawn by who writes it: two workers may write the same call, with other company.
    """
    return f"{OUT}{job}/{index:012d}-{mark}"


def part(key: str, start: int, stop: int) -> str:
    """The bytes of an object from ``start`` up to ``stop``, as :func:`place` reads it."""
    return f"{key} {start} {stop}"


def place(name: str) -> tuple[str, slice]:
    """Where something is: the object's key, and which of its bytes; it may be all of them."""
    key, *bounds = name.rsplit(" ", 2)
    return key, slice(*map(int, bounds)) if bounds else slice(None)


def record(job: str) -> str:
    """What became of a job: its row, written when it ends."""
    return f"{JOBS}{job}/record"


def outcomes(job: str, part: str) -> str:
    """A part of the small outcomes of a job that has ended, by its content."""
    return f"{JOBS}{job}/outcomes/{part}"


def logs(job: str) -> str:
    """The function logs of a job that has ended."""
    return f"{JOBS}{job}/logs"


def lock(environment: str) -> str:
    """Which files an environment consists of."""
    return f"{ENVIRONMENTS}locks/{environment}"


def wish(key: str) -> str:
    """What was found out of a wish for packages."""
    return f"{ENVIRONMENTS}wishes/{key}"


def python(build: str) -> str:
    """Which file has a build of Python."""
    return f"{ENVIRONMENTS}pythons/{build}"


def wheel(sha256: str) -> str:
    """A file of environments, by its content."""
    return f"{ENVIRONMENTS}files/{sha256}"
