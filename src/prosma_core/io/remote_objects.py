"""Files of web servers and of S3 by name, and what went wrong there as one error with URL, reason and advice."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from prosma_core.errors import FileFormatError, MissingExtraError, ProsmaError
from prosma_core.io.read_errors import excerpt
from prosma_core.io.remote import RemotePath

if TYPE_CHECKING:
    from obstore.store import ClientConfig, HTTPStore, RetryConfig, S3Store

PATIENCE_S = 30
"""Seconds without a byte after which a request is given up."""
CONNECT_S = 10
"""Seconds until a connection must stand."""
ATTEMPTS = 3
"""How often a request is made before its error is reported."""
WINDOW_S = 10
"""`PATIENCE_S` of a window, where a person waits; a request is made once."""
AWS = "https://s3.amazonaws.com"
"""Where the region of a bucket is asked for."""


def objects_of(path: RemotePath) -> HTTPStore | S3Store:
    """The server of a URL, whose files have the key `RemotePath.key`.

    For S3, credentials come from the environment (``AWS_ACCESS_KEY_ID``, …) or the profile in ``~/.aws``; without any,
    requests are anonymous. ``AWS_ENDPOINT_URL`` names another server than Amazon's.

    Raises
    ------
    MissingExtraError
        obstore is not installed.
    """
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        msg = f"{path} needs obstore, which is not installed: pip install 'napari-prosma[remote]'"
        raise MissingExtraError(msg) from error
    with reaching(path):
        settings = _s3_settings(path.host) if path.scheme == "s3" else {}
        return _objects(path.scheme, path.host, *patience(), tuple(settings.items()))


_HURRIED: ContextVar[bool] = ContextVar("hurried", default=False)


@contextmanager
def hurried() -> Iterator[None]:
    """Let what is opened within, in this thread, wait for a server as long as a person in front of a window does."""
    token = _HURRIED.set(True)
    try:
        yield
    finally:
        _HURRIED.reset(token)


def patience() -> tuple[int, int]:
    """Seconds without a byte after which a request is given up, and how often it is made."""
    return (min(WINDOW_S, PATIENCE_S), 1) if _HURRIED.get() else (PATIENCE_S, ATTEMPTS)


@lru_cache(maxsize=16)
def _objects(
    scheme: str, host: str, patience: int, attempts: int, given: tuple[tuple[str, Any], ...]
) -> HTTPStore | S3Store:
    from obstore.store import HTTPStore, S3Store

    retry: RetryConfig = {
        "max_retries": attempts - 1,
        "retry_timeout": timedelta(seconds=attempts * patience),
        "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=5), "base": 2},
    }
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=min(CONNECT_S, patience)),
        "read_timeout": timedelta(seconds=patience),
        "timeout": timedelta(days=1),  # of a whole answer, however large
        "allow_http": scheme == "http",
    }
    if scheme != "s3":
        return HTTPStore(f"{scheme}://{host}", client_options=client, retry_config=retry)
    settings = dict(given)
    client["allow_http"] = str(settings.get("endpoint", "")).startswith("http:")
    return S3Store(host, client_options=client, retry_config=retry, **settings)


_CLUSTER = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""By which obstore finds the credentials of a cluster."""


def _s3_settings(bucket: str) -> dict[str, Any]:
    """Endpoint, region and credentials; those that are in the environment, obstore finds by itself."""
    profile = _profile()
    names = {
        "access_key_id": "aws_access_key_id",
        "secret_access_key": "aws_secret_access_key",
        "session_token": "aws_session_token",
    }
    settings: dict[str, Any] = {}
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        settings = {ours: profile[theirs] for ours, theirs in names.items() if theirs in profile}
        known = settings or any(name in os.environ for name in (*_CLUSTER, "AWS_SKIP_SIGNATURE"))
        settings |= {} if known else {"skip_signature": True}
    endpoint = _given("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or profile.get("endpoint_url")
    region = _given("AWS_REGION", "AWS_DEFAULT_REGION") or profile.get("region")
    if endpoint:
        settings["endpoint"] = endpoint
    else:
        region = _bucket_region(bucket) or region
    return settings | {"region": region or "us-east-1"}


def _given(*names: str) -> str | None:
    """The first of some variables of the environment that is set."""
    return next(filter(None, map(os.environ.get, names)), None)


def _profile() -> dict[str, str]:
    """The profile of ``AWS_PROFILE``, otherwise the default one, in the files of the AWS command line."""
    name, folder = os.environ.get("AWS_PROFILE", "default"), Path("~/.aws").expanduser()
    found: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_CONFIG_FILE", folder / "config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", folder / "credentials", name),
    ):
        parser = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error, UnicodeDecodeError):
            parser.read(Path(os.environ.get(variable, file)).expanduser(), encoding="utf-8")
        found |= dict(parser[section]) if parser.has_section(section) else {}
    return found


