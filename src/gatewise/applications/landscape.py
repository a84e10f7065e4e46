"""Landscapes of a network: exact linear regions in a plane, the objective over them, and how methods walk there.

`gatewise.landscape.landscape` is the library's form (network, objective, plane in; a `Scene` out), `run` the command's
(a `Config` in; pictures, a page and a summary out).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.numpy import save_file
from torch import Tensor

from gatewise.catalogue import method_named
from gatewise.classification import Norm, check_labels
from gatewise.errors import InvalidInput
from gatewise.flags import (
    check_deviations,
    check_methods,
    check_positive,
    check_seed,
    flag,
    fraction,
    numbers,
    required,
)
from gatewise.landscape import landscape
from gatewise.methods.base import Method
from gatewise.network import NetworkView, Plane
from gatewise.objectives import CrossEntropy, Linear, Margin, Objective
from gatewise.readers import Images, read_device, read_images, read_model
from gatewise.report.folder import all_or_nothing, require_writable
from gatewise.report.gallery import require_matplotlib
from gatewise.report.landscape_page import write_page
from gatewise.report.landscape_picture import draw_landscape
from gatewise.report.landscape_scene import Scene
from gatewise.report.progress import progress_bar
from gatewise.report.value_curves import Curve, draw_value_curves
from gatewise.zoo.normalise import normalised

_STEPS = 20  # of the window's side, in those methods that measure theirs in input units


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `gatewise landscape` is asked; the command line has one flag a field.

    Raises:
        InvalidInput: values that cannot be used.
    """

    model: str = required("ONNX file, .pt2 file, zoo:NAME, or module:callable; run in float64")
    weights: str | None = flag("state dict for the model: .pt or .safetensors")
    data: str | None = flag("digits, mnist:test, cifar10:test, gtsrb:test, an .npz, or a folder of images")
    indices: str | None = flag("FILE.csv[:CLASS]: rows by position (first column), of that class column")
    count: int = flag("a landscape for each of the first COUNT rows", 1, parse=int)
    center: tuple[float, ...] | None = flag("X,Y,…: an input of a few numbers, instead of --data", parse=numbers)
    through: tuple[int, int] | None = flag(
        "I,J: the plane through each row and the rows at positions I and J (default: two random directions; the "
        "inputs themselves where there are two)",
        parse=lambda text: _pair(text, int),
    )
    window: float = flag("side of the square around the input, in input units", 1.0, parse=fraction)
    objective: str = flag("margin, cross-entropy, logit:K or output:K", "margin")
    maximise: bool = flag("let the methods climb; they descend but for cross-entropy", False)
    method: tuple[str, ...] = flag(
        "NAME[:key=value,…]; repeatable, or none; all from one start at the same budget (default: adam, pgd, "
        "gate-annealing, and gd and adr-gd with steps of 1/20 of the window)",
        (),
        repeat=True,
    )
    budget: int = flag("backward passes of each method", 60, parse=int)
    start: tuple[float, float] | None = flag(
        "A,B: where the methods start, in the plane's coordinates (default: the input)",
        parse=lambda text: _pair(text, float),
    )
    radius: float | None = flag(
        "of a ball around the input that is drawn, and kept to; 8/255 is understood", parse=fraction
    )
    norm: Norm = flag("norm of the ball: linf or l2", "linf", choices=("linf", "l2"))
    seed: int = flag("seed of every random draw", 0, parse=int)
    mean: tuple[float, ...] | None = flag("subtracted from each channel inside the model", parse=numbers)
    std: tuple[float, ...] | None = flag("divides each channel inside the model", parse=numbers)
    device: str = flag("auto, cpu, cuda, …", "auto")
    out: str = flag("folder for summary.json, pictures, pages and regions", "out")

    def __post_init__(self):
        check_positive(self, "count", "window", "budget", "radius")
        check_deviations(self.std)
        if not math.isfinite(self.window):
            raise InvalidInput(f"--window must be a finite number, got {self.window}.")
        check_seed(self.seed)
        if (self.data is None) == (self.center is None):
            raise InvalidInput("Give one of --data and --center: what the window lies around.")
        if self.center is not None and (self.through or self.indices or self.count > 1):
            raise InvalidInput("--through, --indices and --count belong to --data; leave them out with --center.")
        check_methods(self.method)


