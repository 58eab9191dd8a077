"""Files that are written from derived forms, and all of a file that its form decides."""

from __future__ import annotations

import io
from typing import Any

import awkward as ak
import pyarrow.parquet
import uproot

from coffea_sx.forms.file_forms import read_forms
from coffea_sx.forms.writers import write_trees


def written(derived: dict[str, ak.forms.Form], result_format: str) -> bytes:
    """Write arrays without rows of the derived forms."""
    file = io.BytesIO()
    file.close = lambda: None  # type: ignore[method-assign]
    arrays = {name: ak.Array(form.length_zero_array()) for name, form in derived.items()}
    assert write_trees(arrays, {}, file, result_format) == 0
    return file.getvalue()


def described(content: bytes, result_format: str) -> Any:
    """Return all of a file that does not depend on its rows."""
    forms = read_forms(io.BytesIO(content), result_format)
    found = {name: form.to_dict() for name, form in forms.items()}
    if result_format == "parquet":
        schema = pyarrow.parquet.read_schema(io.BytesIO(content))
        return found, [(field.name, field.type, field.nullable) for field in schema]
    with uproot.open(io.BytesIO(content)) as file:
        return found, {name: file[name].typenames() for name in found}
