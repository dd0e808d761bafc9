"""The address from which the caller's connections reach the Internet."""

from __future__ import annotations

import ipaddress
from typing import Final

import aiohttp

from dayfly.errors import ConfigError

#: Amazon's own; it answers with the caller's IPv4 address, and nothing else.
CHECK_URL: Final = "https://checkip.amazonaws.com"
#: Seconds for the whole question.
DEADLINE: Final = 5.0
#: Bytes that an address can have, and more than any.
_LONGEST: Final = 64


async def public_address(url: str = CHECK_URL, *, deadline: float = DEADLINE) -> str:
    """The caller's public address.

    Args:
        url: Who is asked.
        deadline: Seconds for the answer.

    Raises:
        ConfigError: Nobody could tell, so the configuration must.
    """
    try:
        timeout = aiohttp.ClientTimeout(total=deadline)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            answer.raise_for_status()
            told = (await answer.content.read(_LONGEST)).decode("ascii", "replace").strip()
        return str(ipaddress.ip_address(told))
    except TimeoutError:
        cause = f"{url} did not answer within {deadline:g} s"
    except aiohttp.ClientError as error:
        cause = f"{url}: {error}"
    except ValueError:
        cause = f"{url} answered {told!r}, which is no address"
    raise ConfigError(
        "this machine's public address, from which SSH is to be let in, could not be found out",
        cause=cause,
        hint="give it in [aws_ec2] ssh_cidr, e.g. 203.0.113.7/32",
    )
