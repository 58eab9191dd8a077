"""The derived forms of a corpus of queries are those of the files that a ServiceX delivers.

Every query is submitted in every format, for an input file with events and for a file without.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import awkward as ak
import pytest
import uproot
from support import corpus
from support.corpus import CORPUS
from support.strategies import connected

from coffea_sx import derive_form
from coffea_sx.errors import FormError, QueryError, RequestRefused, UnknownColumn
from coffea_sx.forms import OutputForm
from coffea_sx.forms.file_forms import read_forms
from coffea_sx.forms.input_form import form_of_file
from coffea_sx.local import LocalServiceX
from coffea_sx.query import RESULT_FORMATS, Selection, select

FULL, EMPTY = "full.root", "empty.root"
DONE = {"Complete", "Fatal", "Canceled"}
# Errors that depend on the events, as on an event without a first jet, and not on the form.
DATA_DECIDES = {
    "First": "IndexError",
    "First of a cut": "IndexError",
    "ElementAt out of range": "IndexError",
    "Zip with fixed size": "cannot broadcast",
    "scaled fixed size": "cannot broadcast",
    "Count over an outer collection": "cannot broadcast nested list",
    "different lengths": "cannot broadcast nested list",
    "Zip of different lengths": "cannot broadcast nested list",
    "conditional of different lengths": "cannot broadcast nested list",
}
# Every file with events fails. A file without events is delivered, with another form than derived.
FIXED_SIZE = {"scaled fixed size"}


@cache
def selection_of(name: str) -> Selection:
    return select(CORPUS[name], codegen="uproot")


class Requests:
    """Requests that are submitted at once, and looked up by their tests."""

    def __init__(self, server: LocalServiceX, path: str, cases: Iterable[tuple[str, str]]) -> None:
        self._objects = Path(server.directory) / "objects"
        self._client = connected(server.url, patience_s=30)
        self._requests = {
            (name, result_format): self._submit(name, result_format, path)
            for name, result_format in cases
        }

    def _submit(self, name: str, result_format: str, path: str) -> str | RequestRefused:
        selection = replace(selection_of(name), result_format=result_format)
        try:
            return self._client.submit(selection, did=None, files=[path])
        except RequestRefused as refused:
            return refused

    def __getitem__(self, key: tuple[str, str]) -> Path | str:
        """Return the delivered file, or the reason why there is none."""
        request_id = self._requests[key]
        if isinstance(request_id, RequestRefused):
            return str(request_id)
        while self._client.status(request_id).status not in DONE:
            time.sleep(0.02)
        (row,) = self._client.results(request_id)
        if not row.is_success:
            (reason,) = self._client.reasons(request_id).values()
            return reason
        # An object's name may be no name for a file.
        name = sha256(row.object_name.encode()).hexdigest()
        return self._objects / request_id / name

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("corpus")
    sizes = {FULL: 40, EMPTY: 0}
    return {name: corpus.write_input(directory / name, n) for name, n in sizes.items()}


@pytest.fixture(scope="module")
def forms(inputs):
    """The forms of both input files, which are the same."""
    forms = {tree: form_of_file(inputs[FULL], tree) for tree in ("Events", "Numbers", "Runs")}
    assert forms == {tree: form_of_file(inputs[EMPTY], tree) for tree in forms}
    return forms


@pytest.fixture(scope="module")
def requests(request, inputs) -> Iterator[Requests]:
    yield from submitted(inputs[FULL], cases(request))


@pytest.fixture(scope="module")
def requests_without_events(request, inputs) -> Iterator[Requests]:
    yield from submitted(inputs[EMPTY], cases(request))


def cases(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """Return the cases of the tests that are run and use a fixture."""
    users = [
        item.callspec.params
        for item in request.session.items
        if item.path == request.path and request.fixturename in item.fixturenames
    ]
    return [(params["name"], params["result_format"]) for params in users]


def submitted(path: str, cases: Iterable[tuple[str, str]]) -> Iterator[Requests]:
    with LocalServiceX(workers=2) as server:
        requests = Requests(server, path, cases)
        yield requests
        requests.close()


# -- readers that share no code with the package

Column = tuple[str, str, str, str]
"""Name, type of the values, typename and title."""


def read_columns(path: Path, result_format: str) -> dict[str, list[Column]]:
    """Read the columns of all trees, and the types that their values have in memory."""
    if result_format == "parquet":
        array = ak.from_parquet(path)
        is_record = isinstance(array.type.content, ak.types.RecordType)
        columns = {n: array[n] for n in array.fields} if is_record else {"": array}
        return {"": [(n, str(column.type.content), "", "") for n, column in columns.items()]}
    with uproot.open(path) as file:
        read = read_ttree if result_format == "root-file" else read_rntuple
        return {name: read(file[name]) for name in file.keys(cycle=False)}


def read_ttree(tree: uproot.TTree) -> list[Column]:
    return [
        (branch.name, str(branch.array().type.content), branch.typename, branch.title)
        for branch in tree.branches
    ]


def read_rntuple(ntuple) -> list[Column]:
    array = ntuple.arrays()
    return [
        (field.name, str(array[field.name].type.content), field.typename, field.description)
        for field in ntuple.fields
    ]


def columns_of(form) -> list[Column]:
    """Return the same of a derived form."""
    return [
        (
            name,
            str(without_documentation(content).type),
            content.parameters["typename"],
            content.parameters["__doc__"],
        )
        for name, content in zip(form.fields, form.contents, strict=True)
    ]


def without_documentation(form):
    kept = {k: v for k, v in form.parameters.items() if k not in ("__doc__", "typename")}
    return form.copy(parameters=kept)


# -- the test


def check(derived: OutputForm, path: Path, result_format: str) -> None:
    """Check that a file has the derived form."""
    forms = read_forms(str(path), result_format)
    assert list(derived.trees) == list(forms)
    assert {name: form.to_dict() for name, form in derived.trees.items()} == {
        name: form.to_dict() for name, form in forms.items()
    }
    assert dict(derived.trees) == forms
    assert {name: columns_of(form) for name, form in derived.trees.items()} == read_columns(
        path, result_format
    )


def same_cause(error: QueryError | FormError, reason: str) -> bool:
    """Return True if a refusal gives the reason why the server fails."""
    if isinstance(error, UnknownColumn):
        return error.column in reason
    if isinstance(error, FormError):
        return "no tree" in str(error) and "KeyInFileError" in reason
    if "not one row for each event" in str(error):
        return any(kind in reason for kind in ("TypeError", "AttributeError", "IndexError"))
    kind, _, message = reason.partition(": ")
    if "translation code" in reason:
        kind = "translate"
        message = reason.partition("translation code: ")[2].removesuffix(") [500]")
    is_refused_by_both = kind == QueryError.__name__
    return (is_refused_by_both or kind in str(error)) and message.strip()[:60] in str(error)


def check_query(name, result_format, inputs, forms, delivery) -> None:
    """Check that the derived form, or the refusal, is that of the server."""
    tree = selection_of(name).tree
    input_form = forms.get(tree) or {inputs[FULL]: tree}
    refused: QueryError | FormError | None = None
    try:
        derived = derive_form(CORPUS[name], input_form, result_format, "uproot")
    except (QueryError, FormError) as error:
        refused = error
    if isinstance(delivery, Path):
        assert refused is None
        check(derived, delivery, result_format)
    elif DATA_DECIDES.get(name, "no exception") not in delivery:
        assert refused is not None, (delivery, repr(derived))
        assert same_cause(refused, delivery), (delivery, refused)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize("name", CORPUS)
def test_the_derived_form_is_the_delivered_one(name, result_format, inputs, forms, requests):
    check_query(name, result_format, inputs, forms, requests[name, result_format])


@pytest.mark.slow
@pytest.mark.parametrize("result_format", RESULT_FORMATS)
@pytest.mark.parametrize("name", CORPUS)
def test_the_same_without_events(name, result_format, inputs, forms, requests_without_events):
    if name in FIXED_SIZE:
        pytest.skip("without events awkward gives lists of fixed size another type: no harm")
    delivery = requests_without_events[name, result_format]
    check_query(name, result_format, inputs, forms, delivery)
