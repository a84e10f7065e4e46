"""A landscape as a page to play with: one HTML file that asks nothing of the network, drawn on a canvas."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.report import palette
from gatewise.report.landscape_scene import Scene, Trajectory


def write_page(path: Path, scene: Scene, title: str = "Landscape") -> None:
    """Write the page: the scene's layers with a switch each, and a slider over the steps of its ways."""
    page = files("gatewise.report").joinpath("landscape_page.html").read_text(encoding="utf-8")
    # Of what stands in a script only its closing tag would be read as HTML.
    data = json.dumps(_data(scene, title), allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    path.write_text(page.replace("SCENE", data, 1), encoding="utf-8")


def _data(scene: Scene, title: str) -> dict[str, Any]:
    """Everything in units of the window, around its middle."""
    regions = scene.regions
    center = regions.center.flatten().cpu().numpy()
    pairs, made_by = regions.sides()

    def unit(points: np.ndarray) -> np.ndarray:
        return (points - center) / regions.window

    arrows = np.concatenate([unit(scene.arrows[0]), scene.arrows[1]], 1)
    colours = palette.by_name(scene.paths)
    return {
        "title": title,
        "what": f"{scene.objective} over a window of side {regions.window:g}: {len(regions):,} linear regions",
        "window": regions.window,
        "center": center.tolist(),
        "axes": scene.axes,
        "objective": scene.objective,
        "level": scene.level,
        "levelName": None if scene.level is None else f"{scene.objective} = {scene.level:g}",
        "climbs": scene.climbs,
        "points": _packed(unit(regions.points), np.float32),
        "values": _packed(scene.values, np.float32),
        "corners": _packed(regions.corners, np.uint32),
        "first": _packed(regions.first, np.uint32),
        "sides": _packed(pairs, np.uint32),
        "gates": _packed(made_by[:, 0], np.uint16),
        "contour": _packed(unit(scene.contour()), np.float32),
        "arrows": _packed(arrows, np.float32),
        "rings": [{"name": name, "points": _short(unit(ring))} for name, ring in scene.rings.items()],
        "paths": [
            {"name": name, "colour": colours[name], "points": _short(unit(way.points)), **_figures(scene, way)}
            for name, way in scene.paths.items()
        ],
        "surface": palette.SURFACE,
        "gateColours": palette.GATES,
    }


def _figures(scene: Scene, way: Trajectory) -> dict[str, list[Any]]:
    return {
        "values": _short(scene.shown(way.values)),
        "backwards": way.backwards.tolist(),
        "flips": way.flips.tolist(),
        "crossed": way.crossed.tolist(),
        "agreement": [round(share, 4) if np.isfinite(share) else None for share in way.agreement.tolist()],
    }


def _packed(numbers: np.ndarray, kind: type[np.generic]) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers, dtype=kind).tobytes()).decode()


def _short(numbers: np.ndarray) -> list[Any]:
    """As nested lists, rounded to what a float32 holds: JSON writes those digits only."""
    return np.vectorize(lambda number: float(f"{number:.8g}"), otypes=[float])(numbers).tolist()
