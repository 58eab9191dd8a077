"""Errors for missing columns name the nearest columns, or the first."""

from __future__ import annotations

from coffea_sx.forms.unknown_columns import unknown_column


def test_the_nearest_columns_are_named():
    error = unknown_column("nMuno", ["run", "nMuon", "nJet"])
    assert error.column == "nMuno"
    assert error.nearest[0] == "nMuon"
    assert "Did you mean 'nMuon'" in str(error)


def test_nothing_is_near():
    error = unknown_column("zzz", ["pt", "eta"])
    assert error.nearest == []
    assert "Did you mean" not in str(error)
    assert "It has 'pt', 'eta'." in str(error)
    many = unknown_column("zzz", [f"Muon_{i}" for i in range(1000)])
    assert str(many).endswith("'Muon_9', and others.")
