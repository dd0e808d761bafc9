"""Carries out the order on standard input."""

from __future__ import annotations

import json
import sys
import traceback

from dayfly.environment.kit import interruption
from dayfly.environment.kit.failure import Failure
from dayfly.environment.kit.interruption import Stopped
from dayfly.environment.kit.record import TAIL, Record
from dayfly.environment.kit.steps import Kit


def main() -> int:
    """Carry it out; returns the status of this process."""
    interruption.listen()
    kit = None
    try:
        order = json.load(sys.stdin)
        kit = Kit(order)
        kit.run()
    except Failure as error:
        failure = error
    except Stopped as stopped:
        failure = Failure("stopped", f"stopped by {stopped}", advice="run it again")
    except (KeyError, ValueError, TypeError) as error:
        if kit is None:
            failure = Failure("order", "the order cannot be read", cause=repr(error))
        else:
            failure = defect()
    except Exception:  # noqa: BLE001 - whatever it is, it is told
        failure = defect()
    else:
        return 0
    interruption.ignore()
    if kit is not None:
        kit.report(failure)
    else:
        Record("kit").tell(failed="order", **failure.told())
    return 1


def defect() -> Failure:
    """The failure that nobody thought of, from the exception at hand."""
    return Failure(
        "defect",
        "dayfly's installer failed in a way that it does not know",
        cause="\n".join(traceback.format_exc().splitlines()[-TAIL:]),
        advice="report it, with the log",
    )


if __name__ == "__main__":
    sys.exit(main())
