"""Columns that point into collections of which the query drops or reorders entries."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from coffea.nanoevents import NanoAODSchema, PHYSLITESchema

from .._upstream.coffea import cross_references, nested_counts, truth_collections
from .alignment import Column
from .output_form import OutputForm
from .schema import enumerated, is_schema, physlite_collection

# Muon_genPartIdx is a position in GenPart, as is GenPart_genPartIdxMother.
_INDEX = re.compile(r"[A-Za-z0-9]+_(?P<target>[A-Za-z]\w*?)Idx(Mother|\d*)")
_LINK = re.compile(r"(?P<source>\w+)\.(?P<link>\w+)\.m_persIndex")
# The links that coffea follows, and the collections in which it looks for their targets.
_PHYSLITE_LINKS = {
    "combinedTrackParticleLink": "CombinedMuonTrackParticles",
    "inDetTrackParticleLink": "InDetTrackParticles",
    "extrapolatedMuonSpectrometerTrackParticleLink": "ExtrapolatedMuonTrackParticles",
    "trackParticleLinks": "GSFTrackParticles",
    "caloClusterLinks": "egammaClusters",
}
_TRUTH_LINKS = ("childLinks", "parentLinks")


def misdirected_indices(output_form: OutputForm, schemaclass: Any) -> list[str]:
    """Return a sentence on each collection into which columns point to wrong entries.

    Parameters
    ----------
    output_form : OutputForm
    schemaclass : coffea schema

    Returns
    -------
    list of str
        One sentence for each collection that the query filters or sorts, while it delivers columns
        that point into the collection as in the input.
    """
    columns = output_form.alignment.get(output_form.tree, {})
    cut = _cut_collections(columns, schemaclass)
    pointing: dict[str, list[str]] = {}
    for name, column in columns.items():
        if column.origin is not None:
            for target in _targets(name, cut, schemaclass):
                pointing.setdefault(target, []).append(name)
    return [
        f"The query delivers {enumerated(names)} as in the input, and filters or sorts the lists "
        f"of {target} ({enumerated(cut[target])}): in the events {enumerated(names)} "
        f"{'leads' if len(names) == 1 else 'lead'} to other entries of {target}. Deliver {target} "
        f"whole and cut it in the analysis, or leave out {enumerated(names)}."
        for target, names in pointing.items()
    ]


def _cut_collections(columns: Mapping[str, Column], schemaclass: Any) -> dict[str, list[str]]:
    """Return the collections that the query filters or sorts, with their columns."""
    cut: dict[str, list[str]] = {}
    for name, column in columns.items():
        if column.is_cut:
            cut.setdefault(_collection(name, schemaclass), []).append(name)
    return cut


def _collection(column: str, schemaclass: Any) -> str:
    is_physlite = is_schema(schemaclass, PHYSLITESchema)
    return physlite_collection(column) if is_physlite else column.partition("_")[0]


def _targets(column: str, cut: Collection[str], schemaclass: Any) -> list[str]:
    """Return the collections, out of those that are cut, that a column points into."""
    if is_schema(schemaclass, PHYSLITESchema):
        return _of_links(column, cut, schemaclass)
    index = _INDEX.fullmatch(column)
    target = index["target"].lower() if index else None
    return [collection for collection in cut if collection.lower() == target] or [
        collection for collection in _of_schema(column, schemaclass) if collection in cut
    ]


def _of_schema(column: str, schemaclass: Any) -> list[str]:
    """Return the collections into which NanoAODSchema follows a column."""
    if not is_schema(schemaclass, NanoAODSchema):
        return []
    references = cross_references(schemaclass)
    targets = [references[column]] if column in references else []
    # The schema adds up the numbers of entries: so it needs those of all entries of the collection.
    for counts, target in nested_counts(schemaclass):
        if counts == column:
            targets += [target, _collection(column, schemaclass)]
    return targets


def _of_links(column: str, cut: Collection[str], schemaclass: Any) -> list[str]:
    link = _LINK.fullmatch(column)
    if link is None:
        return []
    if link["link"] in _TRUTH_LINKS:
        return [name for name in truth_collections(schemaclass) if name in cut]
    target = _PHYSLITE_LINKS.get(link["link"], "")
    return [target] if target in cut else []
