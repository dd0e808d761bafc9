"""``image build``: one VM becomes a machine image.

The VM is launched from the configured image, given what every master and worker is given, and
what the user's script does; what makes it differ from others is taken away; it is stopped, and an
image is made of its disk. Whatever happens, the VM is ended: here, by its own deadline, or by the
next client that finds its client gone. An image carries its tags from birth, so that one which was
begun is found, and is either whole in the end or deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import msgspec

from dayfly import baking, provision
from dayfly.baked import NAME, NONE, Contents, MachineImage
from dayfly.baking import Include, Text
from dayfly.client.ascent import Ascender, last_words
from dayfly.client.ground import python
from dayfly.client.imagecapture import Capture
from dayfly.client.outfit import Packages
from dayfly.cloud.base import Imaging
from dayfly.environment import system
from dayfly.environment.lock import Lock
from dayfly.environment.order import Order
from dayfly.environment.report import Report, read
from dayfly.errors import (
    CommandError,
    ConfigError,
    DayflyError,
    ProvisionError,
    ShellError,
    UsageError,
)
from dayfly.model import DismantlePolicy, ExecMode, Instance
from dayfly.parts import Parts
from dayfly.shell.base import Connection
from dayfly.stock import Stock

#: Seconds for short steps, and for all that is installed.
SHORT, LONG = 120.0, 1800.0
#: Lines that a failure of the user's script shows.
SHOWN = 20

Told = Callable[[str], None]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """An image to be built.

    Attributes:
        name: What people will call it; empty: one that says what is in it.
        script: Run on it as root.
        includes: What is put there before.
        instance_type: Of the builder; empty: that of the workers.
        overwrite: Whether images of this name are deleted once this one is available.
    """

    name: str = ""
    script: Path | None = None
    includes: tuple[Include, ...] = ()
    instance_type: str = ""
    overwrite: bool = False


def imaging_of(parts: Parts) -> Imaging:
    """The images of a cloud.

    Raises:
        UsageError: It has none.
    """
    if parts.cloud.imaging is None:
        raise UsageError(
            f"the backend {parts.cloud.name} has no machine images",
            cause="its VMs are processes that run this machine's own Python: nothing is installed "
            "on them that an image could hold",
            hint="-b aws_ec2",
        )
    return parts.cloud.imaging


class Builder:
    """Builds one image.

    Args:
        parts: Where.
        wish: Which.
        told: Called with each thing done, and each line that the user's script prints.
    """

    def __init__(self, parts: Parts, wish: Wish, told: Told) -> None:
        self._parts = parts
        self._wish = wish
        self._told = told
        self._imaging = imaging_of(parts)
        self._stock = Stock(parts.storage)

    async def build(self) -> MachineImage:
        """Build it; returns when VMs can be launched from it.

        Raises:
            UsageError: There is one of this name, or the script cannot be read.
            ConfigError: No image can be built with this configuration.
            ProvisionError: A step on the VM failed.
            CloudError: The cloud refused.
            EnvironmentSyncError: The VM cannot be given what dayfly needs.
        """
        script = self._read_script()
        parts, compute = self._parts, self._parts.config.compute
        if compute.exec_mode is ExecMode.CONSUME or compute.environment == "image":
            key = "exec_mode: consume" if compute.environment != "image" else "environment: image"
            raise ConfigError(
                f"no image is built with {key}",
                cause="nothing is installed on such VMs, so there is nothing to put into an image",
                hint="leave the key out for the building: dayfly image build -c FILE",
            )
        ascender = await Ascender.prepare(parts)
        await ascender.cluster.sweep()
        instance_type = self._wish.instance_type or compute.worker_instance_types[0]
        ours, packages = await asyncio.gather(
            ascender.outfitter.ours(instance_type), ascender.outfitter.packages(instance_type)
        )
        assert ours is not None  # noqa: S101  # environment: image was refused above
        for text in packages.admit(()):
            self._told(f"warning: {text}")
        name = self._wish.name or self._default_name(ours, packages)
        old = await self._others(name)
        contents = Contents(
            kit=ours.key,
            packages=packages.key or NONE,
            apt=compute.system_packages,
            platform=ours.platform.name,
            base=self._imaging.base,
            python=python(),
            version=version("dayfly"),
        )
        async with self._builder(ascender, instance_type, name) as instance:
            await self._furnish(ascender, instance, script, ours, packages)
            capture = Capture(parts, self._imaging, self._told)
            await capture.stop(instance)
            image = await capture.create(instance, name, contents, ascender.access.cluster)
        for each in old:
            users = await self._imaging.users(each)
            await self._imaging.delete(each)
            more = f"; {len(users)} VMs go on running from it" if users else ""
            self._told(f"deleted the image that it replaces, {each.id}{more}")
        return image

    # -- before anything is launched --

    def _read_script(self) -> bytes:
        if self._wish.script is None:
            return b""
        try:
            text = self._wish.script.expanduser().read_bytes()
        except OSError as error:
            raise UsageError(
                f"the script {self._wish.script} cannot be read: {error.strerror}"
            ) from error
        if text.startswith(b"#!") and text.partition(b"\n")[0].endswith(b"\r"):
            raise UsageError(
                f"the script {self._wish.script} has line ends of Windows",
                cause="its first line names an interpreter that ends in a carriage return",
                hint=f"sed -i 's/\\r$//' {self._wish.script}",
            )
        return text if text.startswith(b"#!") else b"#!/bin/sh\n" + text

    def _default_name(self, ours: Lock, packages: Packages) -> str:
        return f"dayfly-py{python()}-{(packages.key or ours.key)[:8]}"

    async def _others(self, name: str) -> list[MachineImage]:
        """The images of this name that this one is to replace.

        Raises:
            UsageError: There are such, and they are not to be replaced; or nothing can have it.
        """
        if not NAME.fullmatch(name) or name.startswith("ami-"):
            raise UsageError(
                f"an image cannot be called {name!r}",
                cause="letters, digits and ().-/'@_ make a name of 3 to 116 characters, "
                "which does not begin as an id does",
            )
        found = [image for image in await self._imaging.images() if image.name == name]
        if not self._wish.overwrite and any(not image.broken for image in found):
            raise UsageError(
                f"there is an image {name} already: {found[0].id}, {found[0].state}",
                hint=f"dayfly image build {name} --overwrite, or another name",
            )
        return found

    # -- the VM --

    @asynccontextmanager
    async def _builder(
        self, ascender: Ascender, instance_type: str, name: str
    ) -> AsyncIterator[Instance]:
        """A VM that is ended in any case."""
        parts = self._parts
        began = parts.clock.monotonic()
        # It ends by itself even where VMs are not to, since nobody is to use it.
        policy = DismantlePolicy(hard=parts.config.compute.hard_dismantle_timeout)
        launching = asyncio.ensure_future(
            ascender.cluster.launches.builder(instance_type, name, policy)
        )
        try:
            instance = await asyncio.shield(launching)
        except asyncio.CancelledError:
            # A launch is never cut in two: who knows what came of it?
            with suppress(DayflyError):
                await parts.cloud.terminate([(await launching).id])
            raise
        price = "" if instance.hourly is None else f", ${instance.hourly:.4f} per hour"
        self._told(f"launched {instance.id}, {instance.instance_type}{price}")
        try:
            until = began + parts.config.compute.start_timeout
            yield await ascender.cluster.bring_up(instance, until)
        finally:
            ending = asyncio.ensure_future(parts.cloud.terminate([instance.id]))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                await ending
                raise
            self._told(f"terminated {instance.id}")

    async def _furnish(
        self,
        ascender: Ascender,
        instance: Instance,
        script: bytes,
        ours: Lock,
        packages: Packages,
    ) -> None:
        parts, compute = self._parts, self._parts.config.compute
        target = provision.target_of(instance, ascender.access, compute.ssh_username)
        try:
            connection = await provision.reach(
                parts.shell,
                target,
                deadline=parts.clock.monotonic() + compute.start_timeout,
                clock=parts.clock,
                entropy=parts.entropy,
            )
        except ShellError as error:
            said = await last_words(parts.cloud, instance.id)
            raise type(error)(
                error.what, cause=f"{error.cause}\n    {said}".strip(), hint=error.hint
            ) from error
        try:
            await self._do("the VM answers SSH; it boots to its end", connection, baking.SETTLE)
            package = parts.package()
            await self._do("dayfly is laid down", connection, baking.lay(package))
            if compute.system_packages:
                await self._install_system(connection, instance, ours)
            for include in self._wish.includes:
                await self._include(connection, include)
            if script:
                await self._run_script(connection, script)
            environments = [ours.key]
            order = await ascender.outfitter.order(instance.instance_type)
            if order is not None:
                await self._install(connection, instance, order, "dayfly's own packages")
            if packages.key:
                environments.append(packages.key)
                await self._install(
                    connection, instance, await self._order(ascender, packages), "your packages"
                )
            compile_all = baking.compile_all(package, environments)
            await self._do("Python compiles them", connection, compile_all, timeout=LONG)
            await self._do("what is the builder's own is removed", connection, baking.CLEAN)
        finally:
            await connection.aclose()

    async def _order(self, ascender: Ascender, packages: Packages) -> Order:
        lock = await self._stock.find(packages.key)
        if lock is None:
            raise ProvisionError(
                f"the environment {packages.key} is not in storage any more",
                cause="somebody has deleted it just now",
                hint="dayfly image build again",
            )
        outfitter = ascender.outfitter
        return await self._stock.order(
            lock,
            name=packages.key[:8],
            interpreters=outfitter.interpreters,
            index=outfitter.index,
        )

    async def _do(
        self,
        what: str,
        connection: Connection,
        text: Text | str,
        *,
        timeout: float = SHORT,
    ) -> None:
        """One step on the VM.

        Raises:
            ProvisionError: It failed.
        """
        text = Text(script=text) if isinstance(text, str) else text
        began = self._parts.clock.monotonic()
        try:
            done = await connection.run(text.script, stdin=text.stdin, timeout=timeout)
        except CommandError as error:
            raise ProvisionError(
                f"the image cannot be built: {what}: {error.what}", cause=error.cause
            ) from error
        if done.status != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-SHOWN:]
            raise ProvisionError(
                f"the image cannot be built: {what} (exit status {done.status})",
                cause="\n    ".join(said) or "it printed nothing",
            )
        self._told(f"{what} ({self._parts.clock.monotonic() - began:.1f} s)")

    async def _install_system(self, connection: Connection, instance: Instance, ours: Lock) -> None:
        packages = self._parts.config.compute.system_packages
        began = self._parts.clock.monotonic()
        done = await connection.run(
            f"exec 2>&1; {system.script(packages)}", timeout=system.DEADLINE + SHORT
        )
        failed = system.failure(
            done.status, done.stdout, packages, vm=instance.name, platform=ours.platform.name
        )
        if failed is not None:
            raise failed
        took = self._parts.clock.monotonic() - began
        self._told(f"the system has {', '.join(packages)} ({took:.1f} s)")

    async def _include(self, connection: Connection, include: Include) -> None:
        what = f"{include.source} is put at {include.target}"
        began, size = self._parts.clock.monotonic(), 0
        blocks = baking.archive(include)
        command = baking.TAKE_FIRST
        while True:
            try:
                block = await asyncio.to_thread(next, blocks, None)
            except OSError as error:
                raise UsageError(f"{include.source} cannot be read: {error}") from error
            if block is None:
                break
            size += len(block)
            done = await connection.run(command, stdin=block, timeout=LONG)
            command = baking.TAKE_MORE
            if done.status != 0:
                raise ProvisionError(f"the image cannot be built: {what}", cause=done.stderr)
        done = await connection.run(baking.UNPACK, timeout=LONG)
        if done.status != 0:
            raise ProvisionError(f"the image cannot be built: {what}", cause=done.stderr)
        took = self._parts.clock.monotonic() - began
        self._told(f"{what} ({size / 1e6:,.1f} MB, {took:.1f} s)")

    async def _run_script(self, connection: Connection, script: bytes) -> None:
        name = self._wish.script.name if self._wish.script else "script"
        limit = self._parts.config.compute.hard_dismantle_timeout
        tail: list[str] = []

        def heard(said: bytes) -> None:
            line = said.decode(errors="replace")
            tail.append(line)
            del tail[:-SHOWN]
            self._told(f"  {name}: {line}")

        self._told(f"{name} runs, as root")
        began = self._parts.clock.monotonic()
        status: int | str
        try:
            done = await connection.run(baking.RUN_SCRIPT, stdin=script, timeout=limit, heard=heard)
            status = done.status
        except CommandError:
            status = f"none after {limit:.0f} s, hard_dismantle_timeout"
        if status != 0:
            raise ProvisionError(
                f"the image cannot be built: {name} failed (exit status {status})",
                cause="\n    ".join(tail) or "it printed nothing",
                hint="correct the script; nothing of this image is left",
            )
        self._told(f"{name} ended well ({self._parts.clock.monotonic() - began:.1f} s)")

    async def _install(
        self, connection: Connection, instance: Instance, order: Order, what: str
    ) -> Report:
        order = msgspec.structs.replace(order, durable=True)
        done = await connection.run(
            baking.KIT, stdin=order.encode(), timeout=order.deadline + SHORT
        )
        report = read(
            done.stdout,
            vm=instance.name,
            environment=order.name,
            status=done.status,
            errors=done.stderr,
        )
        for note in report.notes:
            self._told(f"warning: {note}")
        self._told(f"{what}: {len(order.files)} installed ({report.seconds:.1f} s)")
        return report
