"""Secrets that a server repeats are shown nowhere: neither by errors nor by logs."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import re
import traceback
from urllib.parse import quote

import pytest
from support.raw import RawServer
from support.strategies import Answer, say, status_json

from coffea_sx.errors import ConfigurationError, ReadError, ServerError, ServiceXError
from coffea_sx.policy import ClientPolicy
from coffea_sx.redact import Secret, SecretRegistry, redact
from coffea_sx.servicex.client import ServiceXClient
from coffea_sx.servicex.config import EndpointName, find_endpoint
from coffea_sx.servicex.models import SignedUrl
from coffea_sx.storage.policy import ReadPolicy
from coffea_sx.storage.transport import fetch

HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")


def jwt(name):
    payload = base64.urlsafe_b64encode(f'{{"sub":"CANARY{name}"}}'.encode()).decode().rstrip("=")
    return f"{HEADER}.{payload}.CANARYsignature{name}"


def sentences_with(token):
    """Return sentences with a token as servers may write it."""
    encoded = base64.b64encode(token.encode()).decode()
    return [
        f"token {token} is not valid",
        f"token '{token}' is not valid",
        f"/login?next={quote(token, safe='')}",
        f"payload {token.split('.')[1]} cannot be read",
        f"signature {token.split('.')[2]} is wrong",
        f"Basic {encoded} is not known",
    ]


def text_of(error, seen=None):
    """Return all text that may be printed or sent of an error and of its causes."""
    seen = seen if seen is not None else set()
    if error is None or id(error) in seen:
        return ""
    seen.add(id(error))
    return "\n".join(
        [
            str(error),
            repr(error),
            repr(vars(error)),
            *traceback.format_exception(error),
            pickle.dumps(error).decode("latin-1"),
            text_of(error.__cause__, seen),
            text_of(error.__context__, seen),
        ]
    )


def assert_hidden(text, token):
    hidden = [token, *token.split(".")[1:], base64.b64encode(token.encode()).decode().rstrip("=")]
    assert not [secret for secret in hidden if secret in text]
    assert "CANARY" not in text


def bearer_of(request):
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def configured(server, tmp_path, token):
    path = tmp_path / "servicex.yaml"
    path.write_text(f"api_endpoints:\n  - {{endpoint: {server.url}, name: x, token: {token}}}\n")
    name = EndpointName("x", None, str(path))
    return ServiceXClient(find_endpoint(name), ClientPolicy(patience_s=0.3))


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.DEBUG)
    return caplog


SENTENCES = range(len(sentences_with(jwt(""))))


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("status", [200, 400, 401, 404, 503])
@pytest.mark.parametrize("from_file", [False, True])
def test_a_token_that_is_repeated(
    scripted, tmp_path, monkeypatch, log, sentence, status, from_file
):
    token = jwt(f"t{sentence}{status}{from_file}")

    def play(request):
        if request.path == "/token/refresh" and status != 401:
            return say({"access_token": jwt("access")})
        message = sentences_with(bearer_of(request) or token)[sentence]
        return Answer(200, message.encode()) if status == 200 else say({"message": message}, status)

    server = scripted(play)
    if from_file:
        (tmp_path / "token").write_text(token)
        monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    client = configured(server, tmp_path, "" if from_file else token)
    with pytest.raises(ServiceXError) as caught:
        client.results("d857")
    client.close()
    text = text_of(caught.value)
    assert_hidden(text, token)
    assert_hidden(text, jwt("access"))
    assert_hidden(log.text, token)
    if status == 400:
        assert "..." in str(caught.value)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_an_access_token_that_is_repeated(scripted, tmp_path, log, sentence):
    access = jwt(f"access{sentence}")

    def play(request):
        if request.path == "/token/refresh":
            return say({"access_token": access})
        return say({"msg": sentences_with(bearer_of(request))[sentence]}, 401)

    client = configured(scripted(play), tmp_path, jwt("refresh"))
    with pytest.raises(ServerError, match=re.escape("[401]")) as caught:
        client.results("d857")
    client.close()
    assert_hidden(text_of(caught.value) + log.text, access)


def test_a_token_in_a_status_line(tmp_path, log):
    """Errors of HTTP libraries quote what is not HTTP."""
    token = jwt("line")

    def play(connection):
        connection.read_request()
        connection.send(f"HTTP/1.1 {token} {token}\r\n\r\n".encode())

    server = RawServer(play)
    client = configured(server, tmp_path, token)
    with pytest.raises(ServerError) as caught:
        client.results("d857")
    client.close()
    server.stop()
    assert_hidden(text_of(caught.value) + log.text, token)


def test_keys_of_a_store_that_repeats_them(scripted, log):
    """The status of a transform has them, and a store may answer with them."""
    key = "CANARYkeyOfTheStore"

    def play(request):
        if request.path.startswith("/servicex"):
            keys = {"minio_secret_key": key, "minio_access_key": f"access-{key}"}
            return say(status_json(**keys))
        return Answer(403, f"<Error><Code>{key}</Code></Error>".encode())

    server = scripted(play)
    client = ServiceXClient(find_endpoint(EndpointName(None, server.url, None)))
    client.status("d857")
    client.close()
    signed_url = SignedUrl(f"{server.url}/b/o", {}, 1e12)
    with pytest.raises(ReadError, match="403") as caught:
        fetch(f"o-{key}.root", lambda refresh: signed_url, 0, 10, policy=ReadPolicy(retry_s=0.3))
    assert_hidden(text_of(caught.value) + log.text, f"{key}.{key}.{key}")


@pytest.mark.parametrize(
    "url",
    [
        "http://me:CANARY@127.0.0.1:1",
        "me:CANARY@127.0.0.1",
        "http:/me:CANARY@127.0.0.1",
        "http://me:CAN/CANARY@127.0.0.1",
        "http://me:CAN?CANARY@127.0.0.1",
        "http://me:CAN#CANARY@127.0.0.1",
        "http://me:CAN CANARY@127.0.0.1",
        "http://[me:CANARY@127.0.0.1",
        "https://CANARY@host",
    ],
)
def test_a_password_in_an_address(url):
    with pytest.raises(ConfigurationError, match="password") as caught:
        find_endpoint(EndpointName(None, url, None))
    assert "CANARY" not in text_of(caught.value)


@pytest.mark.parametrize("url", ["http://[", "http://[::1", "//", "ftp://host", "host"])
def test_an_invalid_address(url):
    with pytest.raises(ConfigurationError, match="address"):
        find_endpoint(EndpointName(None, url, None))


# -- in all texts


def test_facts_are_redacted_in_all_depths():
    Secret("CANARY-of-facts")
    error = ServiceXError(
        "what",
        deep={"a": ["CANARY-of-facts", ("x CANARY-of-facts",)], "CANARY-of-facts": 1},
        number=3,
        names={"CANARY-of-facts"},
    )
    assert "CANARY" not in text_of(error)
    assert error.number == 3
    assert error.deep["a"][1] == ("x ...",)


def test_our_logs_are_redacted_for_handlers_of_users(log):
    Secret("CANARY-of-logs")
    logger = logging.getLogger("coffea_sx.polling.anything")
    logger.warning("to %s", "CANARY-of-logs")
    logger.warning("with CANARY-of-logs %s")
    try:
        raise ValueError("CANARY-of-logs")
    except ValueError:
        logger.exception("it failed")
    assert len(log.records) == 3
    assert "CANARY" not in log.text
    assert "it failed" in log.text
    assert "ValueError: ..." in log.text


def test_short_secrets_leave_texts_alone():
    Secret("abc")
    Secret("")
    assert redact("abcdef") == "abcdef"


def test_secrets_in_json_and_python():
    Secret('CANARY"with\\signs')
    assert "CANARY" not in redact(json.dumps({"token": 'CANARY"with\\signs'}))
    assert "CANARY" not in redact(repr({"token": 'CANARY"with\\signs'}))


def test_the_newest_secrets_are_kept():
    registry = SecretRegistry(max_secrets=3)
    for i in range(6):
        registry.add(f"CANARY-{i}")
    registry.add("CANARY-3")  # is new again
    registry.add("CANARY-6")
    text = " ".join(f"CANARY-{i}" for i in range(7))
    assert registry.hide(text) == "CANARY-0 CANARY-1 CANARY-2 ... CANARY-4 ... ..."


def test_the_secrets_of_a_process_are_few():
    for i in range(256):
        Secret(f"CANARY-{i:08}")
    redacted = redact("\n".join(f"CANARY-{i:08}" for i in range(256))).splitlines()
    assert redacted == [*(f"CANARY-{i:08}" for i in range(128)), *["..."] * 128]


def test_redacting_a_long_text_is_cheap():
    import time

    for i in range(128):
        Secret(jwt(f"{i}{'x' * 500}"))
    text = "a traceback of some length " * 400
    redact(text)
    begin = time.process_time()
    for _ in range(20):
        redact(text)
    assert (time.process_time() - begin) / 20 < 0.05
