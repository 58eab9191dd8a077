"""Requests to servers with faults: every wait ends, and nothing is submitted twice."""

from __future__ import annotations

import gc
import threading
import time
from email.utils import formatdate

import pytest
import urllib3
from support.strategies import Answer, ScriptedServer, say

from coffea_sx.errors import (
    ConfigurationError,
    NotAuthorized,
    OutcomeUnknown,
    ProtocolError,
    RequestRefused,
    ServerError,
    TransformGone,
    Unreachable,
)
from coffea_sx.servicex.client import ServiceXClient
from coffea_sx.servicex.config import EndpointName, find_endpoint
from coffea_sx.servicex.http import Response
from coffea_sx.wire.clock import DEFAULT_LIMITS, Limits

INFO = {"app-version": "1", "code-gen-image": {"uproot": "image"}, "capabilities": ["a"]}
ROWS = {"results": []}


def script(*answers):
    """Give the answers in turn, the last one for ever."""
    left = list(answers)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


def submit(client, selection):
    return client.submit(selection, did=None, files=["/a.root"])


# -- reading is repeated


@pytest.mark.sampled(3)
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_reading_survives_a_short_outage(scripted, client_of, status):
    server = scripted(script(*[Answer(status)] * 3, say(INFO)))
    assert client_of(server.url).info().version == "1"
    assert len(server.asked) == 4


def test_answers_do_not_wait_for_the_garbage_collector(scripted, client_of):
    marked = say({**ROWS, "note": "of this test"}, Note="of this test")
    client = client_of(scripted(script(marked)).url)
    client.results("d857")
    gc.collect()
    gc.disable()
    try:
        client.results("d857")
        assert not any(map(is_marked, gc.get_objects()))
    finally:
        gc.enable()


def is_marked(one: object) -> bool:
    """Return True for a response to the test above: clients of other tests may be at work, too."""
    kind = type(one)  # weak references may pretend to be of another
    if issubclass(kind, Response):
        return b"of this test" in getattr(one, "content", b"")
    return issubclass(kind, urllib3.BaseHTTPResponse) and "Note" in getattr(one, "headers", {})


def test_reading_survives_broken_connections(scripted, client_of):
    server = scripted(script(*[Answer(200, b"{", claims=100, fault="reset")] * 2, say(ROWS)))
    assert client_of(server.url).results("d857") == []


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(scripted, client_of, as_date):
    after = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    server = scripted(script(say({}, 503, Retry_After=after), say(ROWS)))
    start = time.monotonic()
    client_of(server.url).results("d857")
    assert 0.9 < time.monotonic() - start < 4


@pytest.mark.parametrize("after", ["soon", "", "-5", "nan"])
def test_a_senseless_retry_after_does_no_harm(scripted, client_of, after):
    server = scripted(script(say({}, 503, Retry_After=after), say(ROWS)))
    start = time.monotonic()
    assert client_of(server.url).results("d857") == []
    assert time.monotonic() - start < 3


def test_a_long_retry_after_ends_with_the_patience(scripted, client_of):
    server = scripted(script(say({"message": "maintenance"}, 503, Retry_After="3600")))
    start = time.monotonic()
    with pytest.raises(RequestRefused, match="maintenance"):
        client_of(server.url, patience_s=1).results("d857")
    assert time.monotonic() - start < 2


def test_an_outage_ends_with_the_patience(scripted, client_of):
    server = scripted(script(say({"message": "try later"}, 503)))
    start = time.monotonic()
    with pytest.raises(RequestRefused, match="try later") as caught:
        client_of(server.url, patience_s=1).results("d857")
    assert time.monotonic() - start < 2
    assert caught.value.status == 503
    assert len(server.asked) > 1


def test_nobody_listens(closed_port, client_of):
    start = time.monotonic()
    with pytest.raises(Unreachable, match=f"127.0.0.1:{closed_port}"):
        client_of(f"http://127.0.0.1:{closed_port}", patience_s=1).info()
    assert time.monotonic() - start < 2


def test_a_host_that_does_not_exist(client_of):
    with pytest.raises(Unreachable):
        client_of("http://servicex.invalid", patience_s=0.5).info()


def test_a_server_that_never_answers(scripted, client_of):
    server = scripted(lambda asked: Answer(fault="hang"))
    start = time.monotonic()
    with pytest.raises(Unreachable, match="it sent 0 bytes in 0"):
        client_of(server.url, patience_s=1, limits=Limits(total_s=0.3)).info()
    assert time.monotonic() - start < 2.5


def test_the_default_limits_end_a_hang():
    assert DEFAULT_LIMITS.total_s <= 60
    assert DEFAULT_LIMITS.connect_s <= 10