@dataclass(frozen=True, eq=False)
class _Question:
    """An objective with its name, a level worth a line, and whether to climb."""

    objective: Objective
    title: str
    level: float | None
    climbs: bool


def run(config: Config) -> dict[str, Any]:
    """Draw as the command does, write the folder, and return the summary.

    For each row: `landscape.png`, `landscape.svg`, `landscape.html` (open it in a browser) and `regions.safetensors`
    (the fields of `PlanarRegions`); with several rows their positions stand in the names. `curves.png`: the best value
    so far of each method, with bands over the rows. The plane is the network's: pixels may leave their bounds.

    Of the summary `regions`, `slivers` and `seconds` (those of the subdivision) are sums over the rows, `area_error`
    is the largest: |sum of areas - window²| / window². Nothing is written unless everything succeeds.

    Raises:
        GatewiseError: whatever is wrong, as one sentence.
    """
    require_writable(config.out)
    require_matplotlib()
    methods = _methods(config)
    device = read_device(config.device)
    network = NetworkView(normalised(read_model(config.model, config.weights), config.mean, config.std).to(device))
    rows, others = _rows(config, device)
    scenes: dict[int, Scene] = {}
    told: list[dict[str, Any]] = []
    with all_or_nothing(config.out) as scratch, progress_bar() as bar:
        task = bar.add_task("landscape", total=len(rows))
        for position, x, label in zip(rows.index.tolist(), rows.images, rows.labels.tolist(), strict=True):
            x = x.to(device, torch.float64)
            plane = _plane(config, x, others)
            question = _question(config, label, _probe(network, x))
            center = plane.coordinates(x[None])[0].tolist()
            scene = scenes[position] = landscape(
                network,
                question.objective,
                plane,
                config.window,
                methods=methods,
                center=(center[0], center[1]),
                start=config.start,
                radius=config.radius,
                norm=config.norm,
                budget=config.budget,
                seed=config.seed,
                maximise=question.climbs,
                level=question.level,
                title=question.title,
            )
            stem = "" if len(rows) == 1 else f"_{position}"
            draw_landscape([scratch / f"landscape{stem}.png", scratch / f"landscape{stem}.svg"], scene)
            write_page(scratch / f"landscape{stem}.html", scene, f"{config.model}, {_called(config, position)}")
            save_file(_arrays(scene), scratch / f"regions{stem}.safetensors")
            told.append({"index": position, "label": label if config.data else None} | _told(scene))
            bar.advance(task)
        if methods:
            _curves(config, scratch / "curves.png", scenes, methods)
        summary = {
            "rows": len(rows),
            "regions": sum(one["regions"] for one in told),
            "slivers": sum(one["slivers"] for one in told),
            "seconds": sum(one["seconds"] for one in told),
            "area_error": max(one["area_error"] for one in told),
            "window": config.window,
            "landscapes": told,
        }
        (scratch / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    Console().print(
        f"{summary['regions']:,} linear regions in {summary['seconds']:.1f} s, area error {summary['area_error']:.1e}: "
        f"{config.out}",
        highlight=False,
    )
    return summary


def _methods(config: Config) -> dict[str, Method]:
    step = f"step_size={config.window / _STEPS:g}"
    names = config.method or (f"gd:{step}", "adam", "pgd", f"adr-gd:{step}", "gate-annealing")
    return {} if list(names) == ["none"] else {name: method_named(name) for name in names}


def _pair(text: str, kind: type) -> tuple[Any, Any]:
    one, other = text.split(",")
    return kind(one), kind(other)


def _called(config: Config, position: int) -> str:
    return f"around {config.center}" if config.data is None else f"row {position} of {config.data}"


def _rows(config: Config, device: torch.device) -> tuple[Images, Tensor | None]:
    """What landscapes lie around, and the two inputs (2, …) float64 that their planes go through, if any."""
    if config.data is None:
        assert config.center is not None
        x = torch.tensor([config.center], dtype=torch.float64)
        return Images(x, torch.full((1,), -1), torch.zeros(1, dtype=torch.int64)), None
    rows = read_images(config.data, count=config.count, indices=config.indices)
    if config.through is None:
        return rows, None
    return rows, read_images(config.data, indices=list(config.through)).images.to(device, torch.float64)


def _plane(config: Config, x: Tensor, others: Tensor | None) -> Plane:
    if others is not None:
        return Plane.through(x, others[0], others[1])
    return Plane.inputs(x) if x.numel() == 2 else Plane.drawn(x, config.seed)


def _probe(network: NetworkView, x: Tensor) -> Tensor:
    """The network, made float64, at one input: (1, …)."""
    try:
        network.module.double()
        with torch.no_grad():
            output = network.plain(x[None])
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"The model cannot take float64 inputs of shape {tuple(x.shape)}: {str(error).splitlines()[0]}"
        ) from error
    if output.dtype != torch.float64 or output.shape[:1] != (1,):
        raise InvalidInput(
            f"The model returned {tuple(output.shape)} of {output.dtype} for one float64 input; a landscape needs "
            "a row of float64 for each input."
        )
    if not bool(torch.isfinite(output).all()):
        raise InvalidInput("The model returns NaN or infinity at the middle of the window; check its weights.")
    return output


