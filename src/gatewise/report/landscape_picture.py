"""A landscape as a picture: the surface with its regions and the ways over it, beside what happened on the ways.

Laid out after Figures 1 and 2 of Yu & Gao (ICML 2024).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gatewise.report import palette
from gatewise.report.gallery import require_matplotlib
from gatewise.report.landscape_scene import Scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_MANY = 4000  # lines from which they are drawn as dots, also where the file holds lines
_PANELS = (
    ("flips", "gates switched"),
    ("crossed", "regions entered"),
    ("agreement", "$\\eta$ as the network"),
)


def draw_landscape(paths: list[Path], scene: Scene) -> None:
    """Write the picture to each of `paths`, PNG or SVG by their endings.

    Raises:
        InvalidInput: matplotlib is not installed.
    """
    figure = landscape_figure(scene)
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def landscape_figure(scene: Scene) -> Figure:
    """The picture, to be saved or changed."""
    figure = _figure((11.5 if scene.paths else 7.4, 6.6))
    if not scene.paths:
        surface = figure.subplots()
        bar = figure.colorbar(paint(surface, scene), ax=surface, pad=0.02, shrink=0.9)
    else:
        panels = [panel for panel in _PANELS if panel[0] != "agreement" or _has_agreement(scene)]
        names: list[Any] = [["surface", key] for key in ("value", *(key for key, _ in panels))]
        grid = figure.subplot_mosaic(names, width_ratios=(1.75, 1))
        surface = grid["surface"]
        bar = figure.colorbar(paint(surface, scene), ax=surface, pad=0.02, shrink=0.9, location="left")
        _progress(grid["value"], scene)
        for key, label in panels:
            _by_step(grid[key], scene, key, label)
        grid[panels[-1][0]].set_xlabel("step")
    if scene.paths or scene.rings:
        figure.legend(loc="outside upper left", ncols=6, frameon=False, fontsize=9, handlelength=1.6)
    bar.set_label(scene.objective)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def paint(axes: Axes, scene: Scene, *, arrows: bool = True) -> ScalarMappable:
    """Draw a landscape on axes of your own; what a colour bar needs."""
    from matplotlib.collections import LineCollection

    regions, points = scene.regions, scene.regions.points
    surface = _surface(axes, scene)
    pairs, made_by = regions.sides()
    for gate in np.unique(made_by[:, 0])[::-1]:
        lines = list(points[pairs[made_by[:, 0] == gate]])
        colour = palette.GATES[gate % len(palette.GATES)]
        width = 0.9 if len(regions) < 500 else 0.35 if len(regions) < _MANY else 0.12
        axes.add_collection(
            LineCollection(lines, colors=colour, linewidths=width, alpha=0.75, rasterized=len(pairs) > _MANY, zorder=2)
        )
    if arrows:
        _arrows(axes, scene)
    if scene.level is not None:
        axes.add_collection(LineCollection(list(scene.contour()), colors=palette.LEVEL, linewidths=1.6, zorder=3))
    for name, ring in scene.rings.items():
        closed = np.concatenate([ring, ring[:1]])
        axes.plot(*closed.T, color=palette.EDGE, linewidth=1.1, linestyle=(0, (5, 3)), label=name, zorder=4)
    for name, colour in palette.by_name(scene.paths).items():
        way = scene.paths[name].points
        axes.plot(*way.T, color="white", linewidth=3.0, alpha=0.75, zorder=5, solid_joinstyle="round")
        axes.plot(*way.T, color=colour, linewidth=1.4, label=name, zorder=6, marker=".", markersize=3.2)
        best = int(scene.paths[name].values.argmin())
        axes.plot(*way[best], color=colour, marker="*", markersize=13, markeredgecolor="white", zorder=8)
    if scene.paths:
        begin = next(iter(scene.paths.values())).points[0]
        axes.plot(*begin, color="white", marker="o", markersize=7, markeredgecolor="black", zorder=7)
    x, y = regions.center.flatten().tolist()
    half = 0.51 * regions.window  # a little more, for what happens on the edge
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal", xlabel=scene.axes[0])
    axes.set_ylabel(scene.axes[1])
    return surface


def _surface(axes: Axes, scene: Scene) -> ScalarMappable:
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
    from matplotlib.tri import Triangulation

    shades = LinearSegmentedColormap.from_list("surface", palette.SURFACE)
    low, high = float(scene.values.min()), float(scene.values.max())
    norm = TwoSlopeNorm(scene.level, low, high) if scene.level is not None and low < scene.level < high else None
    x, y = scene.regions.points.T
    return axes.tripcolor(
        Triangulation(x, y, scene.triangles()),
        scene.values,
        shading="gouraud",
        cmap=shades,
        norm=norm,
        rasterized=True,
        zorder=1,
    )


def _arrows(axes: Axes, scene: Scene) -> None:
    at, gradients = scene.arrows
    lengths = np.linalg.norm(gradients, axis=1)
    downhill = gradients if scene.climbs else -gradients
    largest = lengths.max(initial=0.0)
    if largest > 0:
        # Their lengths tell little where one is many times another's: the root does.
        shown = downhill / np.where(lengths > 0, lengths, 1)[:, None] * np.sqrt(lengths / largest)[:, None]
        spacing = scene.regions.window / np.sqrt(len(at))
        axes.quiver(
            *at.T, *(shown * 0.8 * spacing).T, angles="xy", scale_units="xy", scale=1, width=0.0022, headwidth=4,
            color=palette.ARROWS, alpha=0.55, zorder=3, pivot="middle",
        )  # fmt: skip


def _progress(axes: Axes, scene: Scene) -> None:
    for name, colour in palette.by_name(scene.paths).items():
        path = scene.paths[name]
        axes.plot(path.backwards, scene.shown(path.best), color=colour, linewidth=1.5)
        axes.plot(path.backwards, scene.shown(path.values), color=colour, linewidth=0.7, alpha=0.4)
    values = np.concatenate([scene.shown(path.values) for path in scene.paths.values()])
    if scene.level is not None and values.min() <= scene.level <= values.max():
        axes.axhline(scene.level, color=palette.LEVEL, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.set_ylabel(scene.objective, fontsize=9)
    axes.set_xlabel("backward passes", fontsize=9)
    _tidy(axes)


def _by_step(axes: Axes, scene: Scene, key: str, label: str) -> None:
    for name, colour in palette.by_name(scene.paths).items():
        figures = getattr(scene.paths[name], key)
        marker = "." if len(figures) <= 100 else ""
        axes.plot(np.arange(len(figures)), figures, color=colour, linewidth=0.9, marker=marker, markersize=2.5)
    if key in ("flips", "crossed"):
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
    axes.set_ylabel(label, fontsize=9)
    _tidy(axes)


def _has_agreement(scene: Scene) -> bool:
    return any(np.isfinite(path.agreement).any() for path in scene.paths.values())


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e6e6e6", linewidth=0.6)


def _figure(size: tuple[float, float]) -> Figure:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
