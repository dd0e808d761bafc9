"""Fetches one URL into a file: ``python -m tests.machines.download URL ACCEPT FILE``.

A program of its own, since it runs in the network outside of the box. Exit status: 0 when the
file is there, 44 when the server has no such thing, 1 for any other reason.
"""

from __future__ import annotations

import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

MISSING = 44


def main(url: str, accept: str, file: str) -> int:
    """Fetch it."""
    assert url.startswith(("https://", "http://")), url
    asked = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "pip/25"})  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer, Path(file).open("wb") as out:  # noqa: S310
            shutil.copyfileobj(answer, out)
    except urllib.error.HTTPError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return MISSING if error.code in (403, 404, 410) else 1
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
