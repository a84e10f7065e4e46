"""Landscapes: the pictures of docs/landscapes.md, after Figures 1 and 2 of Yu & Gao (ICML 2024).

Three neurons and two layers of sixteen, weights and biases uniform(-1, 1) as in their Section 6.4, over [-1, 1]²; a
line through the first of them; planes through MNIST images; value curves of an attack, with bands over rows. The seeds
of the three random networks are chosen so that gradient descent is caught.

Run by: .venv/bin/python experiments/landscapes.py --out docs/landscapes [--quick]
The last line printed is one JSON object.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from pictures import draw_all, figure, flags, save
from torch import Tensor, nn

import gatewise as gw
from gatewise.attack import ball_in_box
from gatewise.catalogue import method_named
from gatewise.landscape import landscape
from gatewise.network import Plane
from gatewise.objectives import Margin
from gatewise.problem import Problem
from gatewise.readers import read_images, read_model
from gatewise.report import palette
from gatewise.report.landscape_picture import landscape_figure, paint
from gatewise.report.landscape_scene import Scene, Trajectory
from gatewise.report.value_curves import Curve, draw_value_curves
from gatewise.trajectory import follow

GENTLE = "adr-gd:preset=random-a,step_size=0.1,slope=20"
METHODS = {"gd": "gd:step_size=0.05", "adam": "adam:step_size=0.05", "pgd": "pgd", "adr-gd": GENTLE} | {
    "gate-annealing": "gate-annealing"
}
ATTACKS = {"pgd": "pgd", "apgd": "apgd", "adr-gd": "adr-gd:preset=mnist", "gate-annealing": "gate-annealing"}


def uniform(*sizes: int, seed: int) -> nn.Sequential:
    """Linear layers with ReLU between them, float64, with weights and biases from -1 to 1."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs).double()
        for parameter in linear.parameters():
            with torch.no_grad():
                parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def over_inputs(network: nn.Module, names: list[str], budget: int) -> Scene:
    """The output of a network of two inputs over [-1, 1]², and the methods' climbs from the middle."""
    plane = Plane.inputs(torch.zeros(2, dtype=torch.float64))
    methods = {name: method_named(METHODS[name]) for name in names}
    return landscape(
        network, lambda x, y: y[:, 0], plane, 2.0, methods=methods, budget=budget, maximise=True, title="output"
    )


def three_neurons(path: Path, budget: int) -> dict[str, Any]:
    """Figure 1 of the paper: gradient descent stops where a gate leaves no gradient, ADR-GD goes on."""
    network = uniform(2, 3, 1, seed=16)
    scene = over_inputs(network, ["gd", "adr-gd"], budget)
    made = figure(11.0, 5.2)
    left, right = made.subplots(1, 2, width_ratios=(1.1, 1))
    bar = made.colorbar(paint(left, scene), ax=left, pad=0.02, shrink=0.92, location="left")
    bar.set_label("output")
    along_the_line(right, network, scene)
    made.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
    save(made, path)
    return told(scene)


def along_the_line(axes: Axes, network: nn.Module, scene: Scene) -> None:
    """The output along the line through the best points of gd and adr-gd, with the regions' borders."""
    stuck, found = (best_point(scene.paths[name]) for name in ("gd", "adr-gd"))
    begin, end = stuck - 0.35 * (found - stuck), stuck + 1.1 * (found - stuck)
    view = gw.view(network)
    shares = torch.linspace(0, 1, 801, dtype=torch.float64)[:, None]
    with torch.no_grad():
        heights = network(begin + shares * (end - begin))[:, 0]
    length = float((end - begin).norm())
    along = shares[:, 0] * length
    axes.plot(along, heights, color="#22313f", linewidth=1.5)
    for share in gw.network.crossings(view, begin[None], end[None]):
        axes.axvline(share * length, color="#c9cfd1", linewidth=0.8, zorder=0)
    colours = palette.by_name(scene.paths)
    for name, point in (("gd", stuck), ("adr-gd", found)):
        at = float((point - begin) @ (end - begin)) / length
        with torch.no_grad():
            height = float(network(point[None]))
        axes.plot(at, height, marker="*", markersize=15, color=colours[name], markeredgecolor="white")
    axes.set(xlabel="along the line through both best points", ylabel="output")
    axes.spines[["top", "right"]].set_visible(False)


