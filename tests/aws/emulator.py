"""An emulated AWS in this process, for tests: EC2, S3, SSM, IAM, STS and the quotas.

moto behind a door on the loopback, with what it lacks put over it. One server serves all tests of a
process; each test has an account of its own.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Collection
from typing import Any, Generic, TypeVar, overload

from moto.core.base_backend import BackendDict
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from werkzeug.serving import BaseWSGIServer, make_server

from tests.aws import images, uploads
from tests.aws.calls import Call
from tests.aws.door import Door, Handler, Hook
from tests.aws.faults import Fault, HungUpError
from tests.aws.life import BY_GUEST, BY_SPOT, Life
from tests.aws.overlay import install
from tests.aws.refusals import STATUSES
from tests.aws.world import ACCOUNT, REGION, Machines, World

__all__ = ["Call", "EmulatedAws", "HungUpError", "Life"]

#: An instance profile that exists from the start.
PROFILE = "dayfly-vm"
#: Seconds that a reset waits for requests whose sender has gone.
LAST_REQUESTS = 10.0


T = TypeVar("T")


class Setting(Generic[T]):
    """Something of the account that a test may set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, emulated: None, owner: type) -> Setting[T]: ...

    @overload
    def __get__(self, emulated: EmulatedAws, owner: type) -> T: ...

    def __get__(self, emulated: EmulatedAws | None, owner: type) -> T | Setting[T]:
        if emulated is None:
            return self
        value: T = getattr(emulated.world, self._name)
        return value

    def __set__(self, emulated: EmulatedAws, value: T) -> None:
        setattr(emulated.world, self._name, value)


