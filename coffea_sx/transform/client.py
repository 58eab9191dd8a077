"""The REST interface of a ServiceX server, and the one place where its failures become ours."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx
import tenacity

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
from ..redact import Secret, redact
from .endpoint import Endpoint

logger = logging.getLogger(__name__)

TRANSIENT = {429, 500, 502, 503, 504}
# Answers of whoever stands before a server that has not answered, and may be at work.
UNANSWERED = {502, 504}
# Of these nothing has reached a server.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
TIMEOUT = httpx.Timeout(60, connect=10)
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


class ServiceXClient:
    """Requests to one ServiceX.

    Parameters
    ----------
    endpoint : Endpoint
    patience_s : float
        How long a request may be repeated while the server does not answer, seconds.

    Notes
    -----
    Reading is repeated on transient errors; submitting is repeated only if no connection was made,
    so that no transform runs twice. An access token is renewed once when the server refuses it.
    """

    def __init__(self, endpoint: Endpoint, patience_s: float = 5.0) -> None:
        self.endpoint = endpoint
        self.patience_s = patience_s
        self._http = httpx.Client(base_url=endpoint.url, timeout=TIMEOUT, follow_redirects=False)
        self._access_token: Secret | None = None
        self._token_lock = threading.Lock()
        self._info: ServerInfo | None = None
        self._ahead = timedelta(0)
        self._closing = threading.Event()

    def close(self) -> None:
        """Close the connections; a request that is repeated is given up."""
        self._closing.set()
        self._http.close()

    def info(self) -> ServerInfo:
        """Ask once what the server can do. One request, the first time."""
        if self._info is None:
            said = self._get("/servicex")
            self._info = ServerInfo(
                self._part("app-version", str, said),
                self._part("code-gen-image", dict, said),
                frozenset(self._part("capabilities", list, {"capabilities": [], **said})),
            )
        return self._info

    def check_authorized(self) -> None:
        """Find out, before anything is submitted, whether the server accepts our token."""
        # A request that nobody has: 404 says that the token was accepted.
        try:
            self.status("00000000-0000-0000-0000-000000000000")
        except TransformGone:
            return

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

    def status(self, request_id: str) -> dict[str, Any]:
        """Return the status of a transform. It holds the keys of the store: never print it."""
        return self._part(None, dict, self._get(f"{TRANSFORMATION}/{request_id}"))

    def results(self, request_id: str, later_than: datetime | None = None) -> list[dict[str, Any]]:
        """Return rows of results, unsorted: all, or those that say they were made after a time.

        Rows may appear after others that say they were made later.
        """
        since = f"?{urlencode({'later_than': later_than.isoformat()})}" if later_than else ""
        answer = self._get(f"{TRANSFORMATION}/{request_id}/results{since}")
        return self._part("results", list, answer)

    def reasons(self, request_id: str) -> dict[str, str]:
        """Return why input files failed, by path, if the server keeps that."""
        if "transformation_errors" not in self.info().capabilities:
            return {}
        answer = self._get(f"{TRANSFORMATION}/{request_id}/errors")
        return {row["file-path"]: row["info"] for row in self._part("errors", list, answer)}

    def dataset(self, dataset_id: int) -> dict[str, Any]:
        """Return a dataset with its files and the state of its look-up."""
        return self._part(None, dict, self._get(f"/servicex/datasets/{dataset_id}"))

    def file_urls(self, request_id: str, names: Sequence[str]) -> dict[str, Any]:
        """Ask for ``[url, headers, expiry]`` of objects. Needs ``generate_file_urls``."""
        answer = self._request(
            "POST",
            f"{TRANSFORMATION}/file-urls",
            json={"request_id": request_id, "file_list": list(names)},
            repeatable=True,
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

    def _get(self, path: str) -> Any:
        return self._request("GET", path, repeatable=True)

    def _request(
        self, method: str, path: str, *, json: Any = None, repeatable: bool = False
    ) -> Any:
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TransientError),
            stop=tenacity.stop_any(
                tenacity.stop_before_delay(self.patience_s),
                tenacity.stop_when_event_set(self._closing),
            ),
            wait=_pause,
            sleep=tenacity.sleep_using_event(self._closing),
            reraise=True,
        )
        try:
            return attempts(self._once, method, path, json, repeatable)
        except _TransientError as error:
            cause, n_tries = error.cause, attempts.statistics["attempt_number"]
            raise type(cause)(f"{cause} Tries: {n_tries}.", **cause.facts) from None

    def _once(self, method: str, path: str, json: Any, repeatable: bool) -> Any:
        response = self._send(method, path, json, repeatable)
        if response.status_code == httpx.codes.UNAUTHORIZED and self._renew():
            response = self._send(method, path, json, repeatable)
        return self._answer(response, repeatable)

    def _send(self, method: str, path: str, json: Any, repeatable: bool) -> httpx.Response:
        if self._http.is_closed:
            raise ServerError(
                f"The connection to {self.endpoint.url} was closed with the watch of its transform."
            )
        try:
            response = self._http.request(method, path, json=json, headers=self._authorization())
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise self._unsent(error, method, path, repeatable) from None
        self._ahead = _ahead(response.headers, self._ahead)
        # It refers to itself through this: megabytes of rows would stay until the collector comes.
        response.stream = httpx.ByteStream(b"")
        return response

    def _unsent(
        self, error: httpx.RequestError, method: str, path: str, repeatable: bool
    ) -> Exception:
        is_sent = not repeatable and not isinstance(error, NOT_SENT)
        cause = (OutcomeUnknown if is_sent else Unreachable)(
            f"ServiceX at {self.endpoint.url} does not answer {method} {path}: "
            f"{type(error).__name__}: {error}. Is the address right, and the server running?",
            url=redact(self.endpoint.url),
        )
        # A certificate is no better a moment later.
        is_trusted = "CERTIFICATE" not in str(error).upper()
        return _TransientError(cause) if is_trusted and not is_sent else cause

    def _answer(self, response: httpx.Response, repeatable: bool) -> Any:
        if response.is_success:
            return self._json(response)
        refusal = self._refusal(response)
        # ServiceX answers 500 to requests that it will never accept, but not to reading.
        if response.status_code in TRANSIENT and (repeatable or response.status_code == 429):
            raise _TransientError(refusal, _retry_after(response))
        if response.status_code in UNANSWERED:
            raise OutcomeUnknown(str(refusal), **refusal.facts)
        raise refusal

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise ProtocolError(
                f"{self.endpoint.url} answered {response.request.url.path} with something that is "
                "not JSON. Is the address that of a ServiceX?"
            ) from None

    def _refusal(self, response: httpx.Response) -> ServiceXError:
        status, message = response.status_code, _message(response)
        path = response.request.url.path
        if status in (401, 403, 422):
            return NotAuthorized(
                f"ServiceX at {self.endpoint.url} does not accept this user: {message} "
                f"[{status}]. Put a valid token into servicex.yaml, or name a file that holds "
                "one in BEARER_TOKEN_FILE.",
                status=status,
            )
        if status == 404 and not _is_of_servicex(response):
            # Whoever stands before it while it is restarted.
            return Unreachable(
                f"There is no ServiceX at {self.endpoint.url}: {path} is not found there. Is the "
                "address right, and the server running?",
                url=redact(self.endpoint.url),
            )
        about = _TRANSFORM.match(path)
        if status == 404 and path.startswith(f"{TRANSFORMATION}/"):
            return TransformGone(
                f"{self.endpoint.url} does not know the transform, or no longer: {message}. Submit "
                "its query again.",
                status=status,
                request_id=about[1] if about else None,
            )
        return RequestRefused(
            f"ServiceX at {self.endpoint.url} refused {response.request.method} {path}: "
            f"{message} [{status}]",
            status=status,
        )

    def _authorization(self) -> dict[str, str]:
        token = self._access_token or self._renewed()
        return {"Authorization": f"Bearer {token.reveal()}"} if token else {}

    def _renew(self) -> bool:
        """Get another access token; say whether there is one to try."""
        with self._token_lock:
            refused = self._access_token
            self._access_token = None
        renewed = self._renewed()
        return renewed is not None and renewed != refused

    def _renewed(self) -> Secret | None:
        bearer = self.endpoint.bearer()
        if bearer is not None:
            return bearer
        if self.endpoint.refresh_token is None:
            return None
        with self._token_lock:
            if self._access_token is None:
                self._access_token = self._exchanged(self.endpoint.refresh_token)
            return self._access_token

    def _exchanged(self, refresh_token: Secret) -> Secret:
        headers = {"Authorization": f"Bearer {refresh_token.reveal()}"}
        try:
            response = self._http.post("/token/refresh", headers=headers)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise self._unsent(error, "POST", "/token/refresh", repeatable=True) from None
        if response.status_code in TRANSIENT and response.status_code != 500:
            raise _TransientError(self._refusal(response), _retry_after(response))
        if not response.is_success:
            raise NotAuthorized(
                f"ServiceX at {self.endpoint.url} does not accept the refresh token of "
                f"servicex.yaml: {_message(response)} [{response.status_code}]. Get a new one "
                "from the web page of the server.",
                # Servers say 500 to it too, and then it does not pass either.
                status=httpx.codes.UNAUTHORIZED.value,
            )
        return Secret(self._part("access_token", str, self._json(response)))


@contextmanager
def opened(endpoint: Endpoint) -> Iterator[ServiceXClient]:
    """Make a client for whoever goes on with it; it is closed only if that fails."""
    client = ServiceXClient(endpoint)
    try:
        yield client
    except BaseException:
        client.close()
        raise


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


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time())
        except ValueError:
            return None


def _is_of_servicex(response: httpx.Response) -> bool:
    """Whether an error is one of ServiceX itself, which says it in JSON."""
    try:
        return isinstance(response.json(), dict)
    except ValueError:
        return False


def _message(response: httpx.Response) -> str:
    """Find the words in an error: handlers say ``message``, the token check ``msg``."""
    try:
        said = response.json()
        return str(said.get("message") or said.get("msg") or said)
    except (ValueError, AttributeError):
        return response.reason_phrase
