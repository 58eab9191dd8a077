"""What the input looks like, learned from ServiceX: for input that cannot be opened from here."""

from __future__ import annotations

import inspect
import io
import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from .dataset import Dataset, InputFiles
from .errors import FormError, QueryError, ReadError, TransformError
from .policy import PollPolicy
from .polling.lookup import files_of
from .polling.poller import Poller
from .polling.registry import TransformAddress, get_poller
from .query import Selection
from .servicex.client import ServiceXClient
from .servicex.submit import submit
from .storage.filesystem import ServiceXFileSystem, address

INSTEAD = 'Give input_form= instead: a sample file {"sample.root": "Events"}, or a saved form.'


def run_query(path: str) -> object:
    """Tell the forms of all trees of a file. Runs on the server, which has no dask."""
    import json

    import awkward as ak
    import uproot

    def can_be_array(interpretation: Any) -> bool:
        try:
            interpretation.awkward_form(None)
        except uproot.interpretation.objects.CannotBeAwkward:
            return False
        return True

    def is_interpretable(branch: Any) -> bool:
        interpretation = branch.interpretation
        parts = [interpretation, *getattr(interpretation, "subbranches", {}).values()]
        unknown = uproot.interpretation.identify.UnknownInterpretation
        if any(isinstance(part, unknown) for part in parts):
            return False
        return can_be_array(interpretation)

    def is_unreadable(branch: Any) -> bool:
        is_object = isinstance(branch.interpretation, uproot.AsObjects)
        return is_object and not can_be_array(branch.interpretation)

    def columns_of(tree: Any) -> list[str]:
        paths = tree.keys(filter_branch=is_interpretable)
        columns = list(dict.fromkeys(path.rpartition("/")[2] for path in paths))
        dropped: set[str] = set()
        for name in columns:
            if hasattr(tree[name].interpretation, "subbranches"):
                parts = {part.rpartition("/")[2] for part in tree[name].keys(recursive=True)}
                # A branch of branches is one column, unless each of them is one.
                dropped |= {name} if parts and parts <= set(columns) else parts
        return [name for name in columns if name not in dropped]

    def describe(tree: Any) -> dict[str, Any]:
        try:
            names = columns_of(tree)
            forms = [tree[name].interpretation.awkward_form(tree.file) for name in names]
            for path in tree.keys(filter_branch=is_unreadable):
                # As `coffea_sx.forms.input_form` marks such a column.
                kind = tree[path].typename
                about = {"__record__": kind, "typename": kind, "unreadable": True}
                names.append(path.rpartition("/")[2])
                forms.append(ak.forms.RecordForm([], [], parameters=about))
            return {"form": ak.forms.RecordForm(forms, names).to_dict()}
        except Exception as error:
            return {"problem": f"{type(error).__name__}: {error}"}

    with uproot.open({path: None}) as file:
        kinds = file.classnames(cycle=False)
        trees = [name for name in kinds if kinds[name].startswith(("TTree", "TNtuple"))]
        return ak.Array([{"found": json.dumps({name: describe(file[name]) for name in trees})}])


def probe_forms(
    client: ServiceXClient, dataset: Dataset, trees: Sequence[str], patience_s: float = 600.0
) -> dict[str, Any]:
    """Return the forms of trees of the input, of those that are in its first file.

    Parameters
    ----------
    client, dataset, trees
    patience_s : float
        How long to wait while nothing changes, seconds.

    Returns
    -------
    dict of str to awkward.forms.RecordForm
        As of a sample file, but as the server's uproot understands it.

    Raises
    ------
    QueryError
        If the server has no code generator ``python``.
    FormError
        If the first file cannot be read there or has none of the trees, or nothing happens.
    BadDataset, EmptyDataset, TransformError, ServerError
        As `submit` and `files_of` do.

    Notes
    -----
    Requests: to ServiceX, one for what it can do, one to submit (or to find an earlier probe), two
    or more to look up a dataset, more until the file is done, one for a URL; two to the store.
    """
    if "python" not in client.info().codegens:
        raise QueryError(f"{client.endpoint.url} has no code generator 'python'. {INSTEAD}")
    return _forms(_delivered(client, _first_of(dataset), patience_s), trees)


def _first_of(dataset: Dataset) -> Dataset:
    if dataset.files is not None:
        return Dataset(None, InputFiles(dataset.files.paths[:1]))
    name, _, options = str(dataset.did).partition("?")
    others = [f"{option}&" for option in options.split("&") if option and option[:6] != "files="]
    return Dataset(f"{name}?{''.join(others)}files=1", None)


def _delivered(client: ServiceXClient, dataset: Dataset, patience_s: float) -> bytes:
    source = "from __future__ import annotations\n\n\n" + inspect.getsource(run_query)
    text = b64encode(source.encode("ascii")).decode()
    selection = Selection(text, "python", "parquet", None, "coffea_sx: forms of the input")
    request_id = submit(client, selection, dataset)
    pace = PollPolicy(stall_s=patience_s)
    files = dataset.files or files_of(client, request_id, pace)
    where = TransformAddress(request_id, client.endpoint.name, files.order)
    poller = get_poller(where)
    if poller is None:
        poller = Poller(client, where, files, pace)
    try:
        name = poller.wait_for_any().object_name
        return bytes(ServiceXFileSystem().cat_file(address(request_id, name)))
    except (TransformError, ReadError) as error:
        path = error.facts.get("input_file", files.paths[0])
        said = error.facts.get("reason") or error
        raise FormError(f"ServiceX could not look at {path}: {said}. {INSTEAD}") from error


def _forms(content: bytes, trees: Sequence[str]) -> dict[str, Any]:
    import awkward as ak
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        found = json.loads(ak.from_arrow(table)["found"][0])
        said = {tree: found.get(tree.partition(";")[0], {}) for tree in trees}
        forms = {tree: ak.forms.from_dict(s["form"]) for tree, s in said.items() if "form" in s}
    except Exception as error:  # of pyarrow, awkward and json, when no probe wrote this
        raise FormError(f"ServiceX told no forms: {type(error).__name__}: {error}.") from error
    for tree in trees:
        if "problem" in said[tree] or (tree in forms and not forms[tree].fields):
            problem = said[tree].get("problem", "it has no columns that are awkward arrays")
            raise FormError(f"The tree {tree!r} cannot be read: {problem}. {INSTEAD}")
    if not forms:
        wanted, there = (", ".join(map(repr, names)) for names in (trees, found))
        raise FormError(f"The first input file has no tree {wanted}; it has {there or 'none'}.")
    return {tree: ak.forms.form_with_unique_keys(forms[tree], ("<root>",)) for tree in forms}
