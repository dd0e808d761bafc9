"""A metadata service for tests, and a program that asks it."""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from tests.aws.imds import TOKEN_HEADER, TTL_HEADER, Keys, MetadataService

#: Counts the keys that were issued.
_issued = itertools.count(1)


def issue(role: str, instance_id: str) -> Keys:
    """Keys that tell whose they are."""
    end = time.time() + 3600
    return Keys(f"ASIA{next(_issued):016}", "secret", f"{role}/{instance_id}", end)


def metadata_service(issue: Callable[[str, str], Keys]) -> MetadataService:
    """The metadata of machines that are all in one zone."""
    return MetadataService(
        region="us-east-1", account="123456789012", zone=lambda _: "us-east-1b", issue=issue
    )


class Asker:
    """A program on an instance that speaks HTTP, over one connection that is kept alive."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
        self._base = parts.path

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, str]:
        self.connection.request(method, f"{self._base}{path}", headers=headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read().decode()

    def token(self) -> str:
        status, token = self.ask("PUT", "/latest/api/token", **{TTL_HEADER: "60"})
        assert status == 200
        return token

    def get(self, path: str, token: str) -> tuple[int, str]:
        return self.ask("GET", f"/latest/{path}", **{TOKEN_HEADER: token})
