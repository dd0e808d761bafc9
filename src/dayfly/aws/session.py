"""One account in one region: the clients of its services, opened when they are first used."""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec

from dayfly.aws.errors import in_our_words

#: Seconds to connect, and to wait for each piece of an answer.
CONNECT, READ = 5.0, 60.0
#: Attempts of a call that may be repeated by itself.
ATTEMPTS = 5
#: Connections of one client; more calls than that wait for one.
CONNECTIONS = 50
#: What botocore does otherwise for old programs' sake: in us-east-1 it asks S3's global name,
#: which a VPC's own endpoint for S3 does not answer for.
_S3: Final = {"us_east_1_regional_endpoint": "regional"}

#: How the roles begin that IAM Identity Center makes. Source: its user guide, "Referencing
#: permission sets in resource policies".
_IDENTITY_CENTER: Final = "AWSReservedSSO_"


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Keys that were given by name; empty for the standard chain."""

    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({'given' if self.access_key_id else 'by the standard chain'})"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, as STS knows it."""

    account: str
    arn: str

    @property
    def name(self) -> str:
        """The user, or the role without its session: ``alice``, ``ci-role``, ``root``.

        The roles of IAM Identity Center are everybody's, and their sessions named after the user.
        """
        _, _, path = self.arn.rpartition(":")
        kind, *names = path.split("/")
        if kind == "assumed-role" and names:
            return names[-1] if names[0].startswith(_IDENTITY_CENTER) else names[0]
        return names[-1] if names else kind


class Aws:
    """An account in a region. Whoever opened it closes it.

    Args:
        region: Such as ``us-east-1``.
        credentials: Unless the standard chain is to find them.
        account_id: The account's number, where it is known and need not be asked for.
    """

    def __init__(
        self, region: str, credentials: Credentials | None = None, *, account_id: str = ""
    ) -> None:
        self.region = region
        self._credentials = credentials or Credentials()
        self._account_id = account_id
        self._clients: dict[tuple[str, str, bool], Any] = {}
        self._sessions: Any = None
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._caller: Caller | None = None
        self._asking = asyncio.Lock()

    async def client(self, service: str, *, repeat: bool = True, region: str = "") -> Any:
        """A client of a service, by aioboto3.

        Args:
            service: Such as ``s3``.
            repeat: Whether botocore repeats failed calls by itself; one that is repeated by us
                must not be (an exhausted EC2 pool answers HTTP 500, which botocore repeats).
            region: Unless it is the account's.

        Raises:
            ConfigError: There are no credentials, or the region is none.
        """
        key = (service, region or self.region, repeat)
        # What is there is given away without a turn of the loop.
        if key not in self._clients:
            async with self._opening:
                if key not in self._clients:
                    self._clients[key] = await self._open(*key)
        return self._clients[key]

    async def caller(self) -> Caller:
        """Who calls; asked once.

        Raises:
            ConfigError: There are no credentials, or they are not valid.
        """
        async with self._asking:
            if self._caller is None:
                sts = await self.client("sts")
                with in_our_words("who is calling could not be asked (sts:GetCallerIdentity)"):
                    answer = await sts.get_caller_identity()
                self._caller = Caller(account=answer["Account"], arn=answer["Arn"])
            return self._caller

    async def account(self) -> str:
        """The account's number."""
        return self._account_id or (await self.caller()).account

    async def aclose(self) -> None:
        """Close the clients; one that is asked for later is opened anew."""
        async with self._opening:
            self._clients.clear()
            await self._stack.aclose()

    async def _open(self, service: str, region: str, repeat: bool) -> Any:
        with in_our_words(f"a client of {service} in {region} could not be made"):
            # Some 0.4 s of imports and parsing, beside the loop.
            models = await asyncio.to_thread(importlib.import_module, "dayfly.aws.models")
            if self._sessions is None:
                self._sessions = await asyncio.to_thread(self._new_session, models)
            session, below = self._sessions
            await asyncio.to_thread(models.read_models, below, service)
            config = importlib.import_module("aiobotocore.config").AioConfig(
                connect_timeout=CONNECT,
                read_timeout=READ,
                max_pool_connections=CONNECTIONS,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS if repeat else 1},
                user_agent_extra="dayfly",
                s3=_S3,
                # Presigned URLs would have the version that new regions do not know.
                signature_version="s3v4" if service == "s3" else None,
            )
            client = session.client(service, region_name=region or None, config=config)
            return await self._stack.enter_async_context(client)

    def _new_session(self, models: Any) -> Any:
        keys = self._credentials
        return models.new_session(
            aws_access_key_id=keys.access_key_id or None,
            aws_secret_access_key=keys.secret_access_key or None,
            aws_session_token=keys.session_token or None,
            region_name=self.region or None,
        )
