"""HTTP requests to a ServiceX server: retries, access tokens, and errors of the package."""

from __future__ import annotations

import json
import math
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import responses
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import tenacity
from urllib3.exceptions import HTTPError

from .. import errors
from ..policy import DEFAULT_CLIENT, ClientPolicy
from ..redact import Secret, redact
from ..wire.clock import DEFAULT_LIMITS, Clock, Limits, OutOfTimeError
from ..wire.connections import close_pool, make_pool
from ..wire.exchanges import blocks, exchange, retry_after
from .config import Endpoint
from .models import parse_access_token

TRANSFORMATION = "/servicex/transformation"
TRANSIENT = {429, 500, 502, 503, 504}
# Responses of a gateway whose server may still be at work on the request.
UNANSWERED = {502, 504}
# Characters of the message of an error that are shown.
MESSAGE_LENGTH = 2000
# Bytes of a response that are read at once.
BLOCK = 1 << 16
# Locks cannot be waited for without end and with a timeout.
_LONGEST_WAIT_S = 3600.0
_ADVICE = "Is the address right, and the server running?"

_REQUEST_ID = re.compile(rf"{TRANSFORMATION}/([0-9a-f-]{{36}})")

Parsed = TypeVar("Parsed")


class _TransientError(Exception):
    """Repeats the request; `cause` is raised after the last attempt."""

    def __init__(self, cause: errors.ServiceXError, retry_after: float | None = None) -> None:
        self.cause, self.retry_after = cause, retry_after


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a server.

    Attributes
    ----------
    method, path : str
    content : object
        Body, to be written as JSON; None for none.
    is_repeatable : bool
        True if the request may be sent twice; others are repeated only if they were not sent.
    """

    method: str
    path: str
    content: Any = None
    is_repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a request.

    Attributes
    ----------
    status : int
    content : bytes
    retry_after : float or None
        Seconds for which the server wants to be left alone.
    """

    status: int
    content: bytes = field(repr=False)
    retry_after: float | None

    @property
    def error(self) -> dict[str, Any] | None:
        """Body of an error of ServiceX itself, which writes an object; None of any other."""
        try:
            body = json.loads(self.content)
        except (ValueError, RecursionError):
            return None
        return body if isinstance(body, dict) else None

    @property
    def message(self) -> str:
        """Message of an error: handlers write ``message``, the check of tokens ``msg``."""
        body = self.error
        if body is None:
            return responses.get(self.status, "it gives no reason")
        text = str(body.get("message") or body.get("msg") or body)
        # Redacted before it is cut: a part of a secret is not recognized.
        return redact(text[: 10 * MESSAGE_LENGTH])[:MESSAGE_LENGTH]


