"""The tree of errors: complete, picklable, without secrets."""

from __future__ import annotations

import copy
import pickle
import re
import threading
import traceback

import pytest

from coffea_sx import errors
from coffea_sx.errors import BadInput, ReadError, ServiceXError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ServiceXError)
]
all_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def tree() -> dict[str, str]:
    """Read the tree in the docstring: name of the error -> name of its parent."""
    parents, above = {}, []
    for line in errors.__doc__.splitlines():
        found = re.match(r" {4}([│ ├└─]*)([A-Z]\w+)(?: \((\w+)\))?", line)
        if found:
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            parents[found[2]] = above[depth - 1] if depth else ""
    return parents


def test_the_docstring_draws_every_error_below_its_parent():
    assert tree() == {
        kind.__name__: "" if kind is ServiceXError else kind.__mro__[1].__name__ for kind in KINDS
    }


def test_the_docstring_names_the_builtin_parents():
    for name, builtin in re.findall(r"(\w+) \((\w+)\)", errors.__doc__.split("Every error")[0]):
        assert issubclass(getattr(errors, name), __builtins__[builtin]), name


@all_kinds
def test_every_error_has_a_docstring(kind):
    assert kind.__doc__


@all_kinds
def test_pickle_and_copy_keep_text_and_facts(kind):
    error = kind("what happened", request_id="d857", column="pt", nearest=["Pt"])
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == "what happened"
        assert again.facts == error.facts
        assert (again.request_id, again.column, again.nearest) == ("d857", "pt", ["Pt"])


@all_kinds
def test_a_chained_error_is_picklable(kind):
    again = pickle.loads(pickle.dumps(chained(kind, RuntimeError("the cause"))))
    assert str(again) == "what happened"
    assert again.request_id == "d857"


@all_kinds
def test_hidden_contexts_are_not_pickled(kind):
    # dask installs tblib's reducers, which pickle causes and contexts, `from None` or not.
    cause = RuntimeError("https://store.org/a.root?Signature=CANARY", threading.Lock())
    pickled = pickle.dumps(chained(kind, cause))
    assert b"CANARY" not in pickled
    assert str(pickle.loads(pickled)) == "what happened"


def chained(kind: type[ServiceXError], cause: Exception) -> ServiceXError:
    """Raise an error while another is handled, as `transport` and `readers` do."""
    try:
        try:
            raise cause
        except RuntimeError:
            raise kind("what happened", request_id="d857") from None
    except kind as error:
        return error


@all_kinds
def test_no_secret_in_the_text(kind):
    error = kind(
        "GET https://me:CANARY1@store.org/b/a.root?X-Amz-Signature=CANARY2 with Bearer CANARY3"
    )
    text = "".join(traceback.format_exception(error)) + repr(error)
    assert "CANARY" not in text
    assert "store.org/b/a.root" in text


def test_pickling_keeps_the_redacted_text():
    error = ServiceXError("see http://store.org/a?x=1")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_unknown_fact_is_an_attribute_error():
    error = ServiceXError("text", request_id="d857")
    with pytest.raises(AttributeError, match="no attribute 'column'"):
        error.column  # noqa: B018
    assert not hasattr(error, "column")


def test_read_errors_are_os_errors_as_uproot_expects_them():
    error = errors.Truncated("17 of 20 bytes", object_name=":a.root", expected=20, found=17)
    assert isinstance(error, OSError)
    assert str(error) == "17 of 20 bytes"
    assert (error.expected, error.found) == (20, 17)
    assert all(issubclass(k, ReadError) for k in KINDS if issubclass(k, errors.ReadError))


def test_bad_input_is_a_value_error_and_nothing_else_is():
    for kind in KINDS:
        assert issubclass(kind, ValueError) == issubclass(kind, BadInput), kind


def test_server_errors_are_builtin_errors():
    assert issubclass(errors.Unreachable, ConnectionError)
    assert issubclass(errors.NotAuthorized, PermissionError)


@pytest.mark.parametrize("kind", [errors.Unreachable, errors.NotAuthorized, errors.ReadError])
def test_os_errors_print_their_text(kind):
    assert str(kind("what happened", status=401)) == "what happened"
