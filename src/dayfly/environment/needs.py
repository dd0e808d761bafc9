"""Which installed distributions a function needs: by what it imports, and what these require."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import all_suffixes

from dayfly.environment.capture import Installed, Origin, dependencies
from dayfly.environment.lock import Missing
from dayfly.errors import EnvironmentSyncError


@functools.lru_cache(maxsize=2048)
def roots(one: Installed) -> frozenset[str]:
    """The modules of a distribution, by the shallowest name that is its own.

    ``numpy`` of numpy; of a part of a namespace, such as google-cloud-storage, that part:
    ``google.cloud.storage``.
    """
    if one.origin is Origin.EDITABLE:
        return frozenset(_in_project(one))
    packages: set[str] = set()
    modules: set[str] = set()
    for file in one.files():
        *folders, name = file.split("/")
        stem, dot, suffix = name.partition(".")
        if not all(folder.isidentifier() for folder in folders):
            continue
        if not dot or not stem.isidentifier() or f".{suffix}" not in _SUFFIXES:
            continue
        if stem == "__init__":
            packages.add(".".join(folders))
        else:
            modules.add(".".join([*folders, stem]))
    found = {name for name in packages if not _below(name, packages)}
    found |= {name for name in modules if not _below(name, packages)}
    return frozenset(found - {""})


_SUFFIXES = frozenset(all_suffixes())


def _below(name: str, packages: set[str]) -> bool:
    """Whether a package around it is the distribution's own."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in packages for length in range(1, len(parts)))


def _in_project(one: Installed) -> Iterator[str]:
    """The modules of an editable install: those in the usual places of its project."""
    if one.project is None:
        return
    for folder in (one.project, one.project / "src"):
        for path in folder.iterdir() if folder.is_dir() else ():
            stem, _, suffix = path.name.partition(".")
            if (path / "__init__.py").is_file() or (f".{suffix}" in _SUFFIXES and path.is_file()):
                yield stem


def imported(names: Iterable[str], installed: Sequence[Installed]) -> dict[str, str]:
    """The distributions that have some modules.

    Args:
        names: Of modules, as :func:`dayfly.modules.imported_modules` has them.
        installed: Where to look.

    Returns:
        A distribution's name -> one of the modules by which it is needed.
    """
    around = {
        ".".join(parts[:length])
        for parts in (name.split(".") for name in names)
        for length in range(1, len(parts) + 1)
    }
    origin: dict[str, str] = {}
    for one in installed:
        for root in sorted(roots(one) & around):
            origin.setdefault(one.pin.name, root)
    return origin


def needed(names: Iterable[str], installed: Sequence[Installed]) -> Mapping[str, tuple[str, ...]]:
    """The distributions that modules need, with those that these require.

    Args:
        names: Of modules, as :func:`dayfly.modules.imported_modules` has them.
        installed: What there is.

    Returns:
        A distribution's name -> how it comes to be needed: a module, and the distributions
        from the module's to this one.
    """
    by_name = {one.pin.name: one for one in installed}
    why: dict[str, tuple[str, ...]] = {
        name: (module, name) for name, module in imported(names, installed).items()
    }
    pending = list(why)
    while pending:
        name = pending.pop(0)
        for other in sorted(dependencies(by_name[name])):
            if other in by_name and other not in why:
                why[other] = (*why[name], other)
                pending.append(other)
    return why


def check(
    names: Iterable[str], installed: Sequence[Installed], missing: Sequence[Missing]
) -> tuple[str, ...]:
    """Refuse a job that needs what the VMs cannot be given.

    Args:
        names: Of modules, as :func:`dayfly.modules.imported_modules` has them.
        installed: What there is here.
        missing: What the VMs cannot be given.

    Returns:
        What is to be told of those that the job does not seem to need.

    Raises:
        EnvironmentSyncError: It needs one of them; the message names all that it needs.
    """
    if not missing:
        return ()
    why = needed(names, installed)
    fatal = [each for each in missing if each.pin.name in why]
    if not fatal:
        return tuple(
            f"{each.pin} will not be on the VMs: {each.reason}; a call that imports it fails"
            for each in missing
        )
    first = fatal[0].pin.name
    raise EnvironmentSyncError(
        f"this job needs {' and '.join(str(each.pin) for each in fatal)}, "
        "which the VMs cannot be given",
        stage="resolve",
        package=first,
        cause="; ".join(_because(each, why[each.pin.name]) for each in fatal),
        hint=f"install a version of {first} that has wheels for Linux, or name one in "
        "extra_python_packages",
    )


def _because(each: Missing, chain: Sequence[str]) -> str:
    module, *packages = chain
    road = f"import {module}" + (f" ({' needs '.join(packages)})" if packages[1:] else "")
    return f"{road}: {each.reason}"
