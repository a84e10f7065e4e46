"""Value curves: the best value so far against gradients spent and against seconds, with bands over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatewise.report import palette
from gatewise.report.gallery import require_matplotlib

_PLACES = 400  # along an axis at which rows are compared


class Curve(NamedTuple):
    """One row's run, (steps,) each: the best value so far, and the backward passes and seconds spent by then."""

    best: np.ndarray
    backwards: np.ndarray
    seconds: np.ndarray


def draw_value_curves(paths: Sequence[Path], curves: Mapping[str, Sequence[Curve]], label: str) -> None:
    """Write the picture to each of `paths`, PNG or SVG: for each method the median over its rows, and its quartiles as
    a band.

    Raises:
        InvalidInput: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    colours = palette.by_name(curves)
    for axes, spent, what in zip(
        figure.subplots(1, 2, sharey=True), ("backwards", "seconds"), ("backward passes a row", "seconds"), strict=True
    ):
        for name, rows in curves.items():
            at, quartiles = over_rows([getattr(row, spent) for row in rows], [row.best for row in rows])
            first = name if spent == "backwards" else None
            axes.plot(at, quartiles[1], color=colours[name], linewidth=1.6, label=first)
            if len(rows) > 1:
                axes.fill_between(at, quartiles[0], quartiles[2], color=colours[name], alpha=0.14, linewidth=0)
        axes.set_xlabel(what)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.margins(x=0.01)
    figure.axes[0].set_ylabel(label)
    figure.legend(loc="outside upper left", ncols=6, frameon=False, fontsize=9, handlelength=1.6)
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def over_rows(spent: Sequence[np.ndarray], best: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where rows are compared (places,), from where all have a value to where the last ends; and the quartiles over
    rows of the values that they have there, (3, places). A row that has ended keeps its last.
    """
    at = np.linspace(max(row[0] for row in spent), max(row[-1] for row in spent), _PLACES)
    held = [values[np.searchsorted(row, at, side="right").clip(1) - 1] for row, values in zip(spent, best, strict=True)]
    return at, np.quantile(np.stack(held), (0.25, 0.5, 0.75), axis=0)
