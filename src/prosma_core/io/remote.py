"""Paths and URLs: what a person gave as a scan is a local path, or a URL of http(s) or s3."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from prosma_core.errors import ConfigError

SCHEMES = ("https", "http", "s3")
"""What is read over a network."""
_KNOWN = {*SCHEMES, "file", "ftp", "sftp", "ssh", "gs", "gcs", "az", "abfs", "abfss"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!$)")  # two letters at least: C:/ is a drive
_BASE: Any = type(Path())  # PosixPath or WindowsPath

if TYPE_CHECKING:
    _BASE = Path


class RemotePath(_BASE):  # type: ignore[misc]
    """The URL of a scan, with the names and parents of a path. It is no local file: `exists` is false.

    As a text it is the URL without what follows ``?``, which may be secret; `url` is all of it. Made by `input_path`.
    """

    _given = ""

    @property
    def scheme(self) -> str:
        """``https``, ``http`` or ``s3``."""
        return str(self.parts[0][:-1])

    @property
    def host(self) -> str:
        """Host and port, or the bucket."""
        return str(self.parts[1])

    @property
    def key(self) -> str:
        """What follows the host or the bucket, not percent-encoded."""
        return "/".join(self.parts[2:])

    @property
    def url(self) -> str:
        """The URL to ask for."""
        return self._given or str(self)

    def __str__(self) -> str:
        scheme, *rest = self.parts or ("",)
        return f"{scheme}//{'/'.join(rest if scheme == 's3:' else map(_quoted, rest))}" if rest else scheme

    def __fspath__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return input_path, (self.url,)

    def exists(self, **_: Any) -> bool:
        """False: it is no local file."""
        return False

    is_file = is_dir = exists

    def stat(self, **_: Any) -> NoReturn:
        """Raise `FileNotFoundError`."""
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> RemotePath:
        """Itself."""
        del strict
        return self

    def expanduser(self) -> RemotePath:
        """Itself."""
        return self


def input_path(given: str | Path) -> Path:
    r"""The path that a person gave: a `RemotePath` for a URL of http(s) or s3, a local one for all others.

    Parameters
    ----------
    given : str or Path
        A path, or a URL: also one whose slashes were lost in a `Path`. ``C:\\…`` is a path; ``file://…`` becomes one.

    Raises
    ------
    ConfigError
        A URL of another kind, without a host or a path, or with a password in it.
    """
    if isinstance(given, RemotePath) or (isinstance(given, Path) and given.exists()):
        return given
    text = str(given) if isinstance(given, str) else given.as_posix()
    found = _URL.match(text)
    scheme = found[1].lower() if found else ""
    if found is None or not (scheme in _KNOWN or text[found.end() :].startswith("/")):
        return Path(given)
    rest = text[found.end() :].lstrip("/")
    if scheme == "file":
        return _local(text[found.end() :])
    if scheme not in SCHEMES:
        raise _refused(text, f"URLs of {scheme} are not read", "Give one of https, http, s3 or file, or a local path")
    host, _, key = rest.partition("/")
    if "@" in host:
        raise _refused(f"{scheme}://…", "it has a name or password in it", "Download the file and give its path")
    parts = [key] if scheme == "s3" else [unquote(urlsplit(f"//{rest}").path)]
    names = [name for part in parts for name in part.split("/") if name]
    if not host or not names:
        raise _refused(text, "it names no file", f"Give {scheme}://{host or 'HOST'}/… down to the name of a scan")
    path = RemotePath(f"{scheme}:", host, *names)
    path._given = "" if scheme == "s3" else f"{scheme}://{rest}".partition("#")[0]
    return path


def _quoted(name: str) -> str:
    return quote(name, safe="/:[]@!$&'()*+,;=~")


def local_path(given: str | Path) -> Path:
    """A path that must be local, such as that of a result; raises `ConfigError` for a URL, but of ``file://``."""
    path = input_path(given)
    if isinstance(path, RemotePath):
        raise _refused(str(path), "only scans are read over a network", "Give a local path here")
    return path


def _local(rest: str) -> Path:
    host, _, path = rest[1:].partition("/") if rest.startswith("/") else ("", "", rest)
    if host not in ("", "localhost") and os.name != "nt":
        raise _refused(f"file:/{rest}", f"it names the computer {host}", "Write file:///… for a local file")
    place = f"//{host}/{path}" if host not in ("", "localhost") else f"/{path}"
    return Path(url2pathname(place))


def _refused(url: str, why: str, what: str) -> ConfigError:
    return ConfigError(f"The URL {url} cannot be used: {why}. {what}.")
