"""The form of the files that a query delivers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import FormError
from ..tables import html_table
from .alignment import Column
from .counters import with_counters
from .file_forms import with_documentation
from .input_form import record_form, saved_form
from .writers import TREE

_COUNTED_BY = re.compile(r"\[(?P<counter>[^\[\]]+)\]")


@dataclass(frozen=True, slots=True)
class OutputForm:
    """Form of every file that a query delivers.

    Attributes
    ----------
    trees : dict of str to awkward.forms.RecordForm
        The columns of each tree, with titles and type names, as coffea's schemas read them.
    tree : str
        The tree that events are made of. A Parquet file has one without a name, or the rows of
        each tree of an uproot-raw query.
    result_format : {"root-file", "root-rntuple", "parquet"}
    clashes : tuple of str
        Columns of the query that the writer replaces by columns of the same name.
    alignment : dict of str to dict
        For each tree in which some lists have lost or moved entries, how each column is aligned
        with the input.
    """

    trees: Mapping[str, Any]
    tree: str
    result_format: str = "root-file"
    clashes: tuple[str, ...] = ()
    alignment: Mapping[str, Mapping[str, Column]] = field(default_factory=dict, compare=False)

    @property
    def base_form(self) -> Any:
        """Form of the tree that events are made of (``awkward.forms.RecordForm``)."""
        return self.trees[self.tree]

    @property
    def events_form(self) -> Any:
        """Form of the columns that events are made of: with all counters, whatever the format."""
        is_counted = self.result_format == "root-file"
        return self.base_form if is_counted else with_counters(self.base_form)

    @property
    def is_rntuple(self) -> bool:
        """True if the trees are RNTuples."""
        return self.result_format == "root-rntuple"

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of the file."""
        return list(self.base_form.fields)

    @property
    def counters(self) -> list[str]:
        """Columns that only count the entries of others: TTrees need one for each jagged column."""
        titles = [content.parameters.get("__doc__", "") for content in self.base_form.contents]
        named = {match["counter"] for title in titles for match in _COUNTED_BY.finditer(title)}
        return [column for column in self.columns if column in named]

    def of(self, tree: str) -> OutputForm:
        """Return the form with another tree of the file to make events of.

        Raises
        ------
        FormError
            If there is no such tree.
        """
        if tree not in self.trees:
            raise FormError(
                f"The query delivers no tree {tree!r}; it delivers "
                f"{', '.join(map(repr, self.trees)) or 'none'}."
            )
        return replace(self, tree=tree)

    def __repr__(self) -> str:
        rows = [f"{name:32} {typename:24} {title}" for name, typename, title in self._rows()]
        return "\n".join([self._caption(), *rows])

    def _repr_html_(self) -> str:
        head = ("column", "type", "title")
        return html_table(self._rows(), head=head, caption=self._caption())

    def _caption(self) -> str:
        return f"{self.result_format} with tree {self.tree!r}"

    def _rows(self) -> list[tuple[str, str, str]]:
        contents = ((content, content.parameters.get) for content in self.base_form.contents)
        return [
            (name, parameter("typename") or str(content.type), parameter("__doc__") or "")
            for name, (content, parameter) in zip(self.columns, contents, strict=True)
        ]


def as_output_form(form: Any, result_format: str = "root-file") -> OutputForm:
    """Convert a form that a user gives as ``form=``.

    Parameters
    ----------
    form : OutputForm, awkward.forms.RecordForm, dict, str or Path
        A form, the same as a dict, or the path of a JSON file. It is of a tree named ``servicex``
        unless it is an `OutputForm`.
    result_format : {"root-file", "root-rntuple", "parquet"}
        Format of the delivered files.

    Raises
    ------
    FormError
        If it is none of these, not a record of columns, or of another result format.
    """
    if isinstance(form, OutputForm):
        if form.result_format != result_format:
            raise FormError(
                f"form= is of {form.result_format!r}, and the results are to be "
                f"{result_format!r}: derive it with result_format={result_format!r}."
            )
        return form
    is_path = isinstance(form, (str, Path))
    columns = saved_form(form) if is_path else record_form(form, "form=")
    return OutputForm({TREE: with_documentation(columns)}, TREE, result_format)
