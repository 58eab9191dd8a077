"""Counters: columns with the number of entries that a list has in each event.

A TTree has one for every jagged column; RNTuples and Parquet files have none. Schemas need them,
and events should not depend on the format of a file, so readers add those that a file lacks.
"""

from __future__ import annotations

from typing import Any

from awkward.forms import NumpyForm


def counted_columns(form: Any) -> dict[str, str]:
    """Return the counters that a file lacks.

    Parameters
    ----------
    form : awkward.forms.RecordForm
        Form of the file.

    Returns
    -------
    dict of str to str
        Each counter, named as in a TTree, with the column whose entries it counts.
    """
    lists = {f"n{name}": name for name in form.fields if _is_jagged(form.content(name))}
    return {counter: name for counter, name in lists.items() if counter not in form.fields}


def with_counters(form: Any) -> Any:
    """Add the counters that a TTree would have to the form of a file, each before its column."""
    counters = {name: counter for counter, name in counted_columns(form).items()}
    fields, contents = [], []
    for name, content in zip(form.fields, form.contents, strict=True):
        if name in counters:
            fields.append(counters[name])
            contents.append(NumpyForm("int32", parameters={"__doc__": "", "typename": "int32_t"}))
        fields.append(name)
        contents.append(content)
    return form.copy(fields=fields, contents=contents)


def _is_jagged(form: Any) -> bool:
    if form.is_option or form.is_indexed:
        return False
    return form.is_list and not form.is_regular and "__array__" not in (form.parameters or {})