# -- submitting is not


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (500, RequestRefused),
        (502, OutcomeUnknown),
        (503, RequestRefused),
        (504, OutcomeUnknown),
    ],
)
def test_submitting_is_not_repeated_after_an_error(scripted, client_of, selection, status, kind):
    server = scripted(script(say({"message": "no"}, status), say({"request_id": "twice"})))
    with pytest.raises(kind, match="no"):
        submit(client_of(server.url), selection)
    assert server.count("POST") == 1


def test_submitting_is_not_repeated_after_a_timeout(scripted, client_of, selection):
    server = scripted(lambda asked: Answer(fault="hang"))
    with pytest.raises(OutcomeUnknown):
        submit(client_of(server.url, limits=Limits(total_s=0.3)), selection)
    assert server.count("POST") == 1


def test_submitting_is_not_repeated_after_a_broken_connection(scripted, client_of, selection):
    server = scripted(lambda asked: Answer(200, b"{", claims=100, fault="reset"))
    with pytest.raises(OutcomeUnknown):
        submit(client_of(server.url), selection)
    assert server.count("POST") == 1


def test_submitting_is_repeated_while_nobody_listens(closed_port, client_of, selection):
    """No connection was made, so nothing was submitted."""
    servers = []

    def start():
        servers.append(ScriptedServer(lambda asked: say({"request_id": "d857"}), closed_port))

    starting = threading.Timer(0.5, start)
    starting.start()
    assert submit(client_of(f"http://127.0.0.1:{closed_port}", patience_s=20), selection) == "d857"
    starting.join()
    (server,) = servers
    assert server.count("POST") == 1
    server.stop()


def test_submitting_is_repeated_when_there_are_too_many(scripted, client_of, selection):
    server = scripted(script(say({}, 429), say({"request_id": "d857"})))
    assert submit(client_of(server.url), selection) == "d857"


def test_nothing_was_submitted_while_nobody_listens(closed_port, client_of, selection):
    with pytest.raises(Unreachable) as caught:
        submit(client_of(f"http://127.0.0.1:{closed_port}", patience_s=0.3), selection)
    assert type(caught.value) is Unreachable


# -- errors of the server


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (say({"message": "Transformation request not found with id: x"}, 404), TransformGone, "x"),
        (Answer(404, b"<html>"), Unreachable, "no ServiceX at"),
        (say({"message": "the json was malformed"}, 400), RequestRefused, "malformed"),
        (say({"msg": "Missing Authorization Header"}, 401), NotAuthorized, "Missing"),
        (say({"message": "pending"}, 403), NotAuthorized, "pending"),
        (say({"msg": "Not enough segments"}, 422), NotAuthorized, "segments"),
        (say(["a", "list"], 400), RequestRefused, "400"),
        (Answer(200, b"<html>login</html>"), ProtocolError, "not JSON"),
        (Answer(200, b""), ProtocolError, "not JSON"),
        (Answer(200, b"\xff\xfe"), ProtocolError, "not JSON"),
        (Answer(204), ProtocolError, "not JSON"),
    ],
)
def test_errors(scripted, client_of, answer, kind, says):
    server = scripted(lambda asked: answer)
    with pytest.raises(kind, match=says) as caught:
        client_of(server.url).status("d857")
    assert len(server.asked) == 1
    assert server.url in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(scripted, client_of, status):
    other = scripted(lambda asked: say(INFO))
    server = scripted(lambda asked: Answer(status, b"", {"Location": f"{other.url}/servicex"}))
    with pytest.raises(ServerError):
        client_of(server.url).info()
    assert other.asked == []


def test_a_password_in_the_address_is_refused_and_not_shown(client_of):
    with pytest.raises(ConfigurationError, match="password") as caught:
        client_of("http://me:CANARY@127.0.0.1:1")
    assert "CANARY" not in str(caught.value) + repr(caught.value.facts)


# -- tokens


class TokenServer:
    """Accepts the newest access token, and a refresh token."""

    def __init__(self, accepts: str = "REFRESH") -> None:
        self.accepts, self.issued, self.revoked = accepts, 0, set()

    def __call__(self, asked):
        bearer = asked.headers.get("Authorization", "").removeprefix("Bearer ")
        if asked.path == "/token/refresh":
            if bearer != self.accepts:
                return say({"message": "Invalid or outdated refresh token"}, 401)
            self.issued += 1
            return say({"access_token": f"access-{self.issued}"})
        if asked.path != "/servicex" and bearer != f"access-{self.issued}":
            return say({"msg": "Token has expired"}, 401)
        return say({**INFO, **ROWS})


def with_token(server, tmp_path, token="REFRESH", **options):
    path = tmp_path / "servicex.yaml"
    path.write_text(f"api_endpoints:\n  - {{endpoint: {server.url}, name: x, token: {token}}}\n")
    return ServiceXClient(find_endpoint(EndpointName("x", None, str(path))), **options)


