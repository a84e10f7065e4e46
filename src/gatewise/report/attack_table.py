"""The comparison table of an attack, and the findings that stand under it."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

_COLUMNS = {
    "success": ("success", "{:.1%}"),
    "robust_accuracy": ("robust", "{:.1%}"),
    "mean_value": ("loss", "{:.4g}"),
    "backwards_per_row": ("back", "{:.0f}"),
    "forwards_per_row": ("forw", "{:.0f}"),
    "seconds": ("s", "{:.1f}"),
    "max_violation": ("outside", "{:g}"),
}
_NAMED = 5  # rows that a line names


def attack_table(summary: dict[str, Any]) -> Table:
    """The summary of an attack (`summary.json`'s content) as a table, one row a method."""
    table = Table(
        title=f"{summary['rows']} rows, clean accuracy {summary['clean_accuracy']:.1%}",
        caption="success of the rows right at the start · robust: rows still right · mean loss · backward "
        "and forward passes a row · seconds · largest distance outside the set",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", overflow="fold", min_width=20)
    for heading, _ in _COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, measured in summary["methods"].items():
        cells = ("—" if measured[key] is None else form.format(measured[key]) for key, (_, form) in _COLUMNS.items())
        table.add_row(name, *cells)
    return table


def finding_lines(summary: dict[str, Any]) -> list[str]:
    """A line for each finding of an attack: those of the whole, then those of each method."""
    whole = [("", finding) for finding in summary["warnings"]]
    runs = [(f" ({name})", finding) for name, told in summary["methods"].items() for finding in told["warnings"]]
    return [f"{finding['name']}{by}{_where(finding['rows'])}: {finding['sentence']}" for by, finding in whole + runs]


def _where(rows: list[int]) -> str:
    """The rows of a finding, the first of them if there are many; nothing for the whole network."""
    if not rows:
        return ""
    first = ", ".join(map(str, rows[:_NAMED])) + (f", … {len(rows)} in all" if len(rows) > _NAMED else "")
    return f", row {first}" if len(rows) == 1 else f", rows {first}"
