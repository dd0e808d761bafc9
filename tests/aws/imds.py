"""EC2's instance metadata service (IMDSv2 only) for machines that are emulated.

One server answers for all of them: it tells who asks by the first part of the path, so that
each machine has an endpoint of its own, to be named by ``AWS_EC2_METADATA_SERVICE_ENDPOINT``.

Source: the EC2 user guide, "Use the Instance Metadata Service to access instance metadata",
"Instance metadata categories" and "Spot Instance interruption notices".
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

TOKEN_HEADER = "X-aws-ec2-metadata-token"
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
LONGEST_TTL = 21600

#: Seconds before their end at which a role's keys are replaced ("at least five minutes").
_RENEWAL = 600.0


class Keys(NamedTuple):
    """A role's temporary keys."""

    access_key_id: str
    secret_access_key: str
    token: str
    expires_at: float


class Request(NamedTuple):
    """One request, and how it was answered; the path is that below the machine's endpoint."""

    instance: str
    method: str
    path: str
    status: int


@dataclass
class Subject:
    """The machine that the metadata are about.

    Attributes:
        profile: The name of its instance profile, and so of its role; empty: it has none.
        interrupted_at: When the cloud takes it back; ``None`` while nothing is announced.
        rebalance_at: When a rebalance was recommended; ``None`` if it was not.
        tokens: Those handed out to it -> until when they hold, on the monotonic clock.
    """

    id: str
    instance_type: str
    user_data: str
    profile: str
    launched_at: float
    address: str = ""
    interrupted_at: float | None = None
    rebalance_at: float | None = None
    keys: Keys | None = None
    tokens: dict[str, float] = field(default_factory=dict)


