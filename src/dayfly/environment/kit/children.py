"""Programs that are run to their end, and what they print."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess

from dayfly.environment.kit.failure import noexec
from dayfly.environment.kit.record import TAIL, scrubbed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from dayfly.environment.kit.record import Record


class Children:
    """Runs programs.

    Args:
        root: Where they run.
        lock: A descriptor that they inherit: whoever waits for it waits for them too.
        record: Where their output is kept.
    """

    def __init__(self, root: Path, lock: int, record: Record) -> None:
        self._root = root
        self._lock = lock
        self._record = record

    def run(self, argv: list[str], extra: dict[str, str] | None = None) -> tuple[int, str]:
        """Run a program to its end: its status, and the last lines of its output.

        Args:
            argv: Its command line.
            extra: Environment variables for it.
        """
        # A user's settings for Python or uv are not for this.
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "UV_", "VIRTUAL_ENV", "PIP_"))
        }
        env.update({"UV_HTTP_TIMEOUT": "30", "UV_HTTP_RETRIES": "2", "NO_COLOR": "1"})
        env.update(extra or {})
        self._record.log("$ " + " ".join(argv[:1] + [word[:80] for word in argv[1:]][:12]))
        try:
            child = subprocess.Popen(
                argv,
                env=env,
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[self._lock],
            )
        except PermissionError:
            raise noexec(str(self._root)) from None
        except OSError as error:
            return 127, f"{argv[0]} cannot be run: {error}"
        tail: collections.deque[str] = collections.deque(maxlen=TAIL)
        try:
            assert child.stdout is not None  # noqa: S101
            for raw in child.stdout:
                line = raw.decode("utf-8", "replace").rstrip()
                self._record.log(f"  {line}"[:2000])
                tail.append(scrubbed(line)[:500])
            return child.wait(), "\n".join(tail)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):  # it had just been waited for
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        finally:
            if child.stdout is not None:
                child.stdout.close()
