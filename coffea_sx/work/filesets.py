"""Filesets of coffea for files that ServiceX delivers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from coffea.processor.executor import WorkItem


def dataset_of(
    items: Sequence[WorkItem], counts: Mapping[int, int], metadata: Mapping[str, Any], form: Any
) -> dict[str, Any]:
    """Return the description of a dataset.

    Parameters
    ----------
    items : sequence of WorkItem
        One for each file.
    counts : mapping of int to int
        Number of events of each partition, where it is known.
    metadata : mapping
        Without the name of the dataset: coffea's Runner adds it, and takes no other.
    form : awkward.forms.RecordForm
        Form of the delivered files.
    """
    files = {}
    for item in items:
        is_root = item.filename.endswith(".root")
        file: dict[str, Any] = {"object_path": item.treename if is_root else None}
        n_events = counts.get((item.usermeta or {})["partition"])
        if n_events is not None:
            uuid = str(UUID(bytes=item.fileuuid))
            file.update(num_entries=n_events, uuid=uuid, steps=[[0, n_events]])
        files[item.filename] = file
    about = {name: value for name, value in metadata.items() if name != "dataset"}
    return {"files": files, "metadata": about, "form": json.dumps(form.to_dict())}