class MetadataService:
    """The metadata of every machine, served on a loopback address within a ``with``.

    Args:
        region: Where the machines are.
        account: Whose they are.
        zone: Tells a machine's availability zone, by its id.
        issue: Makes a machine's keys, by its role's name and its id.
        listen: Address and port to be served on; port 0: any that is free.
    """

    def __init__(
        self,
        *,
        region: str,
        account: str,
        zone: Callable[[str], str],
        issue: Callable[[str, str], Keys],
        listen: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.region = region
        self.account = account
        self.requests: list[Request] = []
        self._zone = zone
        self._issue = issue
        self._subjects: dict[str, Subject] = {}
        self._lock = threading.Lock()
        self._server = _Server(listen, _Handler)
        self._server.service = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="imds", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()  # joins the threads of the connections

    def endpoint(self, instance_id: str) -> str:
        """What a machine calls this service."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{instance_id}"

    def add(self, instance_id: str, instance_type: str, user_data: str, profile: str) -> None:
        """Answer for one more machine."""
        self._subjects[instance_id] = Subject(
            instance_id, instance_type, user_data, profile, launched_at=time.time()
        )

    def user_data(self, instance_id: str) -> str:
        """What a machine is told to become."""
        return self._subjects[instance_id].user_data

    def locate(self, instance_id: str, address: str) -> None:
        """Tell a machine its address."""
        self._subjects[instance_id].address = address

    def announce(self, instance_id: str, at: float) -> None:
        """Announce that a spot instance will be taken back, in seconds since the epoch."""
        self._subjects[instance_id].interrupted_at = at

    def recommend(self, instance_id: str) -> None:
        """Recommend to rebalance, as EC2 does when an interruption has become likely."""
        self._subjects[instance_id].rebalance_at = time.time()

    def forget_tokens(self, instance_id: str) -> None:
        """Let every token of a machine end now, as if its time were over."""
        self._subjects[instance_id].tokens.clear()

    def count(self, path: str = "", *, instance_id: str = "") -> int:
        """How many requests there were for paths that contain ``path``, from one machine or all."""
        return sum(
            path in request.path and instance_id in ("", request.instance)
            for request in self.requests.copy()
        )

    def below(self, peer: str, path: str) -> str:
        """The path that is meant, below the asking machine's endpoint."""
        return path

    def answer(
        self, method: str, target: str, headers: Mapping[str, str]
    ) -> tuple[HTTPStatus, str, dict[str, str]]:
        """Answer a request with a status, a text and headers."""
        instance_id, _, path = target.lstrip("/").partition("/")
        more: dict[str, str] = {}
        with self._lock:
            subject = self._subjects.get(instance_id)
            if subject is None:
                status, text = HTTPStatus.NOT_FOUND, ""
            elif method == "PUT" and path == "latest/api/token":
                status, text, more = _hand_out_token(subject, headers)
            else:
                status, text = self._read(subject, path, headers)
            self.requests.append(Request(instance_id, method, path, status))
        return status, text, more

    def _read(
        self, subject: Subject, path: str, headers: Mapping[str, str]
    ) -> tuple[HTTPStatus, str]:
        if subject.tokens.get(headers.get(TOKEN_HEADER, ""), 0.0) <= time.monotonic():
            return HTTPStatus.UNAUTHORIZED, ""
        leaves = self._leaves(subject)
        path = path.rstrip("/")
        if path in leaves:
            return HTTPStatus.OK, leaves[path]()
        folder = f"{path}/"
        within = (leaf for leaf in sorted(leaves) if leaf.startswith(folder))
        names = dict.fromkeys(_first(leaf, folder) for leaf in within)
        return (HTTPStatus.OK, "\n".join(names)) if names else (HTTPStatus.NOT_FOUND, "")

    def _leaves(self, subject: Subject) -> dict[str, Callable[[], str]]:
        """Every text that a machine can read: path -> what makes it."""
        metadata: dict[str, Callable[[], str]] = {
            "hostname": lambda: _hostname(subject.address),
            "instance-id": lambda: subject.id,
            "instance-type": lambda: subject.instance_type,
            "local-hostname": lambda: _hostname(subject.address),
            "local-ipv4": lambda: subject.address,
            "placement/availability-zone": lambda: self._zone(subject.id),
            "placement/region": lambda: self.region,
            "public-ipv4": lambda: subject.address,
        }
        if subject.profile:
            metadata["iam/info"] = lambda: self._profile(subject)
            metadata[f"iam/security-credentials/{subject.profile}"] = lambda: self._keys(subject)
        if subject.rebalance_at is not None:
            notice = {"noticeTime": _date(subject.rebalance_at)}
            metadata["events/recommendations/rebalance"] = lambda: json.dumps(notice)
        if subject.interrupted_at is not None:
            at = _date(subject.interrupted_at)
            action = {"action": "terminate", "time": at}
            metadata["spot/instance-action"] = lambda: json.dumps(action)
            metadata["spot/termination-time"] = lambda: at
        leaves = {f"latest/meta-data/{name}": make for name, make in metadata.items()}
        leaves["latest/dynamic/instance-identity/document"] = lambda: self._identity(subject)
        if subject.user_data:
            leaves["latest/user-data"] = lambda: subject.user_data
        return leaves

    def _profile(self, subject: Subject) -> str:
        arn = f"arn:aws:iam::{self.account}:instance-profile/{subject.profile}"
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": _date(subject.launched_at),
                "InstanceProfileArn": arn,
                "InstanceProfileId": "AIPAEMULATEDEMULATED0",
            }
        )

    def _keys(self, subject: Subject) -> str:
        now = time.time()
        if subject.keys is None or subject.keys.expires_at - now < _RENEWAL:
            subject.keys = self._issue(subject.profile, subject.id)
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": _date(now),
                "Type": "AWS-HMAC",
                "AccessKeyId": subject.keys.access_key_id,
                "SecretAccessKey": subject.keys.secret_access_key,
                "Token": subject.keys.token,
                "Expiration": _date(subject.keys.expires_at),
            }
        )

    def _identity(self, subject: Subject) -> str:
        return json.dumps(
            {
                "accountId": self.account,
                "availabilityZone": self._zone(subject.id),
                "instanceId": subject.id,
                "instanceType": subject.instance_type,
                "pendingTime": _date(subject.launched_at),
                "privateIp": subject.address,
                "region": self.region,
                "version": "2017-09-30",
            }
        )


def _hand_out_token(
    subject: Subject, headers: Mapping[str, str]
) -> tuple[HTTPStatus, str, dict[str, str]]:
    if headers.get("X-Forwarded-For"):
        return HTTPStatus.FORBIDDEN, "", {}
    ttl = headers.get(TTL_HEADER, "")
    if not ttl.isdecimal() or not 1 <= int(ttl) <= LONGEST_TTL:
        return HTTPStatus.BAD_REQUEST, "", {}
    token = secrets.token_urlsafe(40)
    subject.tokens[token] = time.monotonic() + int(ttl)
    return HTTPStatus.OK, token, {TTL_HEADER: ttl}


def _hostname(address: str) -> str:
    return f"ip-{address.replace('.', '-')}.ec2.internal"


def _first(leaf: str, folder: str) -> str:
    """What a listing of a folder says of one of its leaves; a folder in it ends with a slash."""
    name, slash, _ = leaf.removeprefix(folder).partition("/")
    return name + slash


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Server(ThreadingHTTPServer):
    # Connections are kept alive by who asks often: each has its thread, which ends with it.
    daemon_threads = False
    request_queue_size = 128
    service: MetadataService

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that are still open."""
        for connection in self._open.copy():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # its thread was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a machine died while it was told
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "EC2ws", ""
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def _answer(self) -> None:
        service = cast("_Server", self.server).service
        status, text, more = service.answer(
            self.command,
            service.below(str(self.client_address[0]), self.path),
            cast("Mapping[str, str]", self.headers),
        )
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # they are counted
