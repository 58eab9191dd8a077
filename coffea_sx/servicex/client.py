"""The REST interface of a ServiceX server, and the one place where its failures become ours."""

from __future__ import annotations

import json
import math
import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import tenacity
from urllib3.exceptions import HTTPError

from ..errors import (
    NotAuthorized,
    OutcomeUnknown,
    ProtocolError,
    RequestRefused,
    ServerError,
    ServiceXError,
    TransformGone,
    Unreachable,
)
from ..query import Selection
from ..redact import Secret, hide_secret, redact
from ..wire.clock import DEFAULT_LIMITS, Clock, Limits, OutOfTimeError
from ..wire.connections import close_pool, make_pool
from ..wire.exchanges import blocks, exchange, retry_after
from .config import Endpoint

TRANSIENT = {429, 500, 502, 503, 504}
# The largest answer, bytes: about five hundred thousand rows of results.
LARGEST = 256 << 20
# Locks cannot be waited for without end and with a timeout.
_LONGEST_WAIT_S = 3600.0
# What of an answer is read at once, bytes.
BLOCK = 1 << 16
# Answers of whoever stands before a server that has not answered, and may be at work.
UNANSWERED = {502, 504}
# What of the words of an error is shown.
MESSAGE_LENGTH = 2000
TRANSFORMATION = "/servicex/transformation"
# What servers say that tell the files of datasets and the rows of results; those of 2024 do not.
DATASETS = "poll_local_transformation_results"

_TRANSFORM = re.compile(rf"{TRANSFORMATION}/([0-9a-f-]{{36}})")

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself."""

    version: str
    codegens: dict[str, str]
    capabilities: frozenset[str]


class _TransientError(Exception):
    """Try again; the cause is what is raised in the end."""

    def __init__(self, cause: ServiceXError, retry_after: float | None = None) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of the server.

    Attributes
    ----------
    is_repeatable : bool
        Whether it may be asked twice.
    end : float
        When the answer is of no use any more, by `time.monotonic`.
    """

    method: str
    path: str
    content: Any
    is_repeatable: bool
    end: float


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the server answers to a request."""

    method: str
    path: str
    status: int
    content: bytes = field(repr=False)
    retry_after: float | None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return what is said in JSON.

        Raises
        ------
        ValueError
            If it is something else.
        """
        try:
            return json.loads(self.content)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    def is_of_servicex(self) -> bool:
        """Whether an error is one of ServiceX itself, which says it in JSON."""
        try:
            return isinstance(self.json(), dict)
        except ValueError:
            return False

    def message(self) -> str:
        """Find the words in an error: handlers say ``message``, the token check ``msg``."""
        try:
            said = self.json()
            text = str(said.get("message") or said.get("msg") or said)
            # Twice, as a secret that is cut is not known any more.
            return redact(text[: 10 * MESSAGE_LENGTH])[:MESSAGE_LENGTH]
        except (ValueError, AttributeError):
            return _phrase(self.status)


