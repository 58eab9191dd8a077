"""Plan of a transform: its query, its input files and the form of its results.

Everything in it is checked and derived before anything is submitted.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, replace
from typing import Any

from .dataset import Dataset, check_brackets, check_converted_names, identify
from .errors import BadInput, DatasetError, MisdirectedIndices
from .forms.cross_references import misdirected_indices
from .forms.derivation import form_of_selection, is_derivable
from .forms.mapping import form_mapping
from .forms.output_form import OutputForm, as_output_form
from .forms.requirements import unmet_requirements
from .forms.uproot_raw import input_trees
from .options import Options
from .probe import probe_forms
from .query import Selection, select
from .servicex.client import client_of

PROBE = "probe"
# Code generators that write Parquet themselves; results of the others are converted by ServiceX.
WRITE_PARQUET = {"uproot", "uproot-raw", "python"}


@dataclass(frozen=True, slots=True)
class Plan:
    """A query on a dataset, and the form of its results.

    Attributes
    ----------
    selection : Selection
    dataset : Dataset
    output_form : OutputForm or None
        None if it can only be read from the first delivered file.
    form_mapping : object
        Makes events of columns, with coffea's schema; None without an output form.
    options : Options
    """

    selection: Selection
    dataset: Dataset
    output_form: OutputForm | None
    form_mapping: Any
    options: Options

    @property
    def name(self) -> str:
        """Name of the sample, for people."""
        return str((self.options.metadata or {}).get("dataset") or self.selection.title)


def make_plan(
    query: Any,
    dataset: Any,
    options: Options,
    *,
    result_format: str,
    codegen: str | None,
    title: str | None,
) -> Plan:
    """Check a query and a dataset, and derive the form of the results.

    Raises
    ------
    BadInput

    Notes
    -----
    No request is made, except with ``input_form="probe"``: those of `probe_forms`.
    """
    selection = select(query, result_format=result_format, codegen=codegen, title=title)
    identified = identify(dataset)
    _check_names(selection, identified)
    _check_tree(selection, identified)
    options = options.with_steps(identified.steps)
    return plan_selection(selection, identified, options)


def plan_selection(selection: Selection, dataset: Dataset, options: Options) -> Plan:
    """Derive the form of the results of a selection. Errors and requests are as for `make_plan`."""
    if isinstance(options.input_form, str) and options.input_form == PROBE:
        options = replace(options, input_form=_probed_form(selection, dataset, options))
    form = _output_form(selection, dataset, options)
    mapping = None if form is None else events_mapping(form, options)
    return Plan(selection, dataset, form, mapping, options)


def events_mapping(output_form: OutputForm, options: Options) -> Any:
    """Apply the schema to the columns of results; warn of columns that it misses."""
    mapping = form_mapping(output_form, options.schemaclass, options.metadata)
    sentences = unmet_requirements(output_form, mapping)
    if sentences:
        warn(" ".join(sentences))
    for sentence in misdirected_indices(output_form, options.schemaclass):
        warn(sentence, MisdirectedIndices)
    return mapping


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of this package that called it."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _check_names(selection: Selection, dataset: Dataset) -> None:
    """Check names of input files that only some code generators misunderstand."""
    if dataset.files is None:
        return
    if selection.is_func_adl_uproot:
        check_brackets(dataset.files)
    if selection.result_format == "parquet" and selection.codegen not in WRITE_PARQUET:
        check_converted_names(dataset.files)


def _check_tree(selection: Selection, dataset: Dataset) -> None:
    """Check that the query reads the tree with which the input files are given.

    Raises
    ------
    DatasetError
    """
    if selection.codegen == "uproot-raw":
        trees = input_trees(selection.text)
    else:
        trees = [] if selection.tree is None else [selection.tree]
    if trees and dataset.tree is not None and dataset.tree not in trees:
        names = " and ".join(map(repr, trees))
        raise DatasetError(
            f"The query reads the tree {names}, but the input files are given with the tree "
            f"{dataset.tree!r}. Name the same tree in both, or give the files without a tree."
        )


def _probed_form(selection: Selection, dataset: Dataset, options: Options) -> Any:
    """Return the form of the input, read by ServiceX."""
    if selection.codegen == "uproot-raw":
        trees = input_trees(selection.text)
    elif selection.tree is not None:
        trees = [selection.tree]
    else:
        raise BadInput(f"input_form={PROBE!r} is for queries that read trees.")
    forms = probe_forms(client_of(options.endpoint()), dataset, trees)
    return forms if selection.codegen == "uproot-raw" else forms[trees[0]]


def _output_form(selection: Selection, dataset: Dataset, options: Options) -> OutputForm | None:
    """Return the form of the results; None if it has to be read from the first delivered file."""
    if options.form is not None:
        return as_output_form(options.form, selection.result_format)
    if is_derivable(selection):
        paths = dataset.files.paths if dataset.files else ()
        form = form_of_selection(selection, options.input_form, paths)
        _warn_of_other_trees(selection, form)
        return form
    warn(
        f"The form of the results of the code generator {selection.codegen!r} cannot be derived "
        "from the query: from_servicex waits for the first file. Give the form as form= to go on "
        "at once."
    )
    return None


def _warn_of_other_trees(selection: Selection, form: OutputForm) -> None:
    """Warn if the query reads several trees, because events are made of one."""
    trees = input_trees(selection.text) if selection.codegen == "uproot-raw" else []
    if len(trees) < 2:
        return
    names = ", ".join(map(repr, trees))
    warn(
        f"The query reads the trees {names}: the events are those of {form.tree!r} alone. "
        "For others, give their form: form=derive_form(...).of(tree)."
    )