class HttpSession:
    """Connections to one server, and the access token for it.

    Parameters
    ----------
    endpoint : Endpoint
    policy : ClientPolicy
    limits : Limits
        Time that one request may take.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        policy: ClientPolicy = DEFAULT_CLIENT,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.endpoint, self.policy = endpoint, policy
        self._url, self._limits = endpoint.url, limits
        self._connections = make_pool(_proxy(self._url))
        self._access_token: Secret | None = None
        self._token_lock = threading.Lock()
        self._clock_offset = timedelta(0)
        self._closing = threading.Event()
        weakref.finalize(self, close_pool, self._connections)

    def close(self) -> None:
        """Close the connections; a request that waits for its response ends at once."""
        self._closing.set()
        close_pool(self._connections)

    @property
    def server_time(self) -> datetime:
        """Current time, or a little less, by the clock in the last response of the server."""
        return datetime.now(timezone.utc) + self._clock_offset

    def send(
        self, request: Request, parse: Callable[[Any], Parsed], timeout_s: float = math.inf
    ) -> Parsed:
        """Send a request, with as many attempts as the policy allows; return the parsed response.

        Parameters
        ----------
        request : Request
        parse : callable
            Takes the JSON of the response.
        timeout_s : float
            Time for all attempts, with a new access token, seconds.

        Raises
        ------
        ServerError, TransformGone
        """
        is_late = tenacity.stop_before_delay(min(self.policy.patience_s, timeout_s))
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TransientError),
            stop=is_late | tenacity.stop_when_event_set(self._closing),
            wait=_pause,
            sleep=tenacity.sleep_using_event(self._closing),
            reraise=True,
        )
        try:
            response = attempts(self._attempt, request, monotonic() + timeout_s)
        except _TransientError as error:
            cause, n_tries = error.cause, attempts.statistics["attempt_number"]
            raise type(cause)(f"{cause} Tries: {n_tries}.", **cause.facts) from None
        return self._parsed(request, response, parse)

    def get(self, path: str, parse: Callable[[Any], Parsed], timeout_s: float = math.inf) -> Parsed:
        """Send a request without content, as `send` does."""
        return self.send(Request("GET", path), parse, timeout_s)

    def _attempt(self, request: Request, end: float) -> Response:
        response = self._exchange(request, self._access_token or self._token(end), end)
        if response.status == 401 and self._renew_token(end):
            response = self._exchange(request, self._access_token or self._token(end), end)
        if 200 <= response.status < 300:
            return response
        refusal = self._refusal(request, response)
        # ServiceX answers 500 to requests that it will never accept, but not to reading.
        if response.status in TRANSIENT and (request.is_repeatable or response.status == 429):
            raise _TransientError(refusal, response.retry_after)
        if response.status in UNANSWERED:
            raise errors.OutcomeUnknown(str(refusal), **refusal.facts)
        raise refusal

    # -- one attempt

    def _exchange(self, request: Request, token: Secret | None, end: float) -> Response:
        if self._closing.is_set():
            raise self._was_closed()
        headers = {"Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
        if token:
            headers["Authorization"] = f"Bearer {token.reveal()}"
        if request.content is not None:
            headers["Content-Type"] = "application/json"
        body = None if request.content is None else json.dumps(request.content).encode()
        clock = Clock(self._limits, end, self._closing.is_set)
        send = partial(exchange, self._connections, request.method, f"{self._url}{request.path}")
        try:
            with send(clock, headers=headers, body=body, at_most=0) as response:
                self._read_clock(response.headers)
                content = bytearray()
                for block in blocks(response, BLOCK, decode=True):
                    content += block
                    if len(content) > self.policy.max_response_bytes:
                        raise self._too_large(request)
                return Response(response.status, bytes(content), retry_after(response))
        except HTTPError as error:
            if self._closing.is_set():
                raise self._was_closed() from None
            raise self._without_response(error, request, clock.is_sent) from None

    def _read_clock(self, headers: Mapping[str, str]) -> None:
        """Record by how much the clock of the server is ahead, at least: it sends whole seconds."""
        with suppress(KeyError, TypeError, ValueError):
            self._clock_offset = parsedate_to_datetime(headers["Date"]) - datetime.now(timezone.utc)

    def _parsed(
        self, request: Request, response: Response, parse: Callable[[Any], Parsed]
    ) -> Parsed:
        try:
            return parse(json.loads(response.content))
        except (ValueError, RecursionError):
            raise errors.ProtocolError(
                f"{self._url} answered {_path(request)} with something that is not JSON. Is the "
                "address that of a ServiceX?"
            ) from None
        except errors.ProtocolError as error:
            text = f"{self._url} answers, but not as a ServiceX does: {error} Is the address right?"
            raise errors.ProtocolError(text) from None

    # -- errors

    def _without_response(self, error: HTTPError, request: Request, is_sent: bool) -> Exception:
        text = f"ServiceX at {self._url} does not answer {request.method} {request.path}"
        if isinstance(error, OutOfTimeError):
            text += f" in time: {error}. Is it overloaded, or what is between it and here?"
        else:
            text += f": {type(error).__name__}: {error}. {_ADVICE}"
        if is_sent and not request.is_repeatable:
            return errors.OutcomeUnknown(text, url=self._url)
        cause = errors.Unreachable(text, url=self._url)
        # A certificate is no better a moment later.
        return cause if "CERTIFICATE" in str(error).upper() else _TransientError(cause)

    def _was_closed(self) -> errors.ServerError:
        text = f"The connection to {self._url} was closed with the poller of its transform."
        return errors.ServerError(text)

    def _too_large(self, request: Request) -> errors.ProtocolError:
        return errors.ProtocolError(
            f"{self._url} answers {request.method} {request.path} with more than "
            f"{self.policy.max_response_bytes >> 20} MB, as no ServiceX does. Is the address right?"
        )

    def _refusal(self, request: Request, response: Response) -> errors.ServiceXError:
        message, status = response.message, response.status
        path, url = _path(request), self._url
        if status in (401, 403, 422):
            return errors.NotAuthorized(
                f"ServiceX at {url} does not accept this user: {message} [{status}]. Put a valid "
                "token into servicex.yaml, or name a file that holds one in BEARER_TOKEN_FILE.",
                status=status,
            )
        if status == 404 and response.error is None:
            # A gateway before a server that is being restarted.
            text = f"There is no ServiceX at {url}: {path} is not found there. {_ADVICE}"
            return errors.Unreachable(text, url=url)
        if status == 404 and f"{TRANSFORMATION}/" in path:
            match = _REQUEST_ID.search(path)
            text = f"{url} has no such transform, or no longer: {message}. Submit its query again."
            return errors.TransformGone(text, status=status, request_id=match and match[1])
        text = f"ServiceX at {url} refused {request.method} {path}: {message} [{status}]"
        return errors.RequestRefused(text, status=status)

    # -- access tokens

    def _renew_token(self, end: float) -> bool:
        """Drop the access token; return True if there is another one to try."""
        with self._renewing(end):
            refused, self._access_token = self._access_token, None
        token = self._token(end)
        return token is not None and token != refused

    def _token(self, end: float) -> Secret | None:
        bearer, refresh_token = self.endpoint.bearer(), self.endpoint.refresh_token
        if bearer is not None or refresh_token is None:
            return bearer
        with self._renewing(end):
            if self._access_token is None:
                self._access_token = self._get_token(refresh_token, end)
            return self._access_token

    @contextmanager
    def _renewing(self, end: float) -> Iterator[None]:
        """Let one thread at a time renew the access token; the others wait until their end."""
        if not self._token_lock.acquire(timeout=min(max(0.0, end - monotonic()), _LONGEST_WAIT_S)):
            text = f"ServiceX at {self._url} gives no access token in time."
            raise errors.Unreachable(text, url=self._url)
        try:
            yield
        finally:
            self._token_lock.release()

    def _get_token(self, refresh_token: Secret, end: float) -> Secret:
        request = Request("POST", "/token/refresh")
        response = self._exchange(request, refresh_token, end)
        if 200 <= response.status < 300:
            return self._parsed(request, response, parse_access_token)
        if response.status in TRANSIENT and response.status != 500:
            raise _TransientError(self._refusal(request, response), response.retry_after)
        raise errors.NotAuthorized(
            f"ServiceX at {self._url} does not accept the refresh token of servicex.yaml: "
            f"{response.message} [{response.status}]. Get a new one from the web page of the "
            "server.",
            status=401,  # servers answer 500 too, and then it does not pass either
        )


def _path(request: Request) -> str:
    return request.path.partition("?")[0]


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    backoff = tenacity.wait_random_exponential(multiplier=0.2, max=5)(state)
    return max(getattr(error, "retry_after", None) or 0.0, backoff)
