"""What will be asked of ServiceX, and what comes of it: checked before anything is submitted."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from .dataset import Dataset, identify, refuse_converted_twins, refuse_patterns
from .errors import BadInput, ConfigurationError, MisdirectedIndices
from .forms.cross_references import misdirected
from .forms.output_form import OutputForm, delivered_form, is_derivable, known_form
from .forms.schema import form_mapping, missing
from .forms.uproot_raw import input_trees
from .policy import FailurePolicy, PollPolicy
from .probe import probe_forms
from .query import Selection, select
from .servicex.client import client_of
from .servicex.config import Endpoint, EndpointName, find_endpoint

PROBE = "probe"
# Code generators whose results ServiceX does not convert to Parquet.
WRITE_PARQUET = {"uproot", "uproot-raw", "python"}


@dataclass(frozen=True, slots=True)
class Terms:
    """How events are read and failures are met, whatever the query is.

    Attributes
    ----------
    schemaclass : coffea schema
    metadata : dict or None
    tolerance : FailurePolicy
    steps_per_file : int
    pace : PollPolicy or None
    """

    schemaclass: Any
    metadata: dict[str, Any] | None
    failure_policy: FailurePolicy
    steps_per_file: int
    pace: PollPolicy | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A query on a dataset, and the form of what it will deliver.

    Attributes
    ----------
    selection : Selection
    dataset : Dataset
    delivered : OutputForm or None
        None if the first delivered file has to tell.
    schema : object or None
        What makes events of columns: coffea's ``_map_schema_uproot``.
    terms : Terms
    """

    selection: Selection
    dataset: Dataset
    delivered: OutputForm | None
    schema: Any
    terms: Terms


def make_terms(
    mode: str,
    schemaclass: Any,
    metadata: dict[str, Any] | None,
    on_failure: str,
    max_failed: int | float | None,
    steps_per_file: int,
    pace: PollPolicy | None,
) -> Terms:
    """Check what does not depend on a query.

    Raises
    ------
    BadInput
    """
    if mode != "dask":
        raise BadInput(
            f"mode={mode!r} is not possible: files that do not exist yet can only be read lazily, "
            'with mode="dask".'
        )
    expect("steps_per_file", steps_per_file, Integral, "a number of partitions")
    if steps_per_file < 1:
        raise BadInput(f"steps_per_file must be at least 1, got {steps_per_file}.")
    expect("metadata", metadata, (Mapping, type(None)), "a dict")
    expect("pace", pace, (PollPolicy, type(None)), "a coffea_sx.PollPolicy")
    failure_policy = FailurePolicy(on_failure, max_failed)
    return Terms(schemaclass, metadata, failure_policy, int(steps_per_file), pace)


def expect(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """Refuse an argument of another kind.

    Raises
    ------
    BadInput
    """
    is_bool = isinstance(value, bool) and kind is not bool
    if is_bool or not isinstance(value, kind):
        raise BadInput(f"{name}= must be {what}, got {value!r}.")


def make_plan(
    query: Any,
    dataset: Any,
    terms: Terms,
    *,
    input_form: Any,
    form: Any,
    result_format: str,
    codegen: str | None,
    title: str | None,
    find: Callable[[], Endpoint],
) -> Plan:
    """Check a query and a dataset, and derive what will be delivered.

    Parameters
    ----------
    find : callable
        Finds the ServiceX; called only if that is to be asked for the form of the input.

    Raises
    ------
    BadInput
    """
    selection = select(query, result_format=result_format, codegen=codegen, title=title)
    wanted = identify(dataset)
    _check_files(selection, wanted)
    if isinstance(input_form, str) and input_form == PROBE:
        input_form = _probed(selection, wanted, find())
    return planned(selection, wanted, terms, input_form, form)


def _check_files(selection: Selection, dataset: Dataset) -> None:
    """Refuse names of input files that mislead what a selection is translated to."""
    if dataset.files is None:
        return
    if selection.is_func_adl_uproot:
        refuse_patterns(dataset.files)
    if selection.result_format == "parquet" and selection.codegen not in WRITE_PARQUET:
        refuse_converted_twins(dataset.files)


def planned(
    selection: Selection, dataset: Dataset, terms: Terms, input_form: Any, form: Any
) -> Plan:
    """Derive what a selection will deliver."""
    delivered = _delivered(selection, form, input_form, dataset)
    schema = None if delivered is None else schema_of(delivered, terms)
    return Plan(selection, dataset, delivered, schema, terms)


def schema_of(delivered: OutputForm, terms: Terms) -> Any:
    """Apply the schema to delivered columns, and say what it has to say about them."""
    mapping = form_mapping(delivered, terms.schemaclass, terms.metadata)
    sentences = missing(delivered, mapping)
    if sentences:
        warn(" ".join(sentences))
    for sentence in misdirected(delivered, terms.schemaclass):
        warn(sentence, MisdirectedIndices)
    return mapping


def _delivered(
    selection: Selection, form: Any, input_form: Any, dataset: Dataset
) -> OutputForm | None:
    """Tell what will be delivered; None if the first delivered file has to tell."""
    if form is not None:
        return known_form(form, selection.result_format)
    if is_derivable(selection):
        paths = dataset.files.paths if dataset.files else ()
        delivered = delivered_form(selection, input_form, paths)
        _say_which_trees(selection, delivered)
        return delivered
    warn(
        f"What the code generator {selection.codegen!r} delivers cannot be told from the query: "
        "from_servicex waits for the first file. Give the delivered form as form= to go on at "
        "once."
    )
    return None


def _say_which_trees(selection: Selection, delivered: OutputForm) -> None:
    """Say which trees events are made of, if the query reads several."""
    trees = input_trees(selection.text) if selection.codegen == "uproot-raw" else []
    if len(trees) < 2:
        return
    names = ", ".join(map(repr, trees))
    warn(
        f"The query reads the trees {names}: the events are those of {delivered.tree!r} alone. "
        "For others, give their form: form=derive_form(...).of(tree)."
    )


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn whoever called this package."""
    level, frame = 0, sys._getframe().f_back
    while frame is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level + 2)


def _probed(selection: Selection, dataset: Dataset, endpoint: Endpoint) -> Any:
    """Ask ServiceX what the input looks like."""
    if selection.codegen == "uproot-raw":
        trees = input_trees(selection.text)
    elif selection.tree is not None:
        trees = [selection.tree]
    else:
        raise BadInput(f"input_form={PROBE!r} is for queries that read trees.")
    forms = probe_forms(client_of(endpoint), dataset, trees)
    return forms if selection.codegen == "uproot-raw" else forms[trees[0]]


def endpoint_of(backend: str | None, url: str | None, config_path: str | Path | None) -> Endpoint:
    """Find the ServiceX that is meant; ``url="local"`` starts it.

    Raises
    ------
    ConfigurationError
    """
    for name, value in (("backend", backend), ("url", url)):
        if not isinstance(value, (str, type(None))):
            raise ConfigurationError(f"{name}= must be a text, got {type(value).__name__}.")
    if url == "local":
        from .local import default

        server = default()
        url, config_path = server.url, server.config_path
    path = None if config_path is None else str(config_path)
    return find_endpoint(EndpointName(backend, url, path))
