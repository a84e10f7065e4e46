"""The comparison table of nearest points."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from gatewise.report.method_table import method_table

_COLUMNS = {
    "success": ("success", "{:.1%}"),
    "distance_mean": ("mean", "{:.5g}"),
    "ratio_mean": ("ratio", "{:.4f}"),
    "ratio_max": ("worst", "{:.4f}"),
    "proved": ("proved", "{}"),
    "backwards_per_row": ("back", "{:.0f}"),
    "cpu_seconds_per_row": ("cpu s", "{:.2g}"),
}


def nearest_table(summary: dict[str, Any]) -> Table:
    """The summary of a search for nearest points (`summary.json`'s content) as a table, one row a method."""
    reference = " · ratio to the reference, mean and worst · rows at the proved optimum" if _has_ratio(summary) else ""
    return method_table(
        summary,
        _COLUMNS,
        f"success of the rows right at the start · their mean distance{reference} · backward passes a row · "
        "processor seconds a row",
    )


def _has_ratio(summary: dict[str, Any]) -> bool:
    return any(measured["ratio_mean"] is not None for measured in summary["methods"].values())
