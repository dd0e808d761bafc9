"""Ending instances of which EC2 may not know all: those that it knows are ended all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from dayfly.cloud.ec2.api import Ec2Api, meaning, message_of
from dayfly.cloud.ec2.instances.listing import Listing
from dayfly.cloud.ec2.reactions import Kind
from dayfly.errors import ApiError

#: Ids per call; EC2 takes 1,000.
CHUNK: Final = 500
#: Seconds between two attempts at what EC2 does not know yet.
_PAUSE: Final = 2.0


async def terminate(api: Ec2Api, listing: Listing, ids: Sequence[str]) -> None:
    """Terminate instances. One that EC2 does not know is gone, unless it was launched just now.

    Args:
        api: Who asks.
        listing: Knows which ones were launched just now.
        ids: Which ones.
    """
    left = list(dict.fromkeys(ids))
    while left:
        chunks = [left[start : start + CHUNK] for start in range(0, len(left), CHUNK)]
        unknown = await asyncio.gather(*(_end(api, chunk) for chunk in chunks))
        missing = {one for some in unknown for one in some}
        listing.ended(one for one in left if one not in missing)
        # EC2 does not know at once what it has just launched; left alone, it would run.
        left = sorted(listing.young(missing))
        if left:
            api.told(f"EC2 does not know {len(left)} new instances yet, which are to end")
            await api.clock.sleep(_PAUSE)


async def _end(api: Ec2Api, ids: list[str]) -> list[str]:
    """Terminate those that EC2 knows; returns the others."""
    try:
        await api.call("terminate_instances", InstanceIds=ids)
    except ApiError as error:
        if meaning(error).kind is not Kind.ABSENT:
            raise
        # One unknown id, and none is terminated.
        message = message_of(error)
        unknown = [each for each in ids if each in message]
        if len(ids) == 1:
            return ids
        if not unknown:
            middle = len(ids) // 2
            halves = await asyncio.gather(_end(api, ids[:middle]), _end(api, ids[middle:]))
            return [*halves[0], *halves[1]]
        known = [each for each in ids if each not in unknown]
        return [*unknown, *(await _end(api, known) if known else [])]
    return []
