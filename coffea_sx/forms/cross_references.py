"""Which columns of events point into collections that the query leaves entries out of."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from coffea.nanoevents import NanoAODSchema, PHYSLITESchema

from .alignment import Column
from .output_form import OutputForm

# Muon_genPartIdx is a position in GenPart, as is GenPart_genPartIdxMother.
_INDEX = re.compile(r"[A-Za-z0-9]+_(?P<target>[A-Za-z]\w*?)Idx(Mother|\d*)")
_LINK = re.compile(r"(?P<source>\w+)\.(?P<link>\w+)\.m_persIndex")
# The links that coffea follows, and the collections that it takes them to lead to.
_PHYSLITE_LINKS = {
    "combinedTrackParticleLink": "CombinedMuonTrackParticles",
    "inDetTrackParticleLink": "InDetTrackParticles",
    "extrapolatedMuonSpectrometerTrackParticleLink": "ExtrapolatedMuonTrackParticles",
    "trackParticleLinks": "GSFTrackParticles",
    "caloClusterLinks": "egammaClusters",
}
_TRUTH_LINKS = ("childLinks", "parentLinks")


def misdirected(delivered: OutputForm, schemaclass: Any) -> list[str]:
    """Say which columns point to other entries than they do in the input.

    Parameters
    ----------
    delivered : OutputForm
    schemaclass : coffea schema

    Returns
    -------
    list of str
        One sentence for each collection that the query leaves entries out of, or sorts, and that
        columns point into which it delivers as they are.
    """
    columns = delivered.positions.get(delivered.tree, {})
    cut = _cut_collections(columns, schemaclass)
    pointing: dict[str, list[str]] = {}
    for name, column in columns.items():
        if column.origin is not None:
            for collection in _targets(name, cut, schemaclass):
                pointing.setdefault(collection, []).append(name)
    return [
        f"The query delivers {_listed(names)} as in the input, and filters or sorts the lists of "
        f"{collection} ({_listed(cut[collection])}): in the events {_listed(names)} "
        f"{'leads' if len(names) == 1 else 'lead'} to other entries of {collection}. Deliver "
        f"{collection} whole and cut it in the analysis, or leave out {_listed(names)}."
        for collection, names in pointing.items()
    ]


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _cut_collections(columns: Mapping[str, Column], schemaclass: Any) -> dict[str, list[str]]:
    """Return the collections of which entries are missing or moved, with their columns."""
    cut: dict[str, list[str]] = {}
    for name, column in columns.items():
        if column.is_cut:
            cut.setdefault(_collection(name, schemaclass), []).append(name)
    return cut


def _is_a(schemaclass: Any, kind: type) -> bool:
    return isinstance(schemaclass, type) and issubclass(schemaclass, kind)


def _collection(column: str, schemaclass: Any) -> str:
    if _is_a(schemaclass, PHYSLITESchema):
        container = column.partition(".")[0]
        return container.replace("Analysis", "").replace("AuxDyn", "").replace("Aux", "")
    return column.partition("_")[0]


def _targets(column: str, cut: Collection[str], schemaclass: Any) -> list[str]:
    """Name the collections, of those that are cut, that a column points into."""
    if _is_a(schemaclass, PHYSLITESchema):
        return _of_links(column, cut, schemaclass)
    named = _by_name(column)
    return [collection for collection in cut if collection.lower() == named] or [
        collection for collection in _of_schema(column, schemaclass) if collection in cut
    ]


def _by_name(column: str) -> str | None:
    index = _INDEX.fullmatch(column)
    return None if index is None else index["target"].lower()


def _of_schema(column: str, schemaclass: Any) -> list[str]:
    """Name the collections that NanoAODSchema looks for where a column says."""
    if not _is_a(schemaclass, NanoAODSchema):
        return []
    references: Mapping[str, str] = schemaclass.all_cross_references
    targets = [references[column]] if column in references else []
    # Numbers of entries, one after the other: those of what counts them have to be there, too.
    for counts, target in schemaclass.nested_index_items.values():
        if counts == column:
            targets += [target, _collection(column, schemaclass)]
    return targets


def _of_links(column: str, cut: Collection[str], schemaclass: Any) -> list[str]:
    link = _LINK.fullmatch(column)
    if link is None:
        return []
    if link["link"] in _TRUTH_LINKS:
        return [name for name in schemaclass.truth_collections if name in cut]
    target = _PHYSLITE_LINKS.get(link["link"], "")
    return [target] if target in cut else []
