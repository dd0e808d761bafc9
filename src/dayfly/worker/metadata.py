"""EC2's metadata service, by IMDSv2: what a VM is told of itself, with a token for every question.

Source: EC2 user guide, "Use the Instance Metadata Service" and "Instance identity documents".
"""

from __future__ import annotations

import logging
import os

import aiohttp
import msgspec

from dayfly.errors import ProvisionError

log = logging.getLogger(__name__)

#: The instance's own address of the service.
ADDRESS = "http://169.254.169.254"
#: Variables that name another one: ours, and that of AWS's own libraries.
ELSEWHERE = ("DAYFLY_METADATA", "AWS_EC2_METADATA_SERVICE_ENDPOINT")
#: Seconds for one answer.
ANSWER = 2.0
#: Seconds for which a token is asked; the most that there is.
TOKEN = 21600
_IDENTITY = "latest/dynamic/instance-identity/document"


def address() -> str:
    """Where the service is; empty on a VM that has none."""
    for name in ELSEWHERE:
        if given := os.environ.get(name):
            return given.rstrip("/")
    return "" if os.environ.get("DAYFLY_ROOT") else ADDRESS


class Imds:
    """The service, over one connection that the caller opens and closes.

    Args:
        session: The connection; its timeout is that of each question.
        address: Where the service is.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address
        self._token = ""

    async def get(self, path: str) -> bytes:
        """What there is at a path; empty for nothing, and where a token's time was over.

        Raises:
            aiohttp.ClientError, TimeoutError: It does not answer, or not as it should.
        """
        if not self._token:
            lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN)}
            url = f"{self._address}/latest/api/token"
            async with self._session.put(url, headers=lifetime) as answer:
                answer.raise_for_status()
                self._token = await answer.text()
        headers = {"X-aws-ec2-metadata-token": self._token}
        async with self._session.get(f"{self._address}/{path}", headers=headers) as answer:
            if answer.status == 401:  # its time is over
                self._token = ""
                return b""
            if answer.status == 404:
                return b""
            answer.raise_for_status()
            return await answer.read()


def connection() -> aiohttp.ClientSession:
    """A connection for :class:`Imds`."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER))


class Identity(msgspec.Struct, rename="camel"):
    """Who a VM is, as EC2 knows it."""

    instance_id: str
    instance_type: str = ""
    availability_zone: str = ""


async def confirm(instance: str, where: str) -> None:
    """See that this VM is the one that a configuration was made for.

    A disk that was copied, as into a machine image, brings another VM's configuration along.
    A service that does not answer is told of, and nothing more.

    Args:
        instance: The id in the configuration.
        where: Address of the metadata service.

    Raises:
        ProvisionError: It is another one.
    """
    try:
        async with connection() as session:
            told = await Imds(session, where).get(_IDENTITY)
        own = msgspec.json.decode(told, type=Identity)
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
        log.warning("%s does not tell which VM this is: %r", where, error)
        return
    if own.instance_id != instance:
        raise ProvisionError(
            f"this VM is {own.instance_id}, and not {instance}, which its configuration is for",
            cause=f"so says {where}/{_IDENTITY}",
            hint="its disk may be a copy; dayfly clean ends VMs of ours that nobody needs",
        )
    log.info("this is %s, a %s in %s", instance, own.instance_type, own.availability_zone)