def best_point(way: Trajectory) -> Tensor:
    return torch.from_numpy(way.points[way.values.argmin()])


def small_network(path: Path, budget: int) -> dict[str, Any]:
    """Five methods on two layers of sixteen neurons."""
    scene = over_inputs(uniform(2, 16, 16, 1, seed=4), list(METHODS), budget)
    save(landscape_figure(scene), path)
    return told(scene)


def pieces(path: Path, budget: int) -> dict[str, Any]:
    """Figure 2 of the paper: one input; where the methods are, step by step, under the function's affine pieces."""
    network = uniform(1, 12, 12, 1, seed=8)
    problem = Problem(gw.view(network), gw.Box(-1.0, 1.0), lambda x, y: -y[:, 0])
    start = torch.full((1, 1), 0.0, dtype=torch.float64)
    names = ["gd", "adr-gd", "gate-annealing"]
    ways = {name: follow(problem, method_named(METHODS[name]), start, budget=budget) for name in names}
    made = figure(8.6, 6.0)
    top, bottom = made.subplots(2, 1, sharex=True, height_ratios=(1.1, 1))
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        top.plot(x[:, 0], network(x)[:, 0], color="#22313f", linewidth=1.5)
    for share in gw.network.crossings(problem.network, x[:1], x[-1:]):
        for axes in (top, bottom):
            axes.axvline(2 * share - 1, color="#dde1e2", linewidth=0.8, zorder=0)
    for name, colour in palette.by_name(ways).items():
        way = ways[name]
        at = way.points[:, 0]
        top.plot(at, -way.values, ".", color=colour, markersize=4, alpha=0.5)
        best = int(way.values.argmin())
        top.plot(at[best], -way.values[best], marker="*", markersize=14, color=colour, markeredgecolor="white")
        bottom.plot(at, way.backwards, color=colour, linewidth=1.1, marker=".", markersize=3, label=name)
    top.set_ylabel("output")
    bottom.set(xlabel="input", ylabel="backward passes")
    bottom.invert_yaxis()
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    made.legend(loc="outside upper left", ncols=4, frameon=False)
    save(made, path)
    return {name: float(-way.best[-1]) for name, way in ways.items()}


