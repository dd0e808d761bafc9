"""The container image that functions run in: brought to this VM once."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from dayfly.environment.kit.failure import of_machine, spoken
from dayfly.errors import EnvironmentFailedError
from dayfly.model import Registry
from dayfly.phases import CONTAINER, ENGINE, IMAGE, Timeline
from dayfly.runtimes import HUB, Runtime
from dayfly.worker import spawn
from dayfly.worker.containers import words
from dayfly.worker.containers.contained import LABEL, Contained, Place
from dayfly.worker.containers.engine import Done, Engine, Execute, ensure, run
from dayfly.worker.process import Listener, RunnerProcess

log = logging.getLogger(__name__)

#: Seconds for a login, for an image, and for a first container of it.
LOGIN, PULL, TRIAL = 60.0, 1800.0, 120.0
#: What the first container says: whether it does, which Python the image has.
_TRIAL: Final = (
    "import json, platform, sys; print(json.dumps("
    "[sys.implementation.name, platform.python_version(), list(sys.version_info[:2])]))"
)
#: Folders of credentials.
LOGINS: Final = "login-"
#: The oldest Python that the runner reads on.
OLDEST: Final = [3, 8]
#: Variables of the agent's service that are the functions' business in a container too: which
#: way leads out, and which AWS is meant. No key is among them: VMs have a role.
PASSED: Final = frozenset(
    {"AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"}
    | {"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
)


class ImageEnvironments:
    """The form of :class:`~dayfly.worker.environments.Environments` for a container image.

    The image has the packages: jobs bring none but their local modules.

    Args:
        runtime: The image.
        registry: Where it comes from.
        worker: This VM, as people know it.
        timeline: Where it is told what took how long.
        folder: For what is shared with containers.
        modules: Where local modules are unpacked.
        execute: Runs a command.
    """

    def __init__(
        self,
        runtime: Runtime,
        registry: Registry,
        worker: str,
        timeline: Timeline,
        *,
        folder: Path,
        modules: Path,
        execute: Execute = run,
    ) -> None:
        self._runtime = runtime
        self._registry = registry
        self._worker = worker
        self._timeline = timeline
        self._folder = folder
        self._modules = modules
        self._execute = execute
        self._bringing = asyncio.Lock()
        self._place: Place | None = None
        self._failure: EnvironmentFailedError | None = None
        self._tries = 0
        #: The image, in words; empty while it is not here.
        self.told = ""

    def known(self, key: str, system: Sequence[str] = ()) -> str | None:  # noqa: ARG002
        """See :class:`~dayfly.worker.environments.Environments`."""
        return "" if self._place is not None else None

    def stocked(self, key: str) -> None:
        """See :class:`~dayfly.worker.environments.Environments`."""

    async def begin(self) -> None:
        """See :class:`~dayfly.worker.environments.Environments`."""
        await self.bring("")

    async def bring(self, key: str, system: Sequence[str] = ()) -> str:  # noqa: ARG002
        """See :class:`~dayfly.worker.environments.Environments`."""
        tries = self._tries
        async with self._bringing:
            if self._place is None:
                if self._failure is not None and tries < self._tries:
                    raise self._failure  # it has just been tried for all that waited
                try:
                    self._place = await self._bring()
                except (OSError, ValueError) as error:  # a full disk, say
                    self._failure, self._tries = self._unready(error), self._tries + 1
                    raise self._failure from error
                except EnvironmentFailedError as error:
                    self._failure, self._tries = error, self._tries + 1
                    raise
            return ""

    def start(self, id: int, command: spawn.Command, listener: Listener, /) -> RunnerProcess:  # noqa: A002
        """Start a runner in a container: see :class:`~dayfly.worker.process.Start`."""
        if self._place is None:
            raise OSError(f"the container image {self._runtime.image} is not here")
        return RunnerProcess(id, command, listener, partial(Contained, self._place))

    async def _bring(self) -> Place:
        image = self._runtime.image
        with self._timeline.during(self._worker, ENGINE):
            engine = await ensure(self._worker, self._execute)
        await self._clear(engine)
        with self._timeline.during(self._worker, IMAGE):
            await self._pull(engine)
        found = await self._ask(engine, "image", "inspect", image)
        if found.status:
            raise words.no_image(image, self._registry, found.tail, self._worker)
        (told,) = json.loads(found.output)
        ours = await asyncio.to_thread(_share, self._folder)
        self._modules.mkdir(parents=True, exist_ok=True)
        place = Place(
            engine=engine,
            image=image,
            id=told["Id"],
            gpu=self._runtime.gpu,
            ours=ours,
            modules=self._modules,
            folder=self._folder / "runners",
            environment={name: text for name, text in os.environ.items() if name in PASSED},
        )
        with self._timeline.during(self._worker, CONTAINER):
            python = await self._try(place)
        digests = [each.rpartition("@")[2] for each in told.get("RepoDigests") or ()]
        digest = digests[0] if digests else told["Id"]
        self.told = f"in the container image {image} ({digest}), {python}"
        log.info("%s: functions run %s, by %s", self._worker, self.told, engine.name)
        return place

    def _unready(self, error: Exception) -> EnvironmentFailedError:
        """What this VM itself is to blame for, or words of an engine that nobody knows."""
        where, code = str(self._folder), getattr(error, "errno", None) or 0
        known = of_machine(code, where) or spoken(str(error), where)
        return EnvironmentFailedError(
            f"the container image {self._runtime.image} cannot be used on {self._worker}"
            + (f": {known.what}" if known else ""),
            stage="container",
            kind=known.kind if known else "broken",
            package=self._runtime.image,
            vm=self._worker,
            cause=f"{type(error).__name__}: {error}",
            hint=known.advice
            if known
            else "docker version, and docker image inspect "
            f"{self._runtime.image}, tell more on the worker: dayfly attach",
        )

    async def _clear(self, engine: Engine) -> None:
        """End what an agent that was killed has left, and delete its folders."""
        left = await self._ask(engine, "ps", "--all", "--quiet", "--filter", f"label={LABEL}")
        if ids := left.output.split():
            log.warning("%d containers of an agent before this one are ended", len(ids))
            await self._ask(engine, "rm", "--force", *ids)
        runners = self._folder / "runners"
        logins = map(str, self._folder.glob(f"{LOGINS}*"))
        *root, _ = engine.command
        await self._execute([*root, "rm", "-rf", "--", str(runners), *logins], b"", LOGIN)
        runners.mkdir(parents=True)
        runners.chmod(0o700)

    async def _pull(self, engine: Engine) -> None:
        image, registry = self._runtime.image, self._registry
        # The credentials are on the disk for no longer than it takes, and nobody else's to read.
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=LOGINS) as folder:
            command = engine.login_file(folder)
            try:
                if registry.user:
                    login = [*command, "login", "--username", registry.user, "--password-stdin"]
                    if registry.server != HUB or engine.name != "docker":  # which is docker's own
                        login.append(registry.server)
                    done = await self._execute(login, registry.password.encode(), LOGIN)
                    if done.status != 0:
                        raise words.no_login(image, registry, done.tail, self._worker)
                done = await self._execute([*command, "pull", image], b"", PULL)
            finally:
                # What root has written there.
                *root, _ = engine.command
                await self._execute([*root, "rm", "-rf", "--", folder], b"", LOGIN)
                await asyncio.to_thread(Path(folder).mkdir, exist_ok=True)
        log.info("pull %s: %s\n%s", image, done.status, (done.output + done.errors).strip())
        if done.status != 0:
            lost = self._runtime.login and not registry.user
            word = words.lost_login if lost else words.no_image
            error = word(image, registry, done.tail, self._worker)
            if (await self._ask(engine, "image", "inspect", image)).status != 0:
                raise error
            log.warning("the image that is here already is used: %s", error)

    async def _try(self, place: Place) -> str:
        """Run a first container; returns its Python, in words."""
        arguments = ("run", *place.limits, place.id, "-c", _TRIAL)
        done = await self._execute([*place.engine.command, *arguments], b"", TRIAL)
        if done.status != 0:
            what, hint = words.no_container(place.image, done.status, done.errors)
            raise EnvironmentFailedError(
                what,
                stage="container",
                kind="interpreter",
                package=place.image,
                vm=self._worker,
                cause=done.tail,
                hint=hint or f"docker run --rm --entrypoint python3 {place.image} -V tells more",
            )
        # The image may greet first (sitecustomize).
        name, version, minor = json.loads(done.output.rstrip().rpartition("\n")[2])
        if minor < OLDEST:
            raise EnvironmentFailedError(
                f"the Python of the container image {place.image} is {version}",
                stage="container",
                kind="interpreter",
                package=place.image,
                vm=self._worker,
                cause="what runs functions in it needs Python 3.8 or later",
                hint="use an image with the Python of this program",
            )
        return f"{'Python' if name == 'cpython' else name} {version}"

    async def _ask(self, engine: Engine, *arguments: str) -> Done:
        return await self._execute([*engine.command, *arguments], b"", LOGIN)


def _share(folder: Path) -> Path:
    """Copy dayfly and cloudpickle to where anybody may read them, as a container's user must."""
    ours = folder / "ours"
    shutil.rmtree(ours, ignore_errors=True)
    for name in ("dayfly", "cloudpickle"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(Path(spec.origin).parent, ours / name, ignore=skipped)
    for path in (folder, ours, *ours.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return ours
