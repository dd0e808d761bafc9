"""Where packages are looked for: what the user has told uv, or else pip.

The first of these that says anything about indexes holds:

1. dayfly's own configuration;
2. uv's variables: ``UV_DEFAULT_INDEX``, ``UV_INDEX``, ``UV_INDEX_URL``, ``UV_EXTRA_INDEX_URL``,
   ``UV_FIND_LINKS``, ``UV_NO_INDEX``;
3. pip's variables and files: ``index-url``, ``extra-index-url``, ``find-links``, ``no-index``;
4. nothing: uv's own files (``uv.toml``, ``[tool.uv]``), or PyPI.

uv reads its variables and files by itself. pip's ``cert`` and ``trusted-host`` are passed on too.
The VMs are given the passwords that stand in these URLs, in ``UV_INDEX_<NAME>_USERNAME`` and
``_PASSWORD``, and in ``~/.netrc``; those of uv's own files, its store and of keyrings are not
known here.
"""

from __future__ import annotations

import configparser
import netrc
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import msgspec

_UVS: Final = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
)
_MACHINES: Final = Path("/etc/pip.conf")
#: Options of pip that are known here.
_PIPS: Final = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "cert",
    "trusted-host",
)


class Indexes(msgspec.Struct, frozen=True, kw_only=True):
    """Where packages are looked for.

    Attributes:
        urls: Of the indexes that are known here, the default one first; they may carry
            credentials. Those on this machine are not among them. Empty: PyPI, or what uv's
            files say.
        environment: Variables that tell uv; secret for the same reason.
    """

    urls: tuple[str, ...] = ()
    environment: dict[str, str] = {}


def indexes(own: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Indexes:
    """Find out where packages are to be looked for.

    Args:
        own: URLs of dayfly's own configuration, the default one first.
        environ: Variables; ``None``: this process's.
    """
    known = os.environ if environ is None else environ
    pip = _pip(known)
    told = {}
    if "cert" in pip:
        told["SSL_CERT_FILE"] = pip["cert"]
    if "trusted-host" in pip:
        told["UV_INSECURE_HOST"] = pip["trusted-host"]
    told = {name: value for name, value in told.items() if name not in known}
    if own:
        told |= {name: "" for name in _UVS if name in known}
        told["UV_DEFAULT_INDEX"] = own[0]
        if own[1:]:
            told["UV_INDEX"] = " ".join(own[1:])
        logins = _netrc(known)
        return Indexes(urls=tuple(_signed(url, logins) for url in own), environment=told)
    if any(known.get(name) for name in _UVS):
        default = known.get("UV_DEFAULT_INDEX") or known.get("UV_INDEX_URL") or ""
        more = [*known.get("UV_INDEX", "").split(), *known.get("UV_EXTRA_INDEX_URL", "").split()]
        return Indexes(urls=_urls(default, more, known), environment=told)
    more = pip.get("extra-index-url", "").split()
    if "index-url" in pip:
        told["UV_DEFAULT_INDEX"] = pip["index-url"]
    if more:
        told["UV_INDEX"] = " ".join(more)
        # As pip does: a version is taken from whichever index has it.
        told["UV_INDEX_STRATEGY"] = known.get("UV_INDEX_STRATEGY", "unsafe-best-match")
    if "find-links" in pip:
        told["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        told["UV_NO_INDEX"] = "1"
    return Indexes(urls=_urls(pip.get("index-url", ""), more, known), environment=told)


#: PyPI's own, for where others are only added to it.
PYPI: Final = "https://pypi.org/simple"


def _urls(default: str, more: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    logins = _netrc(environ)
    default, *others = (_signed(_unnamed(url, environ), logins) for url in (default, *more))
    urls = [url for url in others if url.startswith("http")]
    return (default or PYPI, *urls) if default.startswith("http") or urls else ()


def _unnamed(url: str, environ: Mapping[str, str]) -> str:
    """Without the name that uv knows an index by, ``NAME=URL``; with the password for that name.

    What the URL itself says goes before, as observed of uv 0.13.
    """
    if "=" not in url.partition("://")[0]:
        return url
    name, _, url = url.partition("=")
    variable = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
    user, password = (environ.get(f"{variable}_{what}", "") for what in ("USERNAME", "PASSWORD"))
    own = "@" in urlsplit(url).netloc
    return _with(url, user, password) if (user or password) and not own else url


def _signed(url: str, logins: Mapping[str, tuple[str, str]]) -> str:
    """An index's URL with the password of ``~/.netrc``, unless it has one."""
    index = urlsplit(url)
    user, password = logins.get(index.hostname or "", ("", ""))
    if not password or index.password or unquote(index.username or user) != user:
        return url
    return _with(url, user, password)


def _with(url: str, user: str, password: str) -> str:
    index = urlsplit(url)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return index._replace(netloc=f"{login}@{index.netloc.rpartition('@')[2]}").geturl()


def _netrc(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Users and passwords by their host; the default one is left to uv, since it is for any."""
    home = Path(environ.get("HOME", "~")).expanduser()
    try:
        known = netrc.netrc(environ.get("NETRC") or home / ".netrc").hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):  # uv does without it too
        return {}
    return {
        host: (user, word or "") for host, (user, _, word) in known.items() if host != "default"
    }


def _pip(environ: Mapping[str, str]) -> dict[str, str]:
    """Read pip's options: of its variables, then of its files, the user's before the machine's."""
    options: dict[str, str] = {}
    for path in _pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):  # pip itself would say so
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                options |= {name: value for name, value in parser.items(section) if value}
    for name in _PIPS:
        value = environ.get(f"PIP_{name.upper().replace('-', '_')}")
        if value:
            options[name] = value
    return {name: options[name].strip("'\" \n") for name in _PIPS if name in options}


def _pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where pip looks, the strongest last."""
    own = environ.get("PIP_CONFIG_FILE", "")
    if own == os.devnull:
        return
    home = Path(environ.get("HOME", "~")).expanduser()
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    for folder in reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield Path(folder, "pip", "pip.conf")
    yield _MACHINES
    yield home / ".pip" / "pip.conf"
    if sys.platform == "darwin":
        yield home / "Library" / "Application Support" / "pip" / "pip.conf"
    yield config / "pip" / "pip.conf"
    yield Path(sys.prefix, "pip.conf")
    if own:
        yield Path(own)


def authorized(url: str, urls: Sequence[str]) -> str:
    """A file's URL with the credentials of the index that it belongs to, where it has some.

    Args:
        url: Without credentials, as in a lock.
        urls: Of indexes.
    """
    file = urlsplit(url)
    for each in urls:
        index = urlsplit(each)
        credentials, at, host = index.netloc.rpartition("@")
        if at and (index.scheme, host) == (file.scheme, file.netloc):
            return file._replace(netloc=f"{credentials}@{host}").geturl()
    return url