def mnist(model: str, weights: Path, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A published network in float64, and the first images that it has right."""
    network = read_model(model, weights).double()
    data = read_images("mnist:test", count=2 * count + 8)
    images = data.images.double()
    right = (network(images).argmax(1) == data.labels).nonzero().flatten()[:count]
    return network, images[right], data.labels[right]


def around_an_image(path: Path, models: Path, window: float, budget: int) -> dict[str, Any]:
    """A plane of the authors' PGD-trained MNIST network, with all its linear regions."""
    network, images, labels = mnist("zoo:adr-mnist-cnn", models / "adr_gd_mnist" / "mnist_pgd.pt", 1)
    methods = {
        name: method_named(text)
        for name, text in (METHODS | {"adr-gd": "adr-gd:step_size=0.05", "gd": "gd:step_size=0.02"}).items()
    }
    scene = landscape(
        network, Margin(labels), Plane.drawn(images[0]), window, methods=methods, budget=budget, radius=0.4 * window,
        norm="l2", level=0.0, title=f"margin of class {int(labels)}",
    )  # fmt: skip
    save(landscape_figure(scene), path)
    return told(scene)


def through_three_images(path: Path, models: Path) -> dict[str, Any]:
    """The plane through three digits: every region of a network of two layers, and where the decision changes."""
    network, images, labels = mnist("zoo:mnist-mlp", models / "mnist_mlp" / "n2.safetensors", 3)
    plane = Plane.through(*images)
    corners = plane.coordinates(images)
    middle = (corners.amin(0) + corners.amax(0)) / 2
    window = 1.35 * float((corners.amax(0) - corners.amin(0)).max())
    scene = landscape(
        network, Margin(labels[:1]), plane, window, center=(float(middle[0]), float(middle[1])), level=0.0,
        title=f"margin of class {int(labels[0])}",
    )  # fmt: skip
    scene = replace(scene, axes=(f"from the {int(labels[0])} to the {int(labels[1])}", "upright on it"))
    made = figure(7.6, 6.4)
    axes = made.subplots()
    made.colorbar(paint(axes, scene, arrows=False), ax=axes, pad=0.02, shrink=0.92).set_label(scene.objective)
    size = 0.12 * window
    for (x, y), image in zip(corners.tolist(), images, strict=True):
        beside = x - 1.15 * size if x > middle[0] else x + 0.15 * size
        inset = axes.inset_axes((beside, y + 0.15 * size, size, size), transform=axes.transData)
        inset.imshow(1 - image[0].numpy(), cmap="gray", vmin=0, vmax=1)
        inset.set(xticks=[], yticks=[])
        axes.plot(x, y, marker="o", markersize=7, color="white", markeredgecolor="black", zorder=9)
    save(made, path)
    return told(scene)


def value_curves(path: Path, models: Path, count: int, budget: int) -> dict[str, Any]:
    """The margin of MNIST images under attack at linf 0.2: against gradients, and against seconds."""
    network, images, labels = mnist("zoo:adr-mnist-cnn", models / "adr_gd_mnist" / "mnist_pgd.pt", count)
    network, images = network.float(), images.float()
    problem = Problem(gw.view(network), ball_in_box(images, "linf", 0.2, (0.0, 1.0)), Margin(labels))
    curves: dict[str, list[Curve]] = {}
    for name, text in ATTACKS.items():
        spent: list[tuple[float, float]] = []

        def note(standing: gw.Standing, spent: list[tuple[float, float]] = spent) -> None:
            spent.append((standing.backwards_per_row, standing.seconds))

        result = gw.minimize(problem, method_named(text), images, budget=budget, callback=note, progress=False)
        backwards, seconds = torch.tensor(spent).T.numpy()
        curves[name] = [Curve(row.numpy(), backwards, seconds) for row in result.history.T]
    draw_value_curves([path], curves, "margin, best so far")
    return {
        name: round(float(torch.tensor([float(row.best[-1]) for row in rows]).median()), 4)
        for name, rows in curves.items()
    }


def told(scene: Scene) -> dict[str, Any]:
    best = {name: round(float(scene.shown(way.best)[-1]), 6) for name, way in scene.paths.items()}
    regions = scene.regions
    return {"regions": len(regions), "area_error": regions.area_error, "seconds": round(regions.seconds, 2)} | best


def main() -> None:
    given = flags(__doc__.splitlines()[0], "small windows and few passes", "out/landscapes")
    budget, count, window = (12, 3, 0.1) if given.quick else (300, 30, 1.0)
    models = Path(os.environ.get("GATEWISE_DATA", "")) / "models"
    pictures: dict[str, Callable[[Path], dict[str, Any]]] = {
        "three_neurons": lambda path: three_neurons(path, budget),
        "small_network": lambda path: small_network(path, min(budget, 160)),
        "pieces": lambda path: pieces(path, min(budget, 60)),
    }
    if models.is_dir():
        pictures |= {
            "mnist_plane": lambda path: around_an_image(path, models, window, min(budget, 60)),
            "three_digits": lambda path: through_three_images(path, models),
            "value_curves": lambda path: value_curves(path, models, count, min(budget, 100)),
        }
    else:
        print("LEFT OUT: MNIST; set GATEWISE_DATA to the folder that holds models/ and mnist/.")
    draw_all(pictures, given)


if __name__ == "__main__":
    main()
