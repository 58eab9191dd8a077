"""The form of the input: from a sample file, an open tree, a form object or a saved form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import FormError
from ..query import describe_error
from .file_forms import uproot_form

# A few corrupt files at the head of a list should not hide the form of the rest.
SAMPLES_TRIED = 3
_SERVERS_TOO = (
    "func_adl_uproot reads trees in the same way, so such a tree fails on the server too; give a "
    "sample of another kind, or what is delivered as form=."
)
# Marks a column that no server can read, and that filters of uproot-raw queries find.
_UNREADABLE = "unreadable"
_CLASSNAMES = ("TTree", "TNtuple*", "ROOT::RNTuple")

Form_ = TypeVar("Form_")


def input_form(given: Any, tree: str | None, paths: Sequence[str] = ()) -> Any:
    """Return the form of the input events, as the server's own reader sees it.

    Parameters
    ----------
    given : None, str, Path, mapping, uproot tree, awkward Form
        ``None`` stands for the first of ``paths`` that can be opened. A mapping is
        ``{file: tree}`` or a form as a dict; a path that ends in ``.json`` is a saved form, any
        other path a sample file.
    tree : str or None
        Tree that the query reads, used where ``given`` does not name one.
    paths : sequence of str
        The input files, if they are known.

    Returns
    -------
    awkward.forms.RecordForm

    Raises
    ------
    FormError
        If no form can be had; it says which file was tried and what happened.
    """
    from awkward.forms import Form

    if given is None:
        return _first_sample(partial(form_of_file, tree=tree), paths)
    if isinstance(given, Form):
        return record_form(given, "input_form")
    if isinstance(given, _trees()):  # which are mappings too
        return form_of_tree(given)
    if isinstance(given, (str, Path)):
        if str(given).endswith(".json"):
            return saved_form(given)
        return form_of_file(str(given), tree)
    if isinstance(given, Mapping):
        if "class" in given:
            return record_form(given, "input_form")
        if len(given) != 1:
            raise FormError(f"One sample file is enough, input_form names {len(given)}.")
        ((path, name),) = given.items()
        _check_tree(str(path), name, tree)
        return form_of_file(str(path), tree or name)
    return form_of_tree(given)


def sample_forms(given: Any, trees: Sequence[str], paths: Sequence[str] = ()) -> dict[str, Any]:
    """Return the forms of several trees of the input, of those that are there.

    Parameters
    ----------
    given : object
        As for `input_form`. A form or an open tree is that of the first of ``trees``; a mapping
        may also be ``{tree: form}``.
    trees : sequence of str
        Trees that the query reads.
    paths : sequence of str
        The input files, if they are known.

    Raises
    ------
    FormError
        If no form can be had.
    """
    from awkward.forms import Form

    if isinstance(given, Mapping) and all(isinstance(form, Form) for form in given.values()):
        return {name: form for name, form in given.items() if name in trees}
    if isinstance(given, Mapping) and "class" not in given and len(given) == 1:
        ((given, _),) = given.items()
    is_file = isinstance(given, (str, Path)) and not str(given).endswith(".json")
    if given is None:
        return _first_sample(partial(_forms_of_file, trees=trees), paths)
    if is_file:
        return _forms_of_file(str(given), trees)
    return {trees[0]: input_form(given, trees[0])}


def _check_tree(path: str, name: str | None, tree: str | None) -> None:
    """Refuse a sample of another tree than that of the query."""
    if name and tree and _without_cycle(name) != _without_cycle(tree):
        raise FormError(
            f"The query reads the tree {tree!r}, and input_form= names {name!r} of {path}. Correct "
            "the one that is wrong; if the sample's tree has another name than that of the input "
            "files, give it open.",
            path=path,
        )


def _without_cycle(name: str) -> str:
    return name.lstrip("/").partition(";")[0]


def _forms_of_file(path: str, trees: Sequence[str]) -> dict[str, Any]:
    with _opened(path) as file:
        if not any(name in file for name in trees):
            raise _no_tree(path, file, trees)
        return {name: form_of_tree(file[name]) for name in trees if name in file}


def saved_form(path: str | Path) -> Any:
    """Read a form from a JSON file."""
    try:
        saved = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise FormError(f"The saved form {path} cannot be read: {error}", path=str(path)) from None
    return record_form(saved, str(path))


def record_form(given: Any, origin: str) -> Any:
    """Check that a form, or a form as a dict, is that of a record of columns."""
    from awkward.forms import Form, RecordForm, from_dict

    if not isinstance(given, (Form, Mapping)):
        raise FormError(
            f"{origin} must be an awkward form, one as a dict, or the path of a saved one; it is "
            f"{type(given).__name__}."
        )
    if not isinstance(given, Form):
        try:
            given = from_dict(given)
        except Exception as error:
            # awkward asserts more than it raises.
            raise FormError(
                f"{origin} does not hold an awkward form: {type(error).__name__}: {error}"
            ) from None
    if not isinstance(given, RecordForm) or given.is_tuple:
        raise FormError(f"{origin} must be the form of a record of columns; it is {given.type}.")
    return given


def form_of_file(path: str, tree: str | None) -> Any:
    """Open a sample file and return the form of one of its trees."""
    if tree is None:
        raise FormError(
            f'Which tree of {path} is meant? Write input_form={{"{path}": "Events"}}.', path=path
        )
    with _opened(path) as file:
        if tree not in file:
            raise _no_tree(path, file, [tree])
        return form_of_tree(file[tree])


def _no_tree(path: str, file: Any, wanted: Sequence[str]) -> FormError:
    there = dict.fromkeys(file.keys(cycle=False, filter_classname=_CLASSNAMES))
    return FormError(
        f"There is no tree {' or '.join(map(repr, wanted))} in the sample file {path}; its trees "
        f"are {', '.join(map(repr, there)) or 'none'}. Is the tree of the query spelt as there?",
        path=path,
    )


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    import uproot

    try:
        with uproot.open({path: None}) as file:
            yield file
    except FormError:
        raise
    except FileNotFoundError:
        raise FormError(f"There is no sample file {path}.{_hint(path)}", path=path) from None
    except Exception as error:
        # uproot reports unreadable bytes with whatever its parsers meet first.
        raise FormError(
            f"The sample file {path} cannot be read: {type(error).__name__}: {error}", path=path
        ) from error


def form_of_tree(tree: Any) -> Any:
    """Return the form that ``uproot.dask`` gives to a tree, less what no reader understands."""
    import uproot
    from coffea.util import _is_interpretable

    if isinstance(tree, uproot.behaviors.RNTuple.HasFields):
        raise FormError(
            f"The {_named(tree)} is an RNTuple, which func_adl_uproot does not read: give a TTree. "
            "For UprootRaw, which does, give what it delivers as form=."
        )
    if not isinstance(tree, uproot.behaviors.TBranch.HasBranches):
        raise FormError(
            "Expected a sample file {path: tree}, an open TTree, an awkward form or the path of a "
            f"saved form; got {type(tree).__name__}."
        )
    is_understood = partial(_is_interpretable, emit_warning=False)
    try:
        # The events that the server reads have no list of type names, unlike the form.
        form = uproot_form(tree, filter_branch=is_understood).copy(parameters={})
    except Exception as error:
        # Interpretations of columns raise whatever their parsers meet first.
        raise _not_understood(tree, is_understood, error) from error
    return _with_unreadable(form, tree)


def _with_unreadable(form: Any, tree: Any) -> Any:
    """Add the columns that uproot cannot make arrays of, and tries to if a filter finds them."""
    from awkward.forms import RecordForm

    fields, contents = list(form.fields), list(form.contents)
    there = set(fields)
    for name, branch in tree.iteritems(full_paths=False):
        if name not in there and _cannot_be_array(branch):
            about = {"__record__": branch.typename, "typename": branch.typename, _UNREADABLE: True}
            fields.append(name)
            contents.append(RecordForm([], [], parameters=about))
    return form.copy(fields=fields, contents=contents)


def _cannot_be_array(branch: Any) -> bool:
    import uproot

    if not isinstance(branch.interpretation, uproot.AsObjects):
        return False
    try:
        branch.interpretation.awkward_form(branch.file)
    except uproot.interpretation.objects.CannotBeAwkward:
        return True
    return False


def readable(form: Any) -> Any:
    """Return the form of a tree less the columns that uproot cannot make arrays of."""
    columns = zip(form.fields, form.contents, strict=True)
    kept = {name: content for name, content in columns if not content.parameter(_UNREADABLE)}
    return form.copy(fields=list(kept), contents=list(kept.values()))


def _not_understood(tree: Any, is_understood: Callable[[Any], bool], error: Exception) -> FormError:
    """Say which column of a tree has no form, if it is one."""
    understood = []
    for column, branch in tree.items():
        try:
            understood.append(is_understood(branch))
        except Exception as reason:
            return FormError(
                f"The column {column!r} of the {_named(tree)} is not understood: "
                f"{describe_error(reason)} {_SERVERS_TOO}",
                column=column,
            )
    if not any(understood):
        return FormError(
            f"The {_named(tree)} has no column that uproot understands: it has "
            f"{', '.join(map(repr, tree.keys())) or 'none'}. {_SERVERS_TOO}"
        )
    return FormError(
        f"The {_named(tree)} cannot be read with dask: {describe_error(error)} {_SERVERS_TOO}"
    )


def _named(tree: Any) -> str:
    return f"tree {tree.name!r} of {tree.file.file_path}"


def _hint(path: str) -> str:
    """Say what may be meant by a path that is none."""
    if "*" in path:
        return " Patterns are not expanded: list the files, as glob.glob() does."
    if ".root:" in path:
        return " The query names the tree, FromTree(...), and not the path."
    return ""


def _first_sample(read: Callable[[str], Form_], paths: Sequence[str]) -> Form_:
    """Read the first of a few files that can be opened."""
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


def _trees() -> tuple[Any, ...]:
    import uproot

    return (uproot.behaviors.TBranch.HasBranches, uproot.behaviors.RNTuple.HasFields)
