"""Learning curves: means over seeds with confidence intervals, as a table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

CONFIDENCE = 0.95


def mean_and_interval(values: Sequence[float]) -> dict[str, float | None]:
    """The mean of some numbers and the ends of its 95% confidence interval by Student's t, None for a single one."""
    from scipy.special import stdtrit

    mean = sum(values) / len(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def curve(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The mean return over the seeds, its interval, and `each` seed's, at each step that all of them have reached.

    Args:
        runs: by seed, evaluations with `step` and `returns`; a seed without any counts for nothing.
    """
    by_seed = [
        {one["step"]: sum(one["returns"]) / len(one["returns"]) for one in evaluations}
        for evaluations in runs.values()
        if evaluations
    ]
    steps = sorted(set.intersection(*(set(one) for one in by_seed))) if by_seed else []
    each = {step: [one[step] for one in by_seed] for step in steps}
    return [{"step": step, "seeds": len(by_seed), "each": each[step]} | mean_and_interval(each[step]) for step in steps]


def curves_table(summary: Mapping[str, Any]) -> Table:
    """The summary of `gatewise refine` as a table: the last point of each kind's curve, and what it cost."""
    settings = summary["settings"]
    table = Table(
        title=f"{settings['algo']} in {settings['env']}, {settings['method']}",
        caption="mean return of the bare actor over seeds, and its 95% interval · best mean on the way · processor "
        "seconds of training a run",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for heading in ("", "step", "seeds", "return", "interval", "best", "cpu s"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for kind, points in summary["curves"].items():
        if points:
            last, best = points[-1], max(point["mean"] for point in points)
            interval = "—" if last["low"] is None else f"{last['low']:.4g} to {last['high']:.4g}"
            seconds = summary["seconds"][kind]
            numbers = (f"{last['step']}", f"{last['seeds']}", f"{last['mean']:.4g}", interval, f"{best:.4g}")
            table.add_row(kind, *numbers, f"{seconds:.0f}")
    return table


def draw_curves(path: str | Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> None:
    """A picture of some curves, each as `curve` gives it: the mean, thinly each seed, and the interval shaded as far as
    the seeds' range goes: with two or three of them it is far wider.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bands = []
    for name, points in curves.items():
        steps = [point["step"] for point in points]
        (line,) = axes.plot(steps, [point["mean"] for point in points], label=name, linewidth=2)
        axes.plot(steps, [point["each"] for point in points], color=line.get_color(), linewidth=0.6)
        if points and points[0]["low"] is not None:
            low, high = ([point[end] for point in points] for end in ("low", "high"))
            bands.append((steps, low, high, line.get_color()))
    axes.set_ylim(*axes.get_ylim())
    for steps, low, high, color in bands:
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of the actor")
    axes.set_title(title, fontsize=10)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
