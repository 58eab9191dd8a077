"""No secret survives in text, and none is printed or pickled."""

from __future__ import annotations

import copy
import json
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import TOKEN, secret_urls

from coffea_sx.redact import Secret, redact

PRESIGNED_V2 = (
    "http://127.0.0.1:9000/d857/:data:nano.root"
    "?AWSAccessKeyId=CANARY1&Signature=CANARY2%2Bx%3D&Expires=1795358621"
)
PRESIGNED_V4 = (
    "https://store.org/d857/%3Adata%3Anano.root?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=CANARY1%2F20261122%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Signature=CANARY2"
)


@pytest.mark.parametrize(
    "text",
    [
        PRESIGNED_V2,
        PRESIGNED_V4,
        f"could not open '{PRESIGNED_V4}': 403",
        f'{{"url": "{PRESIGNED_V2}"}}',
        f"<a href={PRESIGNED_V4}>",
        f"({PRESIGNED_V2})",
        "root://CANARY1:CANARY2@se.org:1094//data/nano.root",
        "https://CANARY@host/path",
        "https://CANARY@host",
        "https://CANARY:x@host/path?authz=CANARY",
        "davs://se.org/a.root?authz=Bearer%20CANARY",
        "HTTPS://HOST/a?Signature=CANARY",
        "Https://me:CANARY@HOST/a",
        "Authorization: Bearer CANARY.CANARY-x_y.CANARY",
        "{'authorization': 'bearer CANARY'}",
        "Bearer  CANARY==",
        f"first {PRESIGNED_V2} then {PRESIGNED_V4}\nand {PRESIGNED_V2}",
        "http://host?token=CANARY",
        "root://cache.org//root://CANARY:CANARY@se.org//a.root?authz=CANARY",
    ],
)
def test_no_secret_survives(text):
    assert "CANARY" not in redact(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (PRESIGNED_V2, "http://127.0.0.1:9000/d857/:data:nano.root?..."),
        (
            f"could not open '{PRESIGNED_V4}': 403",
            "could not open 'https://store.org/d857/%3Adata%3Anano.root?...': 403",
        ),
        ("root://me:pw@se.org:1094//data/nano.root", "root://se.org:1094//data/nano.root"),
        ("Bearer abc, then", "Bearer ..., then"),
    ],
)
def test_the_rest_of_a_text_is_kept(text, kept):
    assert redact(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a column 'nMuno'? Did you mean 'nMuon'?",
        "/data/nano.root",
        "root://se.org//store/user@cern/a.root",
        "https://host/path/without/query",
        "servicex://d857/:data:nano.root",
        "mail me@cern.ch",
    ],
)
def test_text_without_secrets_is_left_alone(text):
    assert redact(text) == text


@given(secret_urls(), st.sampled_from(["", "'", '"', "(", "<", " "]))
def test_no_query_value_and_no_user_of_any_url_survives(url_and_secrets, before):
    url, secrets = url_and_secrets
    closing = {"(": ")", "<": ">"}.get(before, before)
    text = redact(f"failed: {before}{url}{closing} [403]")
    assert not any(secret in text for secret in secrets)
    assert text.endswith("[403]")


@given(secret_urls())
def test_redacting_twice_changes_nothing(url_and_secrets):
    once = redact(url_and_secrets[0])
    assert redact(once) == once


@given(TOKEN, st.sampled_from(["Bearer ", "bearer ", "Authorization: Bearer ", "BEARER  "]))
def test_no_bearer_token_survives(token, before):
    assert token not in redact(f"header {before}{token} refused")


@given(TOKEN)
def test_a_secret_never_prints(token):
    secret = Secret(token)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r}",
        f"{secret:>40}" if _takes_width(secret) else "",
        f"{[secret]}",
        "%s" % secret,  # noqa: UP031
        f"{ {'token': secret} }",
    ]
    assert not any(token in text for text in shown)
    assert secret.reveal() == token


def _takes_width(secret: Secret) -> bool:
    try:
        format(secret, ">40")
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_never_pickled(protocol):
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps({"token": Secret("CANARY")}, protocol)


@pytest.mark.parametrize("dump", [copy.copy, copy.deepcopy, json.dumps])
def test_a_secret_leaves_in_no_other_way(dump):
    with pytest.raises(TypeError) as caught:
        dump(Secret("CANARY"))
    assert "CANARY" not in str(caught.value)


def test_a_secret_has_no_dict():
    assert not hasattr(Secret("CANARY"), "__dict__")


def test_secrets_compare_by_value():
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a")
    assert not Secret("")


@pytest.mark.parametrize(
    "text", ["a://" * 50_000, "?" * 200_000, "a://b?c" * 50_000, "a://b@" * 50_000, "x" * 10**6]
)
def test_long_texts_are_redacted_in_linear_time(text):
    """With patterns that begin at every letter it takes hours."""
    done = threading.Event()
    threading.Thread(target=lambda: (redact(text), done.set()), daemon=True).start()
    assert done.wait(20)


def test_a_word_that_is_too_long_for_a_url_is_not_shown():
    assert redact(f"see http://host/a?Signature={'x' * 9000} for more") == "see ... for more"