@lru_cache(maxsize=16)
def _bucket_region(bucket: str) -> str | None:
    """Where a bucket is, which Amazon tells everyone; None where it cannot be asked."""
    try:
        with urlopen(Request(f"{AWS}/{bucket}", method="HEAD"), timeout=CONNECT_S) as answer:
            return str(answer.headers.get("x-amz-bucket-region") or "") or None
    except HTTPError as error:
        error.close()
        return str(error.headers.get("x-amz-bucket-region") or "") or None
    except (OSError, ValueError):
        return None


T = TypeVar("T")


def begin(work: Callable[[], T]) -> Future[T]:
    """Begin a request in a thread of its own, which no end of the process waits for."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001  (raised where the result is asked for)
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def ask(work: Callable[[], T]) -> T:
    """What a request gives; a signal ends the wait at once, where obstore would hold it back until an answer comes."""
    return begin(work).result()


@contextmanager
def reaching(place: object, waited: tuple[int, int] | None = None) -> Iterator[None]:
    """Turn what goes wrong with a server into a `FileFormatError`: URL, reason, advice; `waited` as of `patience`."""
    try:
        yield
    except (ProsmaError, MemoryError):
        raise
    except Exception as error:
        raise unreachable(place, *_reason(error, str(place), waited or patience())) from error


def unreachable(place: object, reason: str, advice: str) -> FileFormatError:
    """The error for a URL that cannot be read."""
    return FileFormatError(f"{place} cannot be read: {reason}. {advice}.")


AGAIN = "Check the network and run it again"
SLOW = "The server is slow or does not answer; run it again later, or download the scan"


def _reason(error: Exception, place: str, waited: tuple[int, int]) -> tuple[str, str]:
    """Why a request failed, and what to do."""
    text, of_s3 = str(error), place.startswith("s3:")
    status = error.code if isinstance(error, HTTPError) else None
    if found := re.search(r"non-2xx status code: (\d{3})", text):
        status = int(found[1])
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return f"the server has no such file ({status or 404})", "Check the URL"
    if status in (401, 403) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        keys = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of an account that may read it"
        return f"access is denied ({status or 403})", keys if of_s3 else "Download it where you are logged in"
    if of_s3 and "redirect" in text.lower():
        return "the bucket is in another region", "Set AWS_REGION to the region of the bucket"
    if status is not None:
        return f"the server answers with status {status}", "Run it again later"
    if type(error).__name__ == "NotSupportedError":
        return "the server does not give parts of files (range requests)", "Download the scan"
    return _of_network(error, text, waited)


def _of_network(error: Exception, text: str, waited: tuple[int, int]) -> tuple[str, str]:
    lowered = text.lower()
    if isinstance(error, TimeoutError) or "timed out" in lowered or "kind: timeout" in lowered:
        seconds, times = waited
        return f"no byte came for {seconds} s" + (f", {times} times" if times > 1 else ""), SLOW
    if "certificate" in lowered:
        return "its certificate is not trusted", "Check the URL and the clock of this computer"
    if any(word in lowered for word in ("dns error", "name or service not known", "getaddrinfo", "name resolution")):
        return "there is no such host, or no network", "Check the URL and the network"
    if "refused" in lowered:
        return "the host refuses the connection", "Check the URL, and whether the server runs"
    if "kind: connect" in lowered or "error sending request" in lowered:
        return "the host cannot be reached", AGAIN
    if "error decoding response body" in lowered or "body" in lowered:
        return "the connection was lost", AGAIN
    return excerpt(text.split("\n")[0]) or type(error).__name__, AGAIN
