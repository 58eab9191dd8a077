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
def test_selections_that_are_no_function(pythonic, inputs, selection, message):
    answer = pythonic.post(inputs[:1], codegen="python", selection=selection)
    assert answer.status_code == 500
    said = answer.json()["message"]
    assert "Failed to generate translation code: " in said
    assert message.lower() in said.lower()


def test_a_function_with_another_way_to_its_name(pythonic, inputs):
    selection = encoded(f"{HEAD}run_query = lambda path: ak.Array([1])")
    assert pythonic.submit(inputs[:1], codegen="python", selection=selection)


def test_not_offered_unless_asked_for(client, inputs):
    assert "python" not in client.http.get("/servicex").json()["code-gen-image"]
    answer = client.post(inputs[:1], codegen="python", selection=returning("ak.Array([1])"))
    assert (answer.status_code, answer.json()["message"]) == (500, REFUSED)


@pytest.mark.parametrize(
    ("options", "is_offered"),
    [
        ({"python": True}, True),
        ({"tokens": True}, True),
        ({"tokens": True, "python": False}, False),
        ({"python": False}, False),
    ],
)
def test_who_is_let_in(serve, options, is_offered):
    offered = serve(**options).http.get("/servicex").json()["code-gen-image"]
    assert ("python" in offered) is is_offered


def test_with_tokens_nobody_else_runs_code(serve, inputs):
    answer = serve(tokens=True).post(inputs[:1], codegen="python", selection=returning("1"))
    assert answer.status_code == 401