def test_a_refresh_token_is_exchanged_once(scripted, tmp_path):
    server = scripted(TokenServer())
    client = with_token(server, tmp_path)
    for _ in range(3):
        client.results("d857")
    assert server.count("POST", "/token/refresh") == 1
    client.close()


def test_a_refused_token_is_renewed_once_and_the_request_replayed(scripted, tmp_path):
    play = TokenServer()
    server = scripted(play)
    client = with_token(server, tmp_path)
    client.results("d857")
    play.issued += 1  # the old access token expires
    assert client.results("d857") == []
    assert server.count("POST", "/token/refresh") == 2
    client.close()


def test_a_submission_is_replayed_after_a_401(scripted, tmp_path, selection):
    play = TokenServer()

    def play_submissions(asked):
        answer = play(asked)
        if asked.path == "/servicex/transformation" and answer.status == 200:
            return say({"request_id": "d857"})
        return answer

    server = scripted(play_submissions)
    client = with_token(server, tmp_path)
    client.results("d857")
    play.issued += 1
    assert submit(client, selection) == "d857"
    client.close()


def test_a_token_that_is_never_accepted(scripted, tmp_path):
    def play(asked):
        if asked.path == "/token/refresh":
            return say({"access_token": f"CANARY-{len(server.asked)}"})
        return say({"msg": "Token has expired"}, 401)

    server = scripted(play)
    client = with_token(server, tmp_path)
    with pytest.raises(NotAuthorized, match="Token has expired") as caught:
        client.results("d857")
    assert server.count("POST", "/token/refresh") == 2
    assert server.count("GET") == 2
    assert "CANARY" not in str(caught.value)
    client.close()


def test_a_refresh_token_that_is_refused(scripted, tmp_path):
    server = scripted(TokenServer())
    client = with_token(server, tmp_path, "CANARY")
    with pytest.raises(NotAuthorized, match="refresh token") as caught:
        client.results("d857")
    assert "CANARY" not in str(caught.value)
    assert server.count("GET") == 0
    client.close()


@pytest.mark.parametrize("answer", [Answer(200, b"<html>"), say({}), say([]), say(None)])
def test_an_exchange_that_answers_nonsense(scripted, tmp_path, answer):
    server = scripted(lambda asked: answer)
    client = with_token(server, tmp_path)
    with pytest.raises(ServerError):
        client.results("d857")
    client.close()


def test_an_exchange_survives_a_short_outage(scripted, tmp_path):
    play = TokenServer()
    outage = [Answer(503), Answer(502)]
    server = scripted(lambda asked: outage.pop() if outage else play(asked))
    client = with_token(server, tmp_path)
    assert client.results("d857") == []
    client.close()


def test_a_token_file_is_read_anew(scripted, client_of, tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text("one\n")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(path))
    good = {"one"}

    def play(asked):
        token = asked.headers["Authorization"].removeprefix("Bearer ")
        return say(ROWS) if token in good else say({"msg": "Token has expired"}, 401)

    server = scripted(play)
    client = client_of(server.url)
    client.results("d857")
    path.write_text("two\n")
    good.clear()
    good.add("two")
    assert client.results("d857") == []


def test_a_token_file_that_is_rotated_while_a_request_is_refused(
    scripted, client_of, tmp_path, monkeypatch
):
    path = tmp_path / "token"
    path.write_text("old")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(path))

    def play(asked):
        if asked.headers["Authorization"] == "Bearer new":
            return say(ROWS)
        path.write_text("new")
        return say({"msg": "Token has expired"}, 401)

    server = scripted(play)
    assert client_of(server.url).results("d857") == []
    assert len(server.asked) == 2


def test_no_token_no_header(scripted, client_of):
    server = scripted(lambda asked: say(ROWS))
    client_of(server.url).results("d857")
    assert "Authorization" not in server.asked[0].headers


# -- against the real thing


def test_a_server_with_tokens(tmp_path, nano_files, selection):
    from coffea_sx.local import LocalServiceX

    with LocalServiceX(tokens=True, workers=1, access_token_s=1) as server:
        (tmp_path / "servicex.yaml").write_text(server.servicex_yaml())
        endpoint = find_endpoint(EndpointName("local", None, str(tmp_path / "servicex.yaml")))
        client = ServiceXClient(endpoint)
        request_id = client.submit(selection, did=None, files=nano_files[:1])
        time.sleep(1.2)
        assert client.status(request_id).n_files == 1
        client.close()
        stranger = ServiceXClient(find_endpoint(EndpointName(None, server.url, None)))
        with pytest.raises(NotAuthorized, match="Missing Authorization Header"):
            stranger.submit(selection, did=None, files=nano_files[:1])
        stranger.close()
