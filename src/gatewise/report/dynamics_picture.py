"""The dynamics of projected gradient in one picture: loss and angle along walks, beside the critical points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gatewise.report import palette
from gatewise.report.gallery import require_matplotlib

_COLOURS = {"minimum": "#c8374e", "maximum": "#22313f", "saddle": "#d9860a", "degenerate": "#6b705c"}
_CALLED = {"minimum": "adversary", "maximum": "least harmful point"}


class Panel(NamedTuple):
    """One row: its `title`; `losses` and `cosines` (steps + 1, walks); critical points, (kind, loss) each."""

    title: str
    losses: np.ndarray
    cosines: np.ndarray
    critical: Sequence[tuple[str, float]]


def draw_dynamics(path: Path, panels: Sequence[Panel]) -> None:
    """Write the picture: a line of two panels for each row; dashed lines are the losses at critical points.

    Raises:
        InvalidInput: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.3 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    named: dict[str, Any] = {}
    for (left, right), panel in zip(figure.subplots(len(panels), 2, squeeze=False), panels, strict=True):
        left.plot(panel.losses, color=palette.METHODS[1], linewidth=1.1, alpha=0.7)
        right.plot(panel.cosines, color=palette.METHODS[1], linewidth=1.1, alpha=0.7)
        for kind, loss in panel.critical:
            line = left.axhline(loss, color=_COLOURS[kind], linewidth=1.0, linestyle="--", zorder=1)
            named[_CALLED.get(kind, kind)] = line
        left.set(xlabel="steps", ylabel="loss", title=panel.title)
        right.set(xlabel="steps", ylabel="cosine of dL and offset", ylim=(-1.05, 1.05))
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="#e6e6e6", linewidth=0.6)
    if named:
        figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)
