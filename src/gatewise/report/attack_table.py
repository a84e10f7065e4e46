"""The comparison table of an attack, and the findings that stand under it."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from gatewise.report.method_table import method_table

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
    return method_table(
        summary,
        _COLUMNS,
        "success of the rows right at the start · robust: rows still right · mean loss · backward "
        "and forward passes a row · seconds · largest distance outside the set",
    )


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
