"""The comparison table of an attack."""

from __future__ import annotations

from typing import Any

from rich.table import Table

_COLUMNS = {
    "success": ("success", "{:.1%}"),
    "robust_accuracy": ("robust accuracy", "{:.1%}"),
    "mean_value": ("mean loss", "{:.4g}"),
    "backwards_per_row": ("backwards a row", "{:.1f}"),
    "forwards_per_row": ("forwards a row", "{:.1f}"),
    "seconds": ("seconds", "{:.1f}"),
    "max_violation": ("max violation", "{:g}"),
}


def attack_table(summary: dict[str, Any]) -> Table:
    """The summary of an attack (`summary.json`'s content) as a table, one row a method."""
    title = f"{summary['rows']} rows, clean accuracy {summary['clean_accuracy']:.1%}"
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading, _ in _COLUMNS.values():
        table.add_column(heading, justify="right")
    for name, measured in summary["methods"].items():
        cells = ("—" if measured[key] is None else form.format(measured[key]) for key, (_, form) in _COLUMNS.items())
        table.add_row(name, *cells)
    return table
