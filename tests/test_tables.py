"""HTML tables: rows, headings, and text that is escaped."""

from __future__ import annotations

from coffea_sx.tables import html_table


def test_a_table_with_a_head() -> None:
    assert html_table([("a", 1), ("b", None)], head=("name", "n")) == (
        "<table><tr><th>name</th><th>n</th></tr>"
        "<tr><td>a</td><td>1</td></tr><tr><td>b</td><td>None</td></tr></table>"
    )


def test_without_a_head_the_first_cell_is_the_heading() -> None:
    assert html_table([("a", 1)], caption="Title") == (
        "<table><caption>Title</caption>"
        "<tr><th style='text-align:left'>a</th><td>1</td></tr></table>"
    )


def test_all_text_is_escaped() -> None:
    table = html_table([("<b>", "<i>")], head=("<u>", "&"), caption="<s>")
    assert not any(tag in table for tag in ("<b>", "<i>", "<u>", "<s>"))
    assert "&amp;" in table
