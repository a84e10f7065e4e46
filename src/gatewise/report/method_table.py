"""A table of methods: one row each, one column for each number that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table


def method_table(
    summary: Mapping[str, Any], columns: Mapping[str, tuple[str, str]], caption: str, title: str | None = None
) -> Table:
    """The `methods` of a summary (`summary.json`'s content) as a table.

    Args:
        summary: with `methods`, whose values map keys to numbers or None; without a title also with `rows` and
            `clean_accuracy`.
        columns: from a key to its heading and its format, such as `"{:.1%}"`. A column in which no method has a number
            is left out.
        caption: what the headings mean.
        title: above the table; None tells rows and clean accuracy.
    """
    measured = summary["methods"].values()
    told = {key: said for key, said in columns.items() if any(one[key] is not None for one in measured)}
    table = Table(
        title=title or f"{summary['rows']} rows, clean accuracy {summary['clean_accuracy']:.1%}",
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", overflow="fold", min_width=20)
    for heading, _ in told.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in summary["methods"].items():
        table.add_row(name, *("—" if one[key] is None else form.format(one[key]) for key, (_, form) in told.items()))
    return table