class EmulatedAws:
    """The emulated account, and all that a test may do to it.

    Args:
        host: The address that it is served on.

    Attributes:
        endpoint: For ``AWS_ENDPOINT_URL``.
        role: The name of an instance profile (and role) that exists.
    """

    region = REGION
    account = ACCOUNT
    role = PROFILE

    def __init__(self, host: str = "127.0.0.1") -> None:
        install()
        uploads.install()
        self._door = Door()
        self._server: BaseWSGIServer = make_server(
            host, 0, self._door, threaded=True, request_handler=Handler
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        atexit.register(self.close)
        self.endpoint = f"http://{host}:{self._server.server_port}"
        self._host = host
        self.reset()

    def close(self) -> None:
        """Stop the server."""
        atexit.unregister(self.close)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reset(self) -> None:
        """A new account: nothing but the default network, Ubuntu's images and one profile."""
        self._door.on_call = None
        # A request that is cut short by the reset would look like the emulator's own failure.
        self._door.wait_until_idle(LAST_REQUESTS)
        self._door.world = World()
        for backends in s3_backends.values():
            # S3 keeps objects in temporary files, which want to be closed.
            backends.reset()
        known: Any = BackendDict
        for backends in list(known._instances):
            backends.clear()
        images.load_parameters(ACCOUNT, REGION)
        self.add_role(PROFILE)

    # What happened

    @property
    def world(self) -> World:
        """Everything that moto does not keep."""
        return self._door.world

    @property
    def calls(self) -> list[Call]:
        """Every request, in the order of arrival."""
        return self.world.calls

    def count(self, action: str) -> int:
        """How often an action was asked for."""
        return sum(call.action == action for call in self.calls)

    @property
    def on_call(self) -> Hook | None:
        """Called before and after each call, in the thread that serves it.

        It may raise :class:`HungUpError`: the connection is cut there.
        """
        return self._door.on_call

    @on_call.setter
    def on_call(self, hook: Hook | None) -> None:
        self._door.on_call = hook

    # How the cloud behaves

    #: Seconds from launch to ``running``.
    pending: Setting[float] = Setting()
    #: Seconds from ``shutting-down`` to ``terminated``.
    shutting_down: Setting[float] = Setting()
    #: Seconds from ``stopping`` to ``stopped``.
    stopping: Setting[float] = Setting()
    #: Seconds for which a new instance is not known, neither by id nor in listings.
    lag: Setting[float] = Setting()
    #: Whether the buckets of requests and of instances are in force.
    throttle: Setting[bool] = Setting()
    #: vCPUs of on-demand instances that may run at once.
    quota_on_demand: Setting[int] = Setting()
    #: vCPUs of spot instances that may run at once.
    quota_spot: Setting[int] = Setting()
    #: The machines behind the instances; ``None``: there is nothing behind them.
    machines: Setting[Machines | None] = Setting()

    def advance(self, seconds: float) -> None:
        """Put the account's clock forward."""
        self.world.skew += seconds

    def capacity(
        self,
        instance_type: str = "*",
        zone: str | None = None,
        *,
        spot: bool | None = None,
        left: int | None,
    ) -> None:
        """Say how many instances a pool has left.

        Args:
            instance_type: ``*``: all types together.
            zone: ``None``: all zones together.
            spot: ``None``: both markets together.
            left: ``None``: no end of them.
        """
        with self.world.lock:
            self.world.pools.limit(instance_type, zone, spot, left)

    def free_addresses(self, subnet: str, left: int) -> None:
        """Say how many addresses a subnet has left."""
        for subnets in self.world.backend.subnets.values():
            if subnet in subnets:
                found = subnets[subnet]
                found._available_ip_addresses += left - found.available_ip_address_count
                return
        raise KeyError(subnet)

    # What goes wrong

    def fail_next(
        self,
        action: str,
        code: str,
        status: int = 0,
        times: int = 1,
        after: bool = False,
        *,
        message: str = "on order",
    ) -> None:
        """Have the next calls of an action fail.

        Args:
            action: ``RunInstances``, ``s3:PutObject``, or ``*`` for any.
            code: The error's.
            status: By default the one that EC2 gives with the code.
            times: How many calls.
            after: Whether the call is done all the same.
            message: The error's.
        """
        status = status or STATUSES.get(code, 400)
        with self.world.lock:
            self.world.faults.ordered.append(Fault(action, code, status, message, times, after))

    def hang_up_next(self, action: str, after: bool, times: int = 1) -> None:
        """Cut the connection of the next calls of an action, before or after doing it."""
        fault = Fault(action, "", 0, "", times, after, hang_up=True)
        with self.world.lock:
            self.world.faults.ordered.append(fault)

    def deny(self, action: str) -> None:
        """Take a permission away: ``ec2:RunInstances``, ``iam:PassRole``, ``s3:*``."""
        self.world.faults.denied.add(action)

    def allow(self, action: str) -> None:
        """Give a permission back."""
        self.world.faults.denied.discard(action)

    def fail_late(
        self,
        which: int | Collection[str] = 1,
        code: str = "Server.InternalError",
        message: str = "Internal error on launch",
    ) -> None:
        """Have instances go from ``pending`` to ``terminated``.

        Args:
            which: Ids, or how many of the next ones.
            code: Of the state reason.
            message: Of the state reason.
        """
        with self.world.lock:
            if isinstance(which, int):
                self.world.dooms += [(code, message)] * which
                return
            for instance_id in which:
                self.world.lives[instance_id].doom = (code, message)

    def guest_poweroff(self, instance_id: str) -> None:
        """Do what a ``poweroff`` inside the instance does."""
        with self.world.lock:
            self.world.settle()
            life = self.world.lives[instance_id]
            end = self.world.end if life.on_poweroff == "terminate" else self.world.halt
            end([life], BY_GUEST)
        if self.machines is not None:
            done = self.machines.terminate if life.over else self.machines.stop
            done([instance_id])

    def interrupt(self, instance_id: str) -> None:
        """Take a spot instance back, now; its pool does not get it again.

        The notice, two minutes before, is in the machine's metadata and not told here.
        """
        world = self.world
        with world.lock:
            world.settle()
            life = world.lives[instance_id]
            assert life.spot, f"{instance_id} is not a spot instance"
            if not life.over:
                life.reclaimed = True
                life.enter("shutting-down", world.now(), self.shutting_down, BY_SPOT)
        if self.machines is not None:
            self.machines.terminate([instance_id])

    # What is there

    def instances(self, *states: str) -> list[Life]:
        """The instances in some states; without any, all of them."""
        self.world.listen()
        with self.world.lock:
            self.world.settle()
            lives = list(self.world.lives.values())
        return [life for life in lives if not states or life.state in states]

    def state(self, instance_id: str) -> str:
        """An instance's state now."""
        return {life.id: life.state for life in self.instances()}[instance_id]

    def tags(self, resource: str) -> dict[str, str]:
        """The tags of anything in EC2."""
        return dict(self.world.backend.tags.get(resource, {}))

    @property
    def crashes(self) -> list[str]:
        """What went wrong in the emulator itself."""
        return list(self.world.crashes)

    def add_foreign_bucket(self, name: str) -> None:
        """Make a bucket of another account that lets everybody do everything."""
        backend: Any = s3_backends[ACCOUNT]["aws"]
        backend.create_bucket(name, REGION)
        self.world.foreign_buckets.add(name)

    @property
    def consoles(self) -> dict[str, str]:
        """Instance id -> what its console says; put there by tests."""
        return self.world.consoles

    def add_role(self, name: str) -> None:
        """Make a role that VMs may have, and its instance profile of the same name."""
        backend: Any = iam_backends[ACCOUNT]["aws"]
        trust = "{}"
        role = backend.create_role(name, trust, "/", None, "", {}, 3600)
        profile = backend.create_instance_profile(name, "/", {})
        profile.roles.append(role)

    def subnets(self) -> dict[str, str]:
        """The default network's subnets: zone -> id."""
        return {
            zone: subnet.id
            for zone, subnets in self.world.backend.subnets.items()
            for subnet in subnets.values()
            if subnet.default_for_az in (True, "true")
        }

    @property
    def image(self) -> str:
        """The newest Ubuntu 22.04 for x86_64."""
        return images.ubuntu()

    @property
    def environment(self) -> dict[str, str]:
        """What a client process must have in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIAEMULATED00000000",
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "NO_PROXY": f"127.0.0.1,localhost,{self._host}",
        }