class ServiceXClient:
    """Requests to one ServiceX.

    Parameters
    ----------
    endpoint : Endpoint
    patience_s : float
        How long a request may be repeated while the server does not answer, seconds.
    limits : Limits
        How long one request may take.

    Notes
    -----
    Reading is repeated on transient errors; submitting is repeated only if it was not sent, so that
    no transform runs twice. An access token is renewed once when the server refuses it.

    Questions that are asked again and again take ``timeout_s``: the most seconds that they take in
    all, with repetitions and a new access token. `close` ends them at once, from any thread.
    """

    def __init__(
        self, endpoint: Endpoint, patience_s: float = 5.0, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.endpoint = endpoint
        self.patience_s = patience_s
        self.limits = limits
        self._connections = make_pool(_proxy(endpoint.url))
        self._access_token: Secret | None = None
        self._token_lock = threading.Lock()
        self._info: ServerInfo | None = None
        self._ahead = timedelta(0)
        self._closing = threading.Event()
        weakref.finalize(self, close_pool, self._connections)

    def close(self) -> None:
        """Close the connections; a request that waits for its answer is given up at once."""
        self._closing.set()
        close_pool(self._connections)

    def info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Ask once what the server can do. One request, the first time."""
        if self._info is None:
            said = self._get("/servicex", timeout_s)
            self._info = ServerInfo(
                self._part("app-version", str, said),
                self._part("code-gen-image", dict, said),
                frozenset(self._part("capabilities", list, {"capabilities": [], **said})),
            )
        return self._info

    @property
    def server_time(self) -> datetime:
        """Now, or a little before, by the clock of the server as its last answer tells it."""
        return datetime.now(timezone.utc) + self._ahead

    def submit(self, selection: Selection, *, did: str | None, files: Sequence[str] | None) -> str:
        """Submit a transform; return its request id.

        Raises
        ------
        OutcomeUnknown
            If the server does not answer, and may have it.
        ServerError
        """
        body: dict[str, Any] = {
            "title": selection.title,
            "selection": selection.text,
            "codegen": selection.codegen,
            "result-destination": "object-store",
            "result-format": selection.result_format,
        }
        if did is None:
            body["file-list"] = list(files or ())
        else:
            body["did"] = did
        return self._part("request_id", str, self._request("POST", TRANSFORMATION, json=body))

    def transforms(self) -> list[dict[str, Any]]:
        """Return the status of every transform that the server lets us see; without keys."""
        return self._part("requests", list, self._get(TRANSFORMATION))

    def status(self, request_id: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Return the status of a transform. It holds the keys of the store: never print it."""
        said = self._part(None, dict, self._get(f"{TRANSFORMATION}/{request_id}", timeout_s))
        for key in ("minio-access-key", "minio-secret-key"):
            hide_secret(str(said.get(key)))
        return said

    def results(
        self,
        request_id: str,
        later_than: datetime | None = None,
        *,
        timeout_s: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return rows of results, unsorted: all, or those that say they were made after a time.

        Rows may appear after others that say they were made later.
        """
        since = f"?{urlencode({'later_than': later_than.isoformat()})}" if later_than else ""
        answer = self._get(f"{TRANSFORMATION}/{request_id}/results{since}", timeout_s)
        return self._part("results", list, answer)

    def reasons(self, request_id: str, *, timeout_s: float | None = None) -> dict[str, str]:
        """Return why input files failed, by path, if the server keeps that."""
        if "transformation_errors" not in self.info(timeout_s=timeout_s).capabilities:
            return {}
        answer = self._get(f"{TRANSFORMATION}/{request_id}/errors", timeout_s)
        rows = [row for row in self._part("errors", list, answer) if isinstance(row, dict)]
        return {
            row["file-path"]: str(row["info"])
            for row in rows
            if isinstance(row.get("file-path"), str) and row.get("info") is not None
        }

    def dataset(self, dataset_id: int) -> dict[str, Any]:
        """Return a dataset with its files and the state of its look-up."""
        return self._part(None, dict, self._get(f"/servicex/datasets/{dataset_id}"))

    def file_urls(
        self, request_id: str, names: Sequence[str], *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Ask for ``[url, headers, expiry]`` of objects. Needs ``generate_file_urls``."""
        answer = self._request(
            "POST",
            f"{TRANSFORMATION}/file-urls",
            json={"request_id": request_id, "file_list": list(names)},
            repeatable=True,
            timeout_s=timeout_s,
        )
        return self._part("uris", dict, answer)

    def cancel(self, request_id: str) -> None:
        """Cancel a transform."""
        method = "POST" if "post_cancel_transform" in self.info().capabilities else "GET"
        self._request(method, f"{TRANSFORMATION}/{request_id}/cancel", repeatable=True)

    def _part(self, name: str | None, kind: type[Part], answer: Any) -> Part:
        """Return a part of an answer, if it is of the kind that a ServiceX gives."""
        part = answer if name is None else answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(part, kind):
            raise ProtocolError(
                f"{self.endpoint.url} answers, but not as a ServiceX does. Is the address right?"
            )
        return part

    def _get(self, path: str, timeout_s: float | None = None) -> Any:
        return self._request("GET", path, repeatable=True, timeout_s=timeout_s)

    def _request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        repeatable: bool = False,
        timeout_s: float | None = None,
    ) -> Any:
        timeout_s = math.inf if timeout_s is None else timeout_s
        question = _Question(method, path, json, repeatable, monotonic() + timeout_s)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TransientError),
            stop=tenacity.stop_any(
                tenacity.stop_before_delay(min(self.patience_s, timeout_s)),
                tenacity.stop_when_event_set(self._closing),
            ),
            wait=_pause,
            sleep=tenacity.sleep_using_event(self._closing),
            reraise=True,
        )
        try:
            return attempts(self._once, question)
        except _TransientError as error:
            cause, n_tries = error.cause, attempts.statistics["attempt_number"]
            raise type(cause)(f"{cause} Tries: {n_tries}.", **cause.facts) from None

    def _once(self, question: _Question) -> Any:
        answer = self._ask(question)
        if answer.status == HTTPStatus.UNAUTHORIZED and self._renew(question.end):
            answer = self._ask(question)
        return self._understood(answer, question.is_repeatable)

    def _ask(self, question: _Question) -> _Answer:
        headers = self._authorization(question.end)
        body = None
        if question.content is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(question.content).encode()
        return self._send(question, headers, body)

    def _send(self, question: _Question, headers: Mapping[str, str], body: bytes | None) -> _Answer:
        if self._closing.is_set():
            raise self._was_closed()
        clock = Clock(self.limits, question.end, self._closing.is_set)
        url = f"{self.endpoint.url}{question.path}"
        headers = {"Accept-Encoding": "gzip, deflate", "Accept": "*/*", **headers}
        try:
            with exchange(
                self._connections,
                question.method,
                url,
                clock,
                headers=headers,
                body=body,
                at_most=0,
            ) as response:
                self._ahead = _ahead(response.headers, self._ahead)
                content = bytearray()
                for block in blocks(response, BLOCK, decode=True):
                    content += block
                    if len(content) > LARGEST:
                        raise self._too_large(question)
                return _Answer(
                    question.method,
                    urlsplit(url).path,
                    response.status,
                    bytes(content),
                    retry_after(response),
                )
        except HTTPError as error:
            if self._closing.is_set():
                raise self._was_closed() from None
            raise self._unsent(error, question, clock) from None

    def _unsent(self, error: HTTPError, question: _Question, clock: Clock) -> Exception:
        what = f"ServiceX at {self.endpoint.url} does not answer {question.method} {question.path}"
        if isinstance(error, OutOfTimeError):
            says = f"{what} in time: {error}. Is it overloaded, or what is between it and here?"
        else:
            says = (
                f"{what}: {type(error).__name__}: {error}. Is the address right, and the server "
                "running?"
            )
        is_unknown = clock.is_sent and not question.is_repeatable
        kind = OutcomeUnknown if is_unknown else Unreachable
        cause = kind(says, url=redact(self.endpoint.url))
        # A certificate is no better a moment later.
        is_trusted = "CERTIFICATE" not in str(error).upper()
        return _TransientError(cause) if is_trusted and not is_unknown else cause

    def _was_closed(self) -> ServerError:
        return ServerError(
            f"The connection to {self.endpoint.url} was closed with the watch of its transform."
        )

    def _too_large(self, question: _Question) -> ProtocolError:
        return ProtocolError(
            f"{self.endpoint.url} answers {question.method} {question.path} with more than "
            f"{LARGEST >> 20} MB, as no ServiceX does. Is the address right?"
        )

    def _understood(self, answer: _Answer, is_repeatable: bool) -> Any:
        if answer.is_success:
            return self._json(answer)
        refusal = self._refusal(answer)
        # ServiceX answers 500 to requests that it will never accept, but not to reading.
        if answer.status in TRANSIENT and (is_repeatable or answer.status == 429):
            raise _TransientError(refusal, answer.retry_after)
        if answer.status in UNANSWERED:
            raise OutcomeUnknown(str(refusal), **refusal.facts)
        raise refusal

    def _json(self, answer: _Answer) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise ProtocolError(
                f"{self.endpoint.url} answered {answer.path} with something that is "
                "not JSON. Is the address that of a ServiceX?"
            ) from None

    def _refusal(self, answer: _Answer) -> ServiceXError:
        status, message, path = answer.status, answer.message(), answer.path
        if status in (401, 403, 422):
            return NotAuthorized(
                f"ServiceX at {self.endpoint.url} does not accept this user: {message} "
                f"[{status}]. Put a valid token into servicex.yaml, or name a file that holds "
                "one in BEARER_TOKEN_FILE.",
                status=status,
            )
        if status == 404 and not answer.is_of_servicex():
            # Whoever stands before it while it is restarted.
            return Unreachable(
                f"There is no ServiceX at {self.endpoint.url}: {path} is not found there. Is the "
                "address right, and the server running?",
                url=redact(self.endpoint.url),
            )
        about = _TRANSFORM.search(path)
        if status == 404 and f"{TRANSFORMATION}/" in path:
            return TransformGone(
                f"{self.endpoint.url} does not know the transform, or no longer: {message}. Submit "
                "its query again.",
                status=status,
                request_id=about[1] if about else None,
            )
        return RequestRefused(
            f"ServiceX at {self.endpoint.url} refused {answer.method} {path}: {message} [{status}]",
            status=status,
        )

    def _authorization(self, end: float) -> dict[str, str]:
        token = self._access_token or self._renewed(end)
        return {"Authorization": f"Bearer {token.reveal()}"} if token else {}

    def _renew(self, end: float) -> bool:
        """Get another access token; say whether there is one to try."""
        with self._renewing(end):
            refused = self._access_token
            self._access_token = None
        renewed = self._renewed(end)
        return renewed is not None and renewed != refused

    def _renewed(self, end: float) -> Secret | None:
        bearer = self.endpoint.bearer()
        if bearer is not None:
            return bearer
        if self.endpoint.refresh_token is None:
            return None
        with self._renewing(end):
            if self._access_token is None:
                self._access_token = self._exchanged(self.endpoint.refresh_token, end)
            return self._access_token

    @contextmanager
    def _renewing(self, end: float) -> Iterator[None]:
        """Let one thread at a time renew the access token, for whose end the others wait."""
        if not self._token_lock.acquire(timeout=min(max(0.0, end - monotonic()), _LONGEST_WAIT_S)):
            raise Unreachable(
                f"ServiceX at {self.endpoint.url} gives no access token in time.",
                url=redact(self.endpoint.url),
            )
        try:
            yield
        finally:
            self._token_lock.release()

    def _exchanged(self, refresh_token: Secret, end: float) -> Secret:
        question = _Question("POST", "/token/refresh", None, True, end)
        headers = {"Authorization": f"Bearer {refresh_token.reveal()}"}
        answer = self._send(question, headers, None)
        if answer.status in TRANSIENT and answer.status != 500:
            raise _TransientError(self._refusal(answer), answer.retry_after)
        if not answer.is_success:
            raise NotAuthorized(
                f"ServiceX at {self.endpoint.url} does not accept the refresh token of "
                f"servicex.yaml: {answer.message()} [{answer.status}]. Get a new one "
                "from the web page of the server.",
                # Servers say 500 to it too, and then it does not pass either.
                status=HTTPStatus.UNAUTHORIZED.value,
            )
        return Secret(self._part("access_token", str, self._json(answer)))


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    retry_after = getattr(error, "retry_after", None)
    backoff = tenacity.wait_random_exponential(multiplier=0.2, max=5)(state)
    return max(retry_after or 0.0, backoff)


def _ahead(headers: Mapping[str, str], otherwise: timedelta) -> timedelta:
    """Tell by how much the clock of a server is ahead of ours; at least, as it tells seconds."""
    try:
        return parsedate_to_datetime(headers["Date"]) - datetime.now(timezone.utc)
    except (KeyError, TypeError, ValueError):
        return otherwise


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "it does not say why"
