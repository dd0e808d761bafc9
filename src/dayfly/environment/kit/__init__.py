"""From files to an interpreter with packages, on a bare VM.

Sent to the VM as one file (:mod:`dayfly.environment.program`) and run by the system's own
``python3`` (3.8 or newer; no pip, no venv, no root), with nothing but the standard library. The
agent runs the same modules.

**The order** is one JSON object on standard input. Its URLs open what they name to whoever has
them, so they are in no argument, log or message; what is told of them ends before the query::

    key          of the Lock; the environment's name on this disk
    name         what people call it: "agent", or the key again
    root         "/opt/dayfly", below $DAYFLY_ROOT
    python       "3.11"
    implementation  "cpython"
    files        [FILE], the wheels
    uv           FILE, uv's own wheel
    interpreters {"mirror": url, "downloads": url, "archive": FILE or null}
                 where uv takes a Python from; an archive (install_only.tar.gz) needs no mirror
    check        ["msgspec", ...] modules to be imported at the end
    deadline     seconds for all steps; deadlines {"fetch": seconds, ...} for single ones
    durable      sync the disk before it is called complete: for an image
    pauses       [0.5, 1, 2] seconds between tries; silence: seconds without a byte

    FILE = {"package", "version", "filename", "sha256", "size", "sources": [SOURCE], "deposit": url}
    SOURCE = {"name": "storage" or "index", "url": url}

Sources are tried in order. A file that came from any but ``storage`` is written to ``deposit``.

**What it says**, one JSON object per line on standard output::

    {"step": "fetch", "seconds": 1.2, ...}         as each step ends, with figures of its own
    {"note": "...", "step": "fetch"}               what went wrong on the way and did no harm
    {"done": key, "python": path, "seconds": 3.1}  the environment may be used from here on
    {"failed": step, "kind", "package", "what", "cause", "advice"}   the last line; status 1

Steps: ``lock``, ``room``, ``python``, ``fetch``, ``install``, ``check``, ``deposit``. Where the
environment is complete already there is ``lock`` alone.

**On the disk**, below the root::

    env/<key>/       lock, log, part/ (of an unfinished run), venv/, and complete: written last
    wheels/<sha256>/<filename>   shared by the environments of the VM
    uv/<sha256>/uv   python/*    brought here     python.lock    held by who brings one
    uv-cache/<boot>  hard links come from there

Nothing counts before ``complete`` is there, so a run may be killed at any moment. uv inherits
the lock: where this process is killed and uv lives on, the next run waits for uv.

The modules: ``steps`` carries the order out; ``home`` is the lock and the marker, ``room`` the
disk, ``interpreter`` the Python, ``wheels`` the files, ``packages`` the installation by ``uv``.
These are served by ``network``, ``children``, ``interruption``, ``record`` and ``failure``. None
may use what a Python 3.8 lacks.
"""
