"""Files that the embedded server delivers: every format keeps the schema without events."""

from __future__ import annotations

import awkward as ak
import pytest
import uproot

from coffea_sx.forms.writers import RESULT_FORMATS, write


@pytest.mark.parametrize("result_format", RESULT_FORMATS)
def test_no_events_keep_the_schema(tmp_path, result_format):
    array = ak.Array({"a": [[1.0, 2.0], []], "b": [1, 2]})
    assert write(array, tmp_path / "full", result_format) == 2
    assert write(array[:0], tmp_path / "empty", result_format) == 0
    if result_format == "parquet":
        assert ak.from_parquet(tmp_path / "empty").fields == ["a", "b"]
    else:
        with uproot.open(tmp_path / "empty") as file:
            assert set(file["servicex"].keys()) >= {"a", "b"}


def test_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="'csv'"):
        write(ak.Array([1]), tmp_path / "x", "csv")
