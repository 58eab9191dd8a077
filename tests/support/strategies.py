"""Clients, hypothesis strategies, selections and scripted servers for tests."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from coffea.nanoevents import NanoEventsFactory
from hypothesis import strategies as st

from coffea_sx.dataset import InputFiles, object_name
from coffea_sx.demo.analysis import SelectionSchema, dimuon_query
from coffea_sx.errors import DatasetError
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import ClientPolicy
from coffea_sx.servicex.client import ServiceXClient
from coffea_sx.servicex.config import EndpointName, find_endpoint
from coffea_sx.servicex.models import ResultRow
from coffea_sx.wire.clock import DEFAULT_LIMITS, Limits
from support.paces import FAST

# -- clients


def connected(url: str, patience_s: float = 5.0, limits: Limits = DEFAULT_LIMITS) -> ServiceXClient:
    """Make a client of a server."""
    endpoint = find_endpoint(EndpointName(None, url, None))
    return ServiceXClient(endpoint, ClientPolicy(patience_s=patience_s), limits)


def submit_dimuons(server: LocalServiceX, files: Any, **options: Any) -> Any:
    """Submit the query of the demo, and return the factory of its events."""
    return NanoEventsFactory.from_servicex(
        dimuon_query(),
        files,
        url=server.url,
        **{"pace": FAST, "schemaclass": SelectionSchema, **options},
    )


# -- strategies: paths, histories of results, URLs with secrets

NAME = st.text("abcXYZ019_-+.: äß%&=~", min_size=1, max_size=12)
SCHEMES = st.sampled_from(
    ["", "/", "root://se.org//", "davs://se.org:2880/", "https://se.org/", "http://se.org/"]
)
LONG = "x" * 250


@st.composite
def paths(draw: st.DrawFn) -> str:
    """Draw the path of an input file, sometimes a very long one."""
    parts = draw(st.lists(NAME, min_size=1, max_size=4))
    long = draw(st.sampled_from(["", "", "", LONG]))
    return draw(SCHEMES) + long + "/".join(parts) + ".root"


@st.composite
def input_files(draw: st.DrawFn, max_size: int = 8) -> InputFiles:
    """Draw a valid list of input files."""
    from coffea_sx.dataset import checked_files

    given_paths = draw(st.lists(paths(), min_size=1, max_size=max_size, unique=True))
    try:
        return checked_files(given_paths)
    except DatasetError:
        names = {object_name(path): path for path in given_paths}
        try:
            return checked_files(list(names.values()))
        except DatasetError:
            return checked_files(given_paths[:1])


def row(number: int, path: str, *, failed: bool = False) -> dict[str, Any]:
    """Return a row of results as servers write it."""
    return {
        "id": number,
        "request-id": "d857",
        "file-id": number,
        "file-path": path,
        "s3-object-name": "none" if failed else object_name(path),
        "transform_status": "failure" if failed else "success",
        "transform_time": 0,
        "total-events": 0 if failed else 10 * number,
        "total-bytes": 0 if failed else 1000 + number,
        "avg-rate": 0.0,
        "created_at": f"2026-11-22T14:43:43.{number:06d}",
    }


def parsed(rows: Iterable[dict[str, Any]]) -> list[ResultRow]:
    """Parse rows of results."""
    return [ResultRow.from_json(one) for one in rows]


def status_json(status: str = "Running", n_files: int = 2, **changes: Any) -> dict[str, Any]:
    """Make the status of a transform as servers write it, ``files_failed`` for ``files-failed``."""
    return {
        "request_id": "d857",
        "status": status,
        "files": n_files,
        "files-completed": 0,
        "files-failed": 0,
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }


def later(rows: list[dict[str, Any]], than: str | None = None) -> list[dict[str, Any]]:
    """Return the rows made after a time, and like servers not those made at that time."""
    if than is None:
        return list(rows)
    moment = datetime.fromisoformat(than).astimezone(timezone.utc).replace(tzinfo=None)
    return [result for result in rows if datetime.fromisoformat(result["created_at"]) > moment]


@st.composite
def histories(draw: st.DrawFn) -> tuple[InputFiles, list[list[dict[str, Any]]]]:
    """Draw the answers of a server to a poller.

    Every file has one or more rows, each a result or a failure. Every answer has the rows that are
    committed by then, in any order and some of them twice. Rows of unknown files are among them.
    """
    n_files = draw(st.integers(1, 6))
    files = InputFiles(tuple(f"/data/nano_{i}.root" for i in range(n_files)))
    known = [
        (path, failed)
        for path in files.paths
        for failed in draw(st.lists(st.booleans(), min_size=1, max_size=3))
    ]
    strange = [("/other/file.root", False)] * draw(st.integers(0, 1))
    order = draw(st.permutations(known + strange))
    rows = [row(number, path, failed=failed) for number, (path, failed) in enumerate(order, 1)]
    commits = draw(st.permutations(rows))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    answers = []
    for cut in [*cuts, len(rows)]:
        answer = list(commits[:cut])
        if answer:
            answer += draw(st.lists(st.sampled_from(answer), max_size=3))
        answers.append(draw(st.permutations(answer)))
    return files, answers


TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFXYZ0123456789-_.~+", min_size=8, max_size=24).map(
    lambda text: f"Zq{text}qZ"
)
"""A secret that occurs in no other text."""


@st.composite
def secret_urls(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draw a URL and the secrets in it."""
    scheme = draw(st.sampled_from(["http", "https", "root", "davs", "s3"]))
    host = draw(st.sampled_from(["store.org", "127.0.0.1:9000", "[::1]:9000"]))
    path = draw(st.sampled_from(["", "/", "/bucket/:data:nano.root", "/b/a%20b.root"]))
    keys = st.sampled_from(
        ["X-Amz-Signature", "Signature", "AWSAccessKeyId", "X-Goog-Signature", "token", "authz"]
    )
    query = draw(st.lists(st.tuples(keys, TOKEN), max_size=4))
    secrets = [value for _, value in query]
    user = ""
    if draw(st.booleans()):
        secrets.append(draw(TOKEN))
        user = f"user:{secrets[-1]}@"
    query_string = "?" + "&".join(f"{key}={value}" for key, value in query) if query else ""
    return f"{scheme}://{user}{host}{path}{query_string}", secrets


