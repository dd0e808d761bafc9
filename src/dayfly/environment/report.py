"""What the kit said on a VM, understood: how long each step took, or why it failed."""

from __future__ import annotations

import msgspec

from dayfly.errors import EVERYWHERE, EnvironmentFailedError, ProvisionError


class StepTaken(msgspec.Struct, frozen=True, kw_only=True):
    """A step that ended well.

    Attributes:
        step: Its name.
        seconds: How long it took.
        complete: (lock) The environment was there already.
        needed: (room) Bytes of disk, estimated.
        free: (room) Bytes of disk.
        path: (python) The interpreter.
        brought: (python) The VM did not have it.
        bytes: (fetch) What came from elsewhere.
        sources: (fetch) How many files came from where: ``disk``, ``storage``, ``index``.
        packages: (install) How many.
        files: (deposit) How many files storage was given.
    """

    step: str
    seconds: float
    complete: bool = False
    needed: int = 0
    free: int = 0
    path: str = ""
    brought: bool = False
    bytes: int = 0
    sources: dict[str, int] = msgspec.field(name="from", default_factory=dict)
    packages: int = 0
    files: int = 0


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong on the way and did no harm.

    Attributes:
        note: In one line.
        step: Where.
    """

    note: str
    step: str


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The environment may be used; files may still be on their way to storage.

    Attributes:
        done: Its key.
        python: Path of its interpreter on the VM.
        seconds: For all steps so far.
    """

    done: str
    python: str
    seconds: float


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Why it cannot be had: see :class:`~dayfly.errors.EnvironmentFailedError`."""

    failed: str
    kind: str
    what: str
    package: str = ""
    cause: str = ""
    advice: str = ""


Said = StepTaken | Note | Done | Failed

#: The key of the JSON object by which each is known, the surest first.
_FORMS: tuple[tuple[str, type[Said]], ...] = (
    ("failed", Failed),
    ("done", Done),
    ("note", Note),
    ("step", StepTaken),
)
#: Lines that are shown of what nobody understands.
_TAIL = 12


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that is there.

    Attributes:
        python: Path of its interpreter on the VM.
        seconds: Until it could be used.
        steps: In the order in which they ended.
        notes: What went wrong on the way.
        reused: It was there already.
    """

    python: str
    seconds: float
    steps: tuple[StepTaken, ...]
    notes: tuple[str, ...] = ()
    reused: bool = False


class EnvironmentFailure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An :class:`~dayfly.errors.EnvironmentFailedError` as it travels."""

    what: str
    stage: str = ""
    kind: str = ""
    package: str = ""
    vm: str = ""
    platform: str = ""
    cause: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: ProvisionError) -> EnvironmentFailure:
        """What it says; a plain ``ProvisionError`` is of the one VM."""
        return msgspec.convert(error, cls, from_attributes=True)

    @property
    def everywhere(self) -> bool:
        """See :class:`~dayfly.errors.EnvironmentFailedError`."""
        return self.kind in EVERYWHERE

    def error(self) -> EnvironmentFailedError:
        """To be raised."""
        return EnvironmentFailedError(**msgspec.structs.asdict(self))


def understand(line: str | bytes) -> Said | None:
    """One line of the kit's output; ``None``: something else wrote it."""
    try:
        said = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(said, dict):
        return None
    for key, form in _FORMS:
        if key in said:
            try:
                return msgspec.convert(said, form)
            except msgspec.ValidationError:
                return None
    return None


def read(output: str, *, vm: str, environment: str, status: int | None, errors: str = "") -> Report:
    """Understand all that the kit said.

    Args:
        output: Its standard output, as far as it came.
        vm: Where it ran, as people know it.
        environment: Which one was to be had, as people know it.
        status: With which it ended; ``None``: the connection broke before.
        errors: Its standard error.

    Raises:
        EnvironmentFailedError: It could not be had, or nobody knows.
    """
    steps: list[StepTaken] = []
    notes: list[str] = []
    strange: list[str] = []
    done: Done | None = None
    for line in output.splitlines():
        match understand(line):
            case StepTaken() as step:
                steps.append(step)
            case Note(note=note):
                notes.append(note)
            case Done() as done:
                pass
            case Failed() as failed:
                raise _failure(failed, vm=vm, environment=environment)
            case None:
                strange.append(line)
    if done is None:
        last = steps[-1].step if steps else ""
        seen = "\n".join([*strange, *errors.splitlines()][-_TAIL:])
        raise _broken(vm, environment, status, last, seen)
    return Report(
        python=done.python,
        seconds=done.seconds,
        steps=tuple(steps),
        notes=tuple(notes),
        reused=bool(steps) and steps[0].complete,
    )


def _failure(failed: Failed, *, vm: str, environment: str) -> EnvironmentFailedError:
    return EnvironmentFailedError(
        f"environment {environment} cannot be had on {vm}: {failed.what}",
        stage=failed.failed,
        kind=failed.kind,
        package=failed.package,
        vm=vm,
        cause=failed.cause,
        hint=failed.advice,
    )


def _broken(
    vm: str, environment: str, status: int | None, last: str, seen: str
) -> EnvironmentFailedError:
    """It said neither that it is done nor that it failed."""
    what = f"the installation of environment {environment} on {vm} "
    kind = "broken"
    hint = "try again: what is there already is found"
    if status == 127:
        what += "did not begin: the VM has no python3"
        kind, hint = "interpreter", "choose a target_ami that has a python3"
    elif status is None:
        what += f"was cut off after its {last} step" if last else "was cut off at its beginning"
        what += ": the connection broke"
    elif last:
        what += f"broke off after its {last} step (status {status})"
    else:
        what += f"did not begin (status {status})"
    return EnvironmentFailedError(
        what, stage=last or "start", kind=kind, package="", vm=vm, cause=seen, hint=hint
    )
