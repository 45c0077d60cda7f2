"""Real servers on this computer that tests read scans from: a web server, and the part of S3 that reading takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Served:
    """A folder that is served, and how.

    Attributes
    ----------
    folder : Path
        Of S3: it holds a folder for each bucket.
    url : str
        Without a slash at its end.
    ranges : bool
        Whether parts of files are given.
    closed : bool
        Whether connections are closed without an answer.
    status : int
        Other than 0: all requests are answered with it.
    break_after : int
        Bytes after which the connection is cut; 0 never. Counts down `breaks`.
    breaks : int
        How often that happens.
    stall : str
        Files whose name ends with this never get an answer.
    delay : float
        Seconds before the answer for files whose name ends with one of `delayed`.
    keys : str
        Of S3: the access key that must be signed with; empty: none.
    kind : str
        Type of all that is sent.
    region : str
        Of S3: that of all buckets.
    asked : list of str
        Method and path of each request.
    release, stop, ended : threading.Event
        Set to let go of what is stalled, and to end the server; set when it has ended.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    closed: bool = False
    status: int = 0
    break_after: int = 0
    breaks: int = 1
    stall: str = ""
    delay: float = 0.0
    delayed: tuple[str, ...] = ()
    keys: str = ""
    region: str = ""
    kind: str = "application/octet-stream"
    asked: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Serve a folder over HTTP until the end of the block, or of `Served.stop`."""
    served = Served(folder)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            served.asked.append(f"{self.command} {self.path}")
            parts = urlsplit(self.path)
            file = served.folder / unquote(parts.path).lstrip("/")
            if served.closed:
                self.close_connection = True
                return
            if served.delay and file.name.endswith(served.delayed):
                served.release.wait(served.delay)
            if served.stall and file.name.endswith(served.stall):
                served.release.wait(60)
                self.close_connection = True
            elif served.status:
                self._send(served.status, b"", body)
            elif served.keys and f"Credential={served.keys}/" not in self.headers.get("Authorization", ""):
                self._send(403, b"<Error><Code>AccessDenied</Code></Error>", body)
            elif "list-type" in parse_qs(parts.query):
                self._send(200, _listing(file, parse_qs(parts.query)), body)
            elif not file.is_file():
                self._send(404, b"", body)
            else:
                self._send_file(file.read_bytes(), body)

        def _send_file(self, content: bytes, body: bool) -> None:
            asked = self.headers.get("Range", "")
            if not (served.ranges and asked):
                self._send(200, content, body)
                return
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(len(content) - int(last), 0)
            stop = int(last) + 1 if first and last else len(content)
            stop = min(stop, len(content))
            self._send(206, content[start:stop], body, f"bytes {start}-{stop - 1}/{len(content)}")

        def _send(self, status: int, content: bytes, body: bool, part: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", served.kind)
            self.send_header("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT")
            self.send_header("ETag", '"1"')
            if served.region:
                self.send_header("x-amz-bucket-region", served.region)
            if part:
                self.send_header("Content-Range", part)
            self.end_headers()
            if not body:
                return
            if served.break_after and served.breaks and len(content) > served.break_after:
                served.breaks -= 1
                self.wfile.write(content[: served.break_after])
                self.close_connection = True
                return
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()

    def shut() -> None:
        served.stop.wait()
        server.shutdown()
        server.server_close()
        served.ended.set()

    ender = threading.Thread(target=shut, daemon=True)
    ender.start()
    try:
        yield served
    finally:
        served.release.set()
        served.stop.set()
        ender.join(10)


def _listing(bucket: Path, query: dict[str, list[str]]) -> bytes:
    """What S3 answers when the files of a bucket below a prefix are asked for, up to the next slash."""
    prefix = query.get("prefix", [""])[0]
    folder = bucket / prefix
    names = sorted(folder.iterdir()) if folder.is_dir() else []
    folders = "".join(
        f"<CommonPrefixes><Prefix>{escape(each.relative_to(bucket).as_posix())}/</Prefix></CommonPrefixes>"
        for each in names
        if each.is_dir()
    )
    head = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    rest = f"<Name>{bucket.name}</Name><Prefix>{escape(prefix)}</Prefix><Delimiter>/</Delimiter><MaxKeys>1000</MaxKeys>"
    return f"{head}{rest}<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>{folders}</ListBucketResult>".encode()