# -- selections


def columns(*names: str) -> str:
    """Return the selection of some columns of the tree ``Events``."""
    keys = " ".join(f"'{name}'" for name in names)
    values = " ".join(f"(subscript e '{name}')" for name in names)
    return (
        "(call Select (call EventDataset 'bogus.root' 'Events') "
        f"(lambda (list e) (dict (list {keys}) (list {values}))))"
    )


# -- servers with faults


@dataclass
class Asked:
    """A request to a scripted server."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def later(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows that were made after the time in the query of the request."""
        return later(rows, *parse_qs(urlsplit(self.path).query).get("later_than", ()))


@dataclass
class Answer:
    """An answer of a scripted server.

    Attributes
    ----------
    claims : int, optional
        Content-Length, if it is not the length of the body.
    fault : {"", "hang", "reset"}
        Send nothing, or break the connection after the body.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    claims: int | None = None
    fault: str = ""


def say(value: Any, status: int = 200, **headers: str) -> Answer:
    """Return an answer with JSON."""
    headers = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(
        status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers}
    )


Play = Callable[[Asked], Answer]


class ScriptedServer:
    """An HTTP server that calls a function for each request; `asked` has all requests in order."""

    def __init__(self, play: Play, port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.over = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self, play))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._http.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def count(self, method: str, path: str = "") -> int:
        """Count the requests for a path that have arrived."""
        return sum(a.method == method and a.path.startswith(path) for a in self.asked)

    def stop(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


def _handler(server: ScriptedServer, play: Play) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asked = Asked(self.command, self.path, dict(self.headers), self.rfile.read(length))
            server.asked.append(asked)
            with contextlib.suppress(ConnectionError):
                self.give(play(asked))

        def give(self, answer: Answer) -> None:
            if answer.fault == "hang":
                server.over.wait(30)
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            claims = len(answer.body) if answer.claims is None else answer.claims
            self.send_header("Content-Length", str(claims))
            self.end_headers()
            self.wfile.write(answer.body)
            if answer.fault == "reset":
                self.wfile.flush()
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
            if answer.fault or claims != len(answer.body):
                self.close_connection = True

        do_GET = do_POST = do_DELETE = do_HEAD = respond  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    return Handler


def serve_file(content: bytes, etag: str = '"one"') -> Play:
    """Return a play that serves a file, with ranges."""

    def play(asked: Asked) -> Answer:
        if asked.method == "HEAD":
            return Answer(200, b"", {"Accept-Ranges": "bytes"}, claims=len(content))
        tag = {"ETag": etag} if etag else {}
        wanted = asked.headers.get("Range")
        if wanted is None:
            return Answer(200, content, tag)
        first, last = wanted.removeprefix("bytes=").split("-")
        start, stop = int(first), min(int(last or len(content)) + 1, len(content))
        if start >= len(content):
            return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        where = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        return Answer(206, content[start:stop], where | tag)

    return play
