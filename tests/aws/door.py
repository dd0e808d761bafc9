"""The HTTP door of the emulated AWS: every request is recognised, recorded and may go wrong."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Literal

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)

from tests.aws.calls import Call, recognise
from tests.aws.faults import HungUpError, decode_message, refuse
from tests.aws.overlay import WORLD
from tests.aws.refusals import STATUSES, error_body
from tests.aws.world import ACCOUNT, REGION, World

Hook = Callable[[Call, Literal["before", "after"]], None]

_CODE = re.compile(rb"<Code>([^<]+)</Code>")
#: Quota codes of EC2: vCPUs of standard instances.
SPOT_QUOTA, ON_DEMAND_QUOTA = "L-34B43A08", "L-1216C47A"


class Handler(MotoRequestHandler):
    """One connection: silent, and without waiting for full packets."""

    disable_nagle_algorithm = True

    def log(self, *args: Any, **kwargs: Any) -> None:
        return


class Reply:
    """An answer that is whole before it is sent."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @classmethod
    def error(cls, service: str, code: str, message: str, status: int) -> Reply:
        body = error_body(service.replace("-", ""), code, message).encode()
        kind = "application/x-amz-json-1.1" if body.startswith(b"{") else "text/xml"
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        headers.append(("x-amzn-errortype", code))
        return cls(f"{status} Emulated", headers, body)

    @property
    def number(self) -> int:
        return int(self.status.split()[0])

    @property
    def code(self) -> str:
        """The error's code; the status where it has no body."""
        if self.number < 400:
            return ""
        found = _CODE.search(self.body)
        if found:
            return found[1].decode()
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(self.body).get("__type", "")).rpartition("#")[2]
        return str(self.number)


class Door:
    """A WSGI application around moto's.

    Attributes:
        world: The account that requests are for; another one for each test.
        on_call: Called before each call is done, and again when it is done and not yet answered.
    """

    def __init__(self) -> None:
        self.world = World()
        self.on_call: Hook | None = None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._idle = threading.Condition()
        self._inside = 0

    def wait_until_idle(self, timeout: float) -> None:
        """Wait for the requests that are being served, whose senders may have gone."""
        with self._idle:
            self._idle.wait_for(lambda: not self._inside, timeout)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._idle:
            self._inside += 1
        try:
            return self._answer(environ, start_response)
        finally:
            with self._idle:
                self._inside -= 1
                self._idle.notify_all()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        world = self.world
        environ[WORLD] = world
        call = recognise(environ, world.now())
        with world.lock:
            world.calls.append(call)
        try:
            reply = self._serve(world, call, environ)
        except HungUpError:
            call.hung_up = True
            _cut(environ)
            # Nobody hears this: the connection is shut.
            reply = Reply("500 Hung up", [("Content-Length", "0")], b"")
        except Exception:  # noqa: BLE001 - whatever it is, the test that asked must hear of it
            world.crashes.append(f"{call.service}:{call.action}\n{traceback.format_exc()}")
            reply = Reply.error(call.service, "InternalError", "the emulator has failed", 500)
            call.status, call.code = reply.number, reply.code
        start_response(reply.status, reply.headers)
        # A HEAD has no body: one that had would put its connection out of step.
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else reply.body]

    def _serve(self, world: World, call: Call, environ: dict[str, Any]) -> Reply:
        self._tell(call, "before")
        with world.lock:
            fault = world.faults.take(call)
        if fault is None or fault.after:
            reply = self._do(world, call, environ)
            call.status, call.code = reply.number, reply.code
            self._tell(call, "after")
        if fault is not None:
            if fault.hang_up:
                raise HungUpError
            call.code, call.status = fault.code, fault.status
            reply = Reply.error(call.service, fault.code, fault.message, fault.status)
            if not fault.after:
                self._tell(call, "after")
        return reply

    def _tell(self, call: Call, moment: Literal["before", "after"]) -> None:
        if self.on_call is not None:
            self.on_call(call, moment)

    def _do(self, world: World, call: Call, environ: dict[str, Any]) -> Reply:
        with world.lock:
            denied = world.faults.denial(call)
            throttled = call.service == "ec2" and world.throttle
            if throttled and not world.buckets.admit(call.action, call.params, world.now()):
                message = "Request limit exceeded."
                return Reply.error("ec2", "RequestLimitExceeded", message, 503)
        if call.service == "ec2" and call.region != REGION:
            message = f"The emulated account has nothing in {call.region}."
            return Reply.error("ec2", "OptInRequired", message, 403)
        if denied:
            status, code, message = refuse(call, denied, ACCOUNT)
            return Reply.error(call.service, code, message, status)
        if call.service == "service-quotas":
            return _quota(world, call)
        if call.action == "DecodeAuthorizationMessage":
            return _decoded(call)
        if call.service == "s3":
            refused = _of_another(world, call)
            if refused is not None:
                return refused
            if "IfNoneMatch" in call.params:
                # moto looks first and writes then; two that come at once could both be first.
                with world.writing:
                    return self._forward(environ)
        return self._forward(environ)

    def _forward(self, environ: dict[str, Any]) -> Reply:
        started: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            started[:] = [status, headers]

        parts = self._moto(environ, start)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        return Reply(started[0], started[1], body)


def _cut(environ: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the client may have gone first
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def _of_another(world: World, call: Call) -> Reply | None:
    """Refuse what the owner of a bucket would have to allow."""
    expected = call.params.get("ExpectedBucketOwner", "")
    foreign = call.params.get("Bucket") in world.foreign_buckets
    if foreign and call.action == "CreateBucket":
        message = "The requested bucket name is not available."
        return Reply.error("s3", "BucketAlreadyExists", message, 409)
    if expected and (foreign or expected != ACCOUNT):
        return Reply.error("s3", "AccessDenied", "Access Denied", 403)
    return None


def _quota(world: World, call: Call) -> Reply:
    """GetServiceQuota for the vCPU quotas of EC2."""
    values = {SPOT_QUOTA: world.quota_spot, ON_DEMAND_QUOTA: world.quota_on_demand}
    code = call.params.get("QuotaCode", "")
    if call.action != "GetServiceQuota" or code not in values:
        message = f"The request failed because there is no quota {code}."
        return Reply.error("service-quotas", "NoSuchResourceException", message, 400)
    quota = {"ServiceCode": "ec2", "QuotaCode": code, "Value": float(values[code])}
    body = json.dumps({"Quota": quota | {"Adjustable": True}}).encode()
    return Reply("200 OK", [("Content-Type", "application/x-amz-json-1.1")], body)


def _decoded(call: Call) -> Reply:
    decoded = decode_message(call.params.get("EncodedMessage", ""))
    if decoded is None:
        code = "InvalidAuthorizationMessageException"
        return Reply.error("sts", code, "The message is not one of ours", STATUSES.get(code, 400))
    name = "DecodeAuthorizationMessage"
    text = decoded.replace("&", "&amp;").replace("<", "&lt;")
    body = (
        f"<{name}Response><{name}Result><DecodedMessage>{text}</DecodedMessage></{name}Result>"
        f"<ResponseMetadata><RequestId>emulated</RequestId></ResponseMetadata></{name}Response>"
    )
    return Reply("200 OK", [("Content-Type", "text/xml")], body.encode())
