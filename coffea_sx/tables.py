"""Tables for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(
    rows: Iterable[Sequence[object]], *, head: Sequence[str] = (), caption: str = ""
) -> str:
    """Return rows of cells as an HTML table. All text is escaped.

    Parameters
    ----------
    rows : iterable of sequence
    head : sequence of str, optional
        Names of the columns. Without them the first cell of each row is its heading.
    caption : str, optional
    """
    parts = [f"<caption>{escape(caption)}</caption>"] if caption else []
    if head:
        parts.append(_row(f"<th>{escape(name)}</th>" for name in head))
    for row in rows:
        cells = [f"<td>{escape(str(cell))}</td>" for cell in row]
        if not head:
            cells[0] = f"<th style='text-align:left'>{escape(str(row[0]))}</th>"
        parts.append(_row(cells))
    return f"<table>{''.join(parts)}</table>"


def _row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"
