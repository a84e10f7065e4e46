"""The comparison table of attacks on a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table


def policy_table(summary: Mapping[str, Any]) -> Table:
    """The summary of `gatewise attack-policy` (`summary.json`'s content) as a table, one row an attack."""
    table = Table(
        title=f"{summary['settings']['env']}, {len(summary['clean']['returns'])} episodes of each kind",
        caption="mean return and half its 95% interval · mean fall from clean play, episode by episode · "
        "steps at which the action changed · backward passes a step · processor seconds a step",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("attack", overflow="fold", min_width=20)
    for heading in ("return", "fall", "changed", "back", "cpu s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("clean", _told(summary["clean"]))
    for name, one in summary["attacks"].items():
        measured = f"{one['success']:.1%}", f"{one['backwards_per_step']:.0f}", f"{one['cpu_seconds_per_step']:.2g}"
        table.add_row(name, _told(one), _told(one["fall"]), *measured)
    return table


def _told(value: Mapping[str, Any]) -> str:
    """A mean and half its interval."""
    return f"{value['mean']:.4g}" + ("" if value["high"] is None else f" ± {value['high'] - value['mean']:.2g}")
