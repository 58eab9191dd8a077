"""Code generators: the checks of selections of ``python``, and the servers that offer it."""

from __future__ import annotations

from base64 import b64encode

import pytest
from support.functions import HEAD, encoded, returning

REFUSED = "Invalid Codegen Image Passed in Request: python"


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("", "empty string"),
        ("(call Select)", "base64"),
        ("ä", "ASCII"),
        (encoded("def other(path): pass"), "defines no function run_query"),
        (encoded("def run_query(path) pass"), "expected ':'"),
        (encoded("run_query = 'ä'.join"), "'ascii' codec"),
        (b64encode(b"\0").decode(), "null bytes"),
    ],
)
def test_malformed_selections_are_refused(pythonic, inputs, selection, message):
    response = pythonic.post(inputs[:1], codegen="python", selection=selection)
    assert response.status_code == 500
    text = response.json()["message"]
    assert "Failed to generate translation code: " in text
    assert message.lower() in text.lower()


def test_a_function_may_be_assigned_to_its_name(pythonic, inputs):
    selection = encoded(f"{HEAD}run_query = lambda path: ak.Array([1])")
    assert pythonic.submit(inputs[:1], codegen="python", selection=selection)


def test_python_is_not_offered_by_default(client, inputs):
    assert "python" not in client.http.get("/servicex").json()["code-gen-image"]
    response = client.post(inputs[:1], codegen="python", selection=returning("ak.Array([1])"))
    assert (response.status_code, response.json()["message"]) == (500, REFUSED)


@pytest.mark.parametrize(
    ("options", "is_offered"),
    [
        ({"python": True}, True),
        ({"tokens": True}, True),
        ({"tokens": True, "python": False}, False),
        ({"python": False}, False),
    ],
)
def test_python_is_offered_with_tokens(serve, options, is_offered):
    offered = serve(**options).http.get("/servicex").json()["code-gen-image"]
    assert ("python" in offered) is is_offered


def test_a_client_without_a_token_runs_no_code(serve, inputs):
    response = serve(tokens=True).post(inputs[:1], codegen="python", selection=returning("1"))
    assert response.status_code == 401
