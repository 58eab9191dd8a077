"""Canaries: the private API of servicex is as `coffea_sx._upstream.servicex` expects it."""

from __future__ import annotations

from pathlib import Path

import pytest
from servicex import General, Sample, ServiceXSpec, dataset

from coffea_sx._upstream.servicex import load_specification

YAML = """
Definition:
  - &query !FuncADL_Uproot |
      FromTree("Events").Select(lambda e: {"run": e["run"]})
General:
  OutputFormat: parquet
Sample:
  - Name: dy
    Dataset: !FileList ["/data/a.root"]
    Query: *query
"""


def test_load_specification_reads_the_tags_of_yaml(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(YAML)
    for name in (path, str(path)):
        specification = load_specification(name)
        (sample,) = specification.Sample
        assert specification.General.OutputFormat.to_ResultFormat().value == "parquet"
        assert sample.dataset_identifier.files == ["/data/a.root"]
        assert "(subscript e 'run')" in sample.Query.generate_selection_string()


def test_load_specification_takes_objects_and_dicts() -> None:
    sample = {"Name": "dy", "Dataset": dataset.FileList(["/a.root"]), "Query": "q", "Codegen": "x"}
    specification = ServiceXSpec(General=General(), Sample=[Sample(**sample)])
    assert load_specification(specification) is specification
    assert load_specification({"Sample": [sample]}).Sample[0].Name == "dy"
    with pytest.raises(TypeError):
        load_specification(3)
