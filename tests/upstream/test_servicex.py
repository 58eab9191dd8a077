"""Canaries for the private API of servicex that the package uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from servicex import General, Sample, ServiceXSpec, dataset
from servicex.configuration import Configuration

from coffea_sx._upstream.servicex import (
    load_specification,
    locked_cache,
    read_configuration,
    transform_request,
)

YAML = """
api_endpoints:
  - {{endpoint: http://localhost:5000, name: here, token: secret}}
default_endpoint: here
cache_path: {directory}
"""


@pytest.fixture
def config_path(tmp_path):
    path = tmp_path / "servicex.yaml"
    path.write_text(YAML.format(directory=tmp_path))
    return str(path)


def request(paths):
    return transform_request(
        title="a title",
        did=None,
        file_list=paths,
        selection="(call Select)",
        codegen="uproot",
        result_format="root-file",
    )


def test_locked_cache_finds_what_was_recorded(config_path):
    submitted = request(["/a.root", "/b.root"])
    key = submitted.compute_hash()
    with locked_cache(config_path) as cache:
        assert cache.lock.is_locked
        assert not cache.contains_hash(key)
        assert not cache.is_transform_request_submitted(key)
        cache.cache_submitted_transform(submitted, "d857")
        assert cache.is_transform_request_submitted(key)
        assert cache.get_transform_request_id(key) == "d857"
        assert cache.get_transform_by_hash(key) is None
        cache.update_transform_status("another key", "SUBMITTED")
        cache.update_transform_request_id("another key", "d858")
        assert cache.get_transform_request_id("another key") == "d858"
    with locked_cache(config_path) as cache:
        assert cache.get_transform_request_id(key) == "d857"
        cache.delete_record_by_hash(key)
        assert not cache.is_transform_request_submitted(key)


def test_locked_cache_is_closed_to_others(config_path):
    with locked_cache(config_path) as cache:
        other = type(cache.lock)(cache.lock.lock_file, timeout=0.0)
        with pytest.raises(TimeoutError):
            other.acquire()
    with other:
        assert other.is_locked


def test_transform_request_has_the_hash_of_a_set_of_files():
    key = request(["/a.root", "/b.root"]).compute_hash()
    assert request(["/b.root", "/a.root"]).compute_hash() == key
    assert request(["/a.root"]).compute_hash() != key


def test_read_configuration(config_path, tmp_path, monkeypatch):
    config = read_configuration(config_path)
    assert isinstance(config, Configuration)
    assert config.endpoint_dict()["here"].endpoint == "http://localhost:5000"
    assert config.endpoint_dict()["here"].token == "secret"
    assert config.default_endpoint == "here"
    assert config.config_file == config_path
    monkeypatch.chdir(tmp_path)
    assert read_configuration(None).default_endpoint == "here"


def test_read_configuration_without_a_file(tmp_path):
    with pytest.raises(NameError):
        read_configuration(str(tmp_path / "nowhere.yaml"))


SPECIFICATION = """
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
    path.write_text(SPECIFICATION)
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
