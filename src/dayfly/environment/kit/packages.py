"""The packages: installed by uv from files that are here, and imported once."""

from __future__ import annotations

import os
import platform
import re
import signal

from dayfly.environment.kit.failure import Failure, spoken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from dayfly.environment.kit.children import Children
    from dayfly.environment.kit.home import Home
    from dayfly.environment.kit.uv import Uv
    from dayfly.environment.kit.wheels import Wheels

# The name of each is told before it is imported: one that crashes the interpreter is named too.
IMPORTS = """
import importlib, sys, traceback
for name in sys.argv[1:]:
    print("importing", name, flush=True)
    try:
        importlib.import_module(name)
    except BaseException:
        traceback.print_exc()
        sys.exit("failed " + name)
"""


class Packages:
    """Makes the environment.

    Args:
        order: Says of which files, and what must be importable.
        root: What all environments share.
        home: Where it is made.
        wheels: Has the files.
        uv: Installs them.
        children: Runs programs.
    """

    def __init__(
        self,
        order: dict[str, Any],
        root: Path,
        home: Home,
        wheels: Wheels,
        uv: Uv,
        children: Children,
    ) -> None:
        self._order = order
        self._root = str(root)
        self._home = home
        self._wheels = wheels
        self._uv = uv
        self._children = children

    def install(self, interpreter: str) -> None:
        """Make it, without asking any index.

        Raises:
            Failure: It cannot be made.
        """
        # What uv unpacked before a power cut would be linked from.
        self._uv.forget()
        make = ["venv", "--offline", "--no-project", "--python", interpreter, str(self._home.venv)]
        status, output = self._children.run([*self._uv.command(), *make])
        if status:
            raise self._failed("the virtual environment cannot be made", output, "interpreter")
        files = [str(self._wheels.path(file)) for file in self._order["files"]]
        if not files:
            return
        install = ["pip", "install", "--offline", "--no-index", "--no-deps", "--no-build"]
        install += ["--python", str(self._home.python), *files]
        status, output = self._children.run([*self._uv.command(), *install])
        if status:
            raise self._failed("the packages cannot be installed", output, "package")

    def _failed(self, what: str, output: str, kind: str) -> Failure:
        known = spoken(output, self._root)
        if known is not None:
            known.cause = output
            return known
        package = ""
        for file in self._order["files"]:
            name, pin = file["package"], f"{file['package']}=={file['version']}"
            if any(it in output for it in (file["filename"], pin, f"`{name}`", f"ause {name} has")):
                package = pin
                what = f"{file['filename']} cannot be installed"
                break
        machine = f"Python {self._order['python']} on {platform.machine()}, {glibc()}"
        return Failure(
            kind,
            f"{what} on the VM ({machine})",
            cause=output,
            advice="take another version of the package, or leave it out of the environment"
            if package
            else f"see {self._home.log} on the VM",
            package=package,
        )

    def check(self) -> None:
        """Import what must be importable.

        Raises:
            Failure: A module is not.
        """
        modules = [str(name) for name in self._order.get("check", ())]
        argv = [str(self._home.python), "-I", "-c", IMPORTS, *modules]
        status, output = self._children.run(argv)
        if not status:
            return
        known = spoken(output, self._root)
        if known is not None:
            known.cause = output
            raise known
        begun = re.findall(r"^(?:importing|failed) (\S+)$", output, re.MULTILINE)
        module = begun[-1] if begun else ""
        died = f" ({signal.Signals(-status).name})" if status < 0 else ""
        raise Failure(
            "import",
            f"module {module} cannot be imported on the VM{died}"
            if module
            else f"the new interpreter does not run{died}",
            cause=output,
            advice="it may need a library of the system (extra_apt_packages)",
            package=module,
        )


def glibc() -> str:
    """The C library, in words."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").strip() or "another C library"
    except (ValueError, OSError):
        return "another C library"
