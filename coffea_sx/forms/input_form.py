"""The form of the input: from a sample file, an open tree, a form object or a saved form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import uproot
from awkward.forms import Form, RecordForm, from_dict

from .._upstream.coffea import is_interpretable
from .._upstream.uproot import tree_form
from ..errors import FormError
from ..query import describe_error

# Input files that are opened: the first of a list may be corrupt.
SAMPLES_TRIED = 3
_SERVERS_TOO = (
    "func_adl_uproot reads trees in the same way, so such a tree fails on the server too; give a "
    "sample of another kind, or what is delivered as form=."
)
# Marks a column that no server can read, though filters of uproot-raw queries select it.
_UNREADABLE = "unreadable"
_CLASSNAMES = ("TTree", "TNtuple*", "ROOT::RNTuple")

Result = TypeVar("Result")
_TREES = (uproot.behaviors.TBranch.HasBranches, uproot.behaviors.RNTuple.HasFields)


def input_form(source: Any, tree: str | None, paths: Sequence[str] = ()) -> Any:
    """Return the form of the input events, as the server's own reader sees it.

    Parameters
    ----------
    source : None, str, Path, mapping, uproot tree, awkward Form
        ``None`` stands for the first of ``paths`` that can be opened. A mapping is
        ``{file: tree}`` or a form as a dict; a path that ends in ``.json`` is a saved form, any
        other path a sample file.
    tree : str or None
        Tree that the query reads, used where ``source`` does not name a tree.
    paths : sequence of str
        The input files, if they are given.

    Returns
    -------
    awkward.forms.RecordForm

    Raises
    ------
    FormError
        If there is no form; the error names the files that were tried.
    """
    if source is None:
        return _first_sample(partial(form_of_file, tree=tree), paths)
    if isinstance(source, (str, Path)):
        is_saved = str(source).endswith(".json")
        return saved_form(source) if is_saved else form_of_file(str(source), tree)
    is_mapping = isinstance(source, Mapping) and not isinstance(source, _TREES)
    if isinstance(source, Form) or (is_mapping and "class" in source):
        return record_form(source, "input_form")
    if not is_mapping:
        return form_of_tree(source)
    if len(source) != 1:
        raise FormError(f"One sample file is enough, input_form names {len(source)}.")
    ((path, name),) = source.items()
    _check_tree(str(path), name, tree)
    return form_of_file(str(path), tree or name)


def sample_forms(source: Any, trees: Sequence[str], paths: Sequence[str] = ()) -> dict[str, Any]:
    """Return the forms of those of several trees that the input has.

    Parameters
    ----------
    source : object
        As for `input_form`. A form or an open tree is that of the first of ``trees``; a mapping
        may also be ``{tree: form}``.
    trees : sequence of str
        Trees that the query reads.
    paths : sequence of str
        The input files, if they are given.

    Raises
    ------
    FormError
        If there is no form.
    """
    if isinstance(source, Mapping) and all(isinstance(form, Form) for form in source.values()):
        return {name: form for name, form in source.items() if name in trees}
    if isinstance(source, Mapping) and "class" not in source and len(source) == 1:
        ((source, _),) = source.items()
    if source is None:
        return _first_sample(partial(_forms_of_file, trees=trees), paths)
    if isinstance(source, (str, Path)) and not str(source).endswith(".json"):
        return _forms_of_file(str(source), trees)
    return {trees[0]: input_form(source, trees[0])}


def _check_tree(path: str, name: str | None, tree: str | None) -> None:
    """Refuse a sample of another tree than that of the query.

    Raises
    ------
    FormError
    """
    plain = [each.lstrip("/").partition(";")[0] for each in (name, tree) if each]
    if len(set(plain)) > 1:
        raise FormError(
            f"The query reads the tree {tree!r}, and input_form= names {name!r} of {path}. Correct "
            "the one that is wrong; if the sample's tree has another name than that of the input "
            "files, give it open.",
            path=path,
        )


def _forms_of_file(path: str, trees: Sequence[str]) -> dict[str, Any]:
    with _opened(path) as file:
        existing = [name for name in trees if name in file]
        if not existing:
            all_trees = dict.fromkeys(file.keys(cycle=False, filter_classname=_CLASSNAMES))
            raise FormError(
                f"There is no tree {' or '.join(map(repr, trees))} in the sample file {path}; its "
                f"trees are {', '.join(map(repr, all_trees)) or 'none'}. Is the tree of the query "
                "spelt as there?",
                path=path,
            )
        return {name: form_of_tree(file[name]) for name in existing}


def saved_form(path: str | Path) -> Any:
    """Read a form from a JSON file."""
    try:
        saved = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise FormError(f"The saved form {path} cannot be read: {error}", path=str(path)) from None
    return record_form(saved, str(path))


def record_form(form: Any, origin: str) -> Any:
    """Check that a form, or a form as a dict, is the form of a record of columns.

    Raises
    ------
    FormError
        With ``origin`` as its subject.
    """
    if not isinstance(form, (Form, Mapping)):
        raise FormError(
            f"{origin} must be an awkward form, one as a dict, or the path of a saved one; it is "
            f"{type(form).__name__}."
        )
    if not isinstance(form, Form):
        try:
            form = from_dict(form)
        except Exception as error:
            # awkward raises many kinds of errors, AssertionError among them.
            raise FormError(
                f"{origin} does not hold an awkward form: {type(error).__name__}: {error}"
            ) from None
    if not isinstance(form, RecordForm) or form.is_tuple:
        raise FormError(f"{origin} must be the form of a record of columns; it is {form.type}.")
    return form


def form_of_file(path: str, tree: str | None) -> Any:
    """Open a sample file and return the form of one of its trees."""
    if tree is None:
        raise FormError(
            f'Which tree of {path} is meant? Write input_form={{"{path}": "Events"}}.', path=path
        )
    return _forms_of_file(path, [tree])[tree]


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        with uproot.open({path: None}) as file:
            yield file
    except FormError:
        raise
    except FileNotFoundError:
        raise FormError(f"There is no sample file {path}.{_hint(path)}", path=path) from None
    except Exception as error:
        # Parsers of uproot raise many kinds of errors for unreadable bytes.
        raise FormError(
            f"The sample file {path} cannot be read: {type(error).__name__}: {error}", path=path
        ) from error


def form_of_tree(tree: Any) -> Any:
    """Return the form that ``uproot.dask`` gives to a tree, without unreadable columns."""
    branches, fields = _TREES
    if isinstance(tree, fields):
        raise FormError(
            f"The {_title(tree)} is an RNTuple, which func_adl_uproot does not read: give a TTree. "
            "For UprootRaw, which does, give what it delivers as form=."
        )
    if not isinstance(tree, branches):
        raise FormError(
            "Expected a sample file {path: tree}, an open TTree, an awkward form or the path of a "
            f"saved form; got {type(tree).__name__}."
        )
    if not isinstance(tree.num_entries, Integral):
        raise FormError(
            f"The {_title(tree)} counts its entries with a {type(tree.num_entries).__name__}, as "
            f"old ones do, and dask cannot divide it. {_SERVERS_TOO}"
        )
    is_understood = partial(is_interpretable, warns=False)
    try:
        # The events that the server reads have no list of type names, unlike the form.
        form = tree_form(tree, is_understood).copy(parameters={})
    except Exception as error:
        # Parsers of uproot raise many kinds of errors.
        raise _not_understood(tree, is_understood, error) from error
    return _with_unreadable(form, tree)


def _with_unreadable(form: Any, tree: Any) -> Any:
    """Add the columns of which uproot cannot make arrays, though a filter may select them."""
    columns = dict(zip(form.fields, form.contents, strict=True))
    for name, branch in tree.iteritems(full_paths=False):
        if name not in columns and _cannot_be_array(branch):
            about = {"__record__": branch.typename, "typename": branch.typename, _UNREADABLE: True}
            columns[name] = RecordForm([], [], parameters=about)
    return form.copy(fields=list(columns), contents=list(columns.values()))


def _cannot_be_array(branch: Any) -> bool:
    if not isinstance(branch.interpretation, uproot.AsObjects):
        return False
    try:
        branch.interpretation.awkward_form(branch.file)
    except uproot.interpretation.objects.CannotBeAwkward:
        return True
    return False


def readable_columns(form: Any) -> Any:
    """Return the form of a tree without the columns of which uproot cannot make arrays."""
    columns = zip(form.fields, form.contents, strict=True)
    kept = {name: content for name, content in columns if not content.parameter(_UNREADABLE)}
    return form.copy(fields=list(kept), contents=list(kept.values()))


def _not_understood(tree: Any, is_understood: Callable[[Any], bool], error: Exception) -> FormError:
    """Return an error that names the column of a tree that has no form, if it is a column."""
    understood = []
    for column, branch in tree.items():
        try:
            understood.append(is_understood(branch))
        except Exception as reason:
            return FormError(
                f"The column {column!r} of the {_title(tree)} is not understood: "
                f"{describe_error(reason)} {_SERVERS_TOO}",
                column=column,
            )
    if not any(understood):
        return FormError(
            f"The {_title(tree)} has no column that uproot understands: it has "
            f"{', '.join(map(repr, tree.keys())) or 'none'}. {_SERVERS_TOO}"
        )
    return FormError(
        f"The {_title(tree)} cannot be read as arrays: {describe_error(error)} {_SERVERS_TOO}"
    )


def _title(tree: Any) -> str:
    return f"tree {tree.name!r} of {tree.file.file_path}"


def _hint(path: str) -> str:
    """Return advice on a path of no file."""
    if "*" in path:
        return " Patterns are not expanded: list the files, as glob.glob() does."
    if ".root:" in path:
        return " The query names the tree, FromTree(...), and not the path."
    return ""


def _first_sample(read: Callable[[str], Result], paths: Sequence[str]) -> Result:
    """Read the first file that can be opened, out of a few."""
    if not paths:
        raise FormError(
            "The form of the events is derived from the form of the input, and a dataset that "
            'ServiceX looks up cannot be opened from here: give input_form={"sample.root": '
            '"Events"}, an open tree, or a saved form.'
        )
    failures = []
    for path in paths[:SAMPLES_TRIED]:
        try:
            return read(path)
        except FormError as error:
            failures.append(str(error))
    raise FormError(
        "The form of the events is derived from the form of the input, and the first input files "
        "cannot be opened from here; give input_form=, for example {'sample.root': 'Events'}.\n"
        + "\n".join(failures)
    )
