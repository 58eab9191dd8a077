"""Form of the input, read by ServiceX: for input that this machine cannot open."""

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
    """Return the forms of all trees of a file. Runs on the server, which has no dask."""
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
                # A branch with subbranches is a column, unless each subbranch is a column.
                dropped |= {name} if parts and parts <= set(columns) else parts
        return [name for name in columns if name not in dropped]

    def describe(tree: Any) -> dict[str, Any]:
        try:
            names = columns_of(tree)
            forms = [tree[name].interpretation.awkward_form(tree.file) for name in names]
            for path in tree.keys(filter_branch=is_unreadable):
                # `coffea_sx.forms.input_form` marks such a column in the same way.
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
        return ak.Array([{"forms": json.dumps({name: describe(file[name]) for name in trees})}])


def probe_forms(
    client: ServiceXClient, dataset: Dataset, trees: Sequence[str], patience_s: float = 600.0
) -> dict[str, Any]:
    """Return the forms of trees in the first file of the input.

    Parameters
    ----------
    client : ServiceXClient
    dataset : Dataset
    trees : sequence of str
        Trees that the file does not have are left out.
    patience_s : float
        Maximum time without progress, seconds.

    Returns
    -------
    dict of str to awkward.forms.RecordForm
        Equal to those of a sample file, but read by the server's uproot.

    Raises
    ------
    QueryError
        If the server has no code generator ``python``.
    FormError
        If ServiceX cannot read the first file, or makes no progress, or if the file has none of
        the trees.
    BadDataset, EmptyDataset, TransformError, ServerError
        Those of `submit` and `files_of`.

    Notes
    -----
    Requests to ServiceX: one for its capabilities, one to submit (or to find an earlier probe), two
    or more to look up a dataset, more until the file is done, one for a URL. Two to the store.
    """
    if "python" not in client.info().codegens:
        raise QueryError(f"{client.endpoint.url} has no code generator 'python'. {INSTEAD}")
    return parse_forms(_result(client, first_file(dataset), patience_s), trees)


def first_file(dataset: Dataset) -> Dataset:
    """Return the dataset of the first file of a dataset."""
    if dataset.files is not None:
        return Dataset(None, InputFiles(dataset.files.paths[:1]))
    name, _, options = str(dataset.did).partition("?")
    others = [f"{option}&" for option in options.split("&") if option and option[:6] != "files="]
    return Dataset(f"{name}?{''.join(others)}files=1", None)


def _result(client: ServiceXClient, dataset: Dataset, patience_s: float) -> bytes:
    """Run `run_query` on a dataset of one file; return the content of its result."""
    source = "from __future__ import annotations\n\n\n" + inspect.getsource(run_query)
    text = b64encode(source.encode("ascii")).decode()
    selection = Selection(text, "python", "parquet", None, "coffea_sx: forms of the input")
    request_id = submit(client, selection, dataset)
    pace = PollPolicy(stall_s=patience_s)
    files = dataset.files or files_of(client, request_id, pace)
    where = TransformAddress(request_id, client.endpoint.name, files.order)
    poller = get_poller(where) or Poller(client, where, files, pace)
    try:
        name = poller.wait_for_any().object_name
        return bytes(ServiceXFileSystem().cat_file(address(request_id, name)))
    except (TransformError, ReadError) as error:
        path = error.facts.get("input_file", files.paths[0])
        reason = error.facts.get("reason") or error
        raise FormError(f"ServiceX could not read {path}: {reason}. {INSTEAD}") from error


def parse_forms(content: bytes, trees: Sequence[str]) -> dict[str, Any]:
    """Return the forms of trees from the content of a result of `run_query`.

    Raises
    ------
    FormError
        If it is no such result, if a tree cannot be read, or if it has none of the trees.
    """
    import awkward as ak
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        probed = json.loads(ak.from_arrow(table)["forms"][0])
        results = {tree: probed.get(tree.partition(";")[0], {}) for tree in trees}
        columns = {tree: result["form"] for tree, result in results.items() if "form" in result}
        forms = {tree: ak.forms.from_dict(form) for tree, form in columns.items()}
    except Exception as error:  # of pyarrow, awkward or json, if no probe wrote this
        raise FormError(f"ServiceX sent no forms: {type(error).__name__}: {error}.") from error
    for tree, result in results.items():
        if "problem" in result or (tree in forms and not forms[tree].fields):
            problem = result.get("problem", "it has no columns that are awkward arrays")
            raise FormError(f"The tree {tree!r} cannot be read: {problem}. {INSTEAD}")
    if not forms:
        names, existing = (", ".join(map(repr, group)) for group in (trees, probed))
        raise FormError(f"The first input file has no tree {names}; it has {existing or 'none'}.")
    return {tree: ak.forms.form_with_unique_keys(forms[tree], ("<root>",)) for tree in forms}
