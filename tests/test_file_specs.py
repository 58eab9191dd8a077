"""Descriptions of input files: trees and steps, as coffea has them."""

from __future__ import annotations

from typing import Any

import pytest
from coffea.dataset_tools.filespec import DatasetSpec

from coffea_sx.dataset import identify
from coffea_sx.errors import DatasetError
from coffea_sx.file_specs import file_specs, is_described


@pytest.mark.parametrize(
    ("about", "tree", "steps"),
    [
        (None, None, None),
        ("Events", "Events", None),
        ({}, None, None),
        ({"object_path": "Events", "steps": None}, "Events", None),
        ({"object_path": "Events", "steps": [[0, 3], [3, 7]]}, "Events", 2),
        ({"object_path": None, "steps": [0, 3, 7, 9], "num_entries": 9}, None, 3),
        ({"steps": [[0, 0]], "num_entries": 0}, None, None),
    ],
)
def test_what_files_have_in_common(about: Any, tree: str | None, steps: int | None) -> None:
    found = file_specs({"a.root": about, "b.root": about})
    assert (found.paths, found.tree, found.steps) == (("a.root", "b.root"), tree, steps)


def test_specs_of_coffea() -> None:
    about = {"object_path": "Events", "steps": [[0, 3], [3, 7]], "num_entries": 7, "uuid": "x"}
    files = DatasetSpec(files={"a.root": about, "b.root": "Events"}).files
    found = file_specs(dict(files))
    assert (found.paths, found.tree, found.steps) == (("a.root", "b.root"), "Events", 2)


@pytest.mark.parametrize("steps", [[[0, 3], [4, 7]], [[1, 7]], [[0, 6]], [0, 3], []])
def test_steps_that_leave_out_events(steps: Any) -> None:
    with pytest.raises(DatasetError, match=r"'a\.root' leave out events") as caught:
        file_specs({"a.root": {"steps": steps, "num_entries": 7}})
    assert caught.value.input_file == "a.root"


@pytest.mark.parametrize("steps", [[["a", 3]], [[0, 3, 5]], 7, [[0], [1]], "ab"])
def test_steps_that_are_none(steps: Any) -> None:
    with pytest.raises(DatasetError, match=r"are no pairs \[start, stop\]"):
        file_specs({"a.root": {"steps": steps}})


@pytest.mark.parametrize("files", [{"a.root": 3}, {3: "Events"}, {"a.root": ["Events"]}])
def test_other_descriptions(files: Any) -> None:
    with pytest.raises(DatasetError, match="give the name of its tree"):
        file_specs(files)


def test_a_mapping_is_a_dataset() -> None:
    dataset = identify([{"b.root": "Events"}, {"a.root": "Events"}])
    assert dataset.files is not None
    assert (dataset.files.paths, dataset.tree) == (("b.root", "a.root"), "Events")
    with pytest.raises(DatasetError, match="twice"):
        identify([{"a.root": "Events"}, {"a.root": "Events"}])
    with pytest.raises(DatasetError, match="empty"):
        identify({})
    assert not is_described(["a.root"])
    assert not is_described([])