def _question(config: Config, label: int, output: Tensor) -> _Question:
    name, _, entry = config.objective.partition(":")
    if name in ("margin", "cross-entropy") and not entry:
        if output.ndim != 2 or output.shape[1] < 2:
            raise InvalidInput(
                f"--objective {name} needs logits, two or more, and the model returns {tuple(output.shape)}; give "
                "--objective output:0."
            )
        labels = output.argmax(1) if label < 0 else torch.tensor([label], device=output.device)
        check_labels(labels, output.shape[1])
        kind = Margin if name == "margin" else CrossEntropy
        level = 0.0 if name == "margin" else None
        climbs = config.maximise or name == "cross-entropy"
        return _Question(kind(labels), f"{name} of class {int(labels)}", level, climbs)
    if name not in ("logit", "output") or not entry.isdigit():
        raise InvalidInput(
            f"There is no objective {config.objective!r}; choose margin, cross-entropy, logit:K or output:K."
        )
    size = output[0].numel()
    if int(entry) >= size:
        raise InvalidInput(
            f"--objective {config.objective} asks for an output that is not there: the model has {size}."
        )
    weights = torch.zeros(size).to(output)
    weights[int(entry)] = 1
    return _Question(Linear(weights.view(output.shape[1:])), config.objective.replace(":", " "), None, config.maximise)


def _told(scene: Scene) -> dict[str, Any]:
    regions = scene.regions
    return {
        "regions": len(regions),
        "corners": len(regions.points),
        "slivers": regions.slivers,
        "seconds": regions.seconds,
        "area_error": regions.area_error,
        "methods": {
            name: {
                "best": float(scene.shown(path.best)[-1]),
                "last": float(scene.shown(path.values)[-1]),
                "steps": len(path.values),
                "backwards": int(path.backwards[-1]),
                "seconds": float(path.seconds[-1]),
                "gates_switched": path.flips.tolist(),
                "regions_entered": path.crossed.tolist(),
                "agreement": _finite(path.agreement),
            }
            for name, path in scene.paths.items()
        },
    }


def _finite(figures: np.ndarray) -> list[float | None] | None:
    """With None where there is none, and None where there are none at all."""
    listed = [figure if math.isfinite(figure) else None for figure in figures.tolist()]
    return listed if np.isfinite(figures).any() else None


def _arrays(scene: Scene) -> dict[str, np.ndarray]:
    regions = scene.regions
    arrays = {name: getattr(regions, name) for name in ("points", "corners", "first", "gates", "units")}
    return arrays | {"outputs": regions.outputs.cpu().numpy(), "values": scene.values}


def _curves(config: Config, path: Any, scenes: dict[int, Scene], methods: Any) -> None:
    curves = {
        name: [
            Curve(scene.shown(way.best), way.backwards, way.seconds)
            for scene in scenes.values()
            for way in [scene.paths[name]]
        ]
        for name in methods
    }
    one = next(iter(scenes.values()))
    label = one.objective if len(scenes) == 1 else config.objective
    draw_value_curves([path], curves, f"{label}, best so far")
