"""Pictures of the dynamics of projected gradient: Figures 1 to 3 of Deng, He, Huang, Su (ICML 2020).

`scales_and_ratios`: loss over two inputs of a two-layer softplus network, three input scales by three ratios of radius
to scale, with walks. `escapes`: the loss on the way from the least harmful points to adversaries, on MNIST with a
convolutional softplus network at its initialisation, three scales by five ratios. `adversarial_training`: the same at
scale 0.1 after 0, a few and many epochs of adversarial training on 1,000 images.

Steps are a twentieth of the radius over the gradient's norm at the input itself, so that all walk at one pace; the last
two are drawn with one step size for all, too (the paper does not say its steps). Their walks begin where as many steps
uphill from a random point have led, moved aside by a thousandth of the radius.

Run by: .venv/bin/python experiments/first_order_pictures.py --out docs/dynamics [--quick] [--only NAME]
The last line printed is one JSON object.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from first_order_adversaries import drawn, turns
from pictures import draw_all, figure, flags, save
from torch import Tensor, nn

from gatewise.adversary import Adversary
from gatewise.geometry import row_norm, unit_rows
from gatewise.readers import read_images
from gatewise.report import palette
from gatewise.sphere_dynamics import SphereLoss, walk
from gatewise.streams import RowStreams
from gatewise.training import train

ETA = 1.0
SCALES, RATIOS = (0.1, 10.0, 100.0), (0.001, 0.01, 0.1, 1.0, 10.0)


def pace(loss: SphereLoss) -> float:
    """A twentieth of the radius over the gradient's norm in the middle of the ball."""
    middle = torch.zeros(1, loss.size, dtype=torch.float64)
    return 0.05 * loss.radius / float(row_norm(loss.gradient(middle)[1]))


def scales_and_ratios(path: Path, steps: int) -> dict[str, Any]:
    """Figure 1."""
    made = figure(9.6, 9.4)
    told = {}
    for row, scale in zip(made.subplots(3, 3), (0.01, 1.0, 100.0), strict=True):
        for axes, ratio in zip(row, (0.1, 1.0, 10.0), strict=True):
            network = drawn(50, 2, 3, scale)
            loss = network.squared(scale * ratio, 1.0)
            side = torch.linspace(-1.25, 1.25, 141, dtype=torch.float64)
            x, y = torch.meshgrid(side, side, indexing="xy")
            raised = -loss.value(torch.stack([x, y], 2).view(-1, 2) * loss.radius).view(141, 141)
            axes.contourf(x, y, raised, levels=24, cmap=_surface(), zorder=0)
            axes.contour(x, y, raised, levels=12, colors="#5b6b73", linewidths=0.4, zorder=1)
            ring = torch.linspace(0, 2 * torch.pi, 200)
            axes.plot(ring.cos(), ring.sin(), color=palette.EDGE, linewidth=1.1)
            least, most = turns(loss)
            inside = loss.uniform(6, 0)
            beside = loss.onto_sphere(most + 0.01 * torch.stack([-most[:, 1], most[:, 0]], 1))
            for start, colour in ((inside, palette.METHODS[1]), (beside, palette.METHODS[0])):
                points = walk(loss, start, [pace(loss)] * steps).points / loss.radius
                for way in points.unbind(1):
                    axes.plot(way[:, 0], way[:, 1], color=colour, linewidth=1.3, marker=".", markersize=2.5)
            for points, shape, colour in ((least, "*", "#c8374e"), (most, "X", "#22313f")):
                at = points / loss.radius
                axes.plot(at[:, 0], at[:, 1], shape, color=colour, markersize=13, markeredgecolor="white", zorder=9,
                          linestyle="none")  # fmt: skip
            axes.set(xticks=[], yticks=[], aspect="equal")
            axes.set_title(f"scale {scale:g}, ratio {ratio:g}: adversaries {len(least)}", fontsize=9)
            told[f"{scale:g}|{ratio:g}"] = len(least)
    save(made, path)
    return told


def _surface() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("surface", palette.SURFACE)


def convolutional(seed: int) -> nn.Sequential:
    """Two strided convolutions and two linear layers with softplus gates, for images (N, 1, 28, 28), at Xavier's
    initialisation. The gates are sharp enough (a tenth of softplus) for a network on images of scale 0.1 to learn.
    """
    torch.manual_seed(seed)
    gates = [nn.Softplus(beta=10) for _ in range(3)]
    layers = [nn.Conv2d(1, 8, 5, stride=2), gates[0], nn.Conv2d(8, 16, 5, stride=2), gates[1], nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(256, 32), gates[2], nn.Linear(32, 10))
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


def around(network: nn.Module, image: Tensor, label: int, radius: float) -> SphereLoss:
    """Minus the cross-entropy around an image (1, 28, 28)."""
    exact = copy.deepcopy(network).double().requires_grad_(False)

    def value(offsets: Tensor) -> Tensor:
        logits = exact(image + offsets.view(-1, *image.shape))
        return -F.cross_entropy(logits, torch.full((len(offsets),), label), reduction="none")

    return SphereLoss(value, radius, image.numel())


def escape(network: nn.Module, image: Tensor, label: int, radius: float, steps: int) -> Tensor:
    """The loss on two walks from beside the least harmful point that a walk uphill has led to: at the common pace, and
    with steps of `ETA`. As shares of the way to the largest loss seen, also from a random point: (steps + 1, 2).
    """
    loss = around(network, image, label, radius)
    uphill = SphereLoss(lambda offsets: -loss.value(offsets), radius, loss.size)
    begin, eta = loss.uniform(1, 0), pace(loss)
    top = walk(uphill, begin, [eta] * steps).points[-1]
    beside = loss.ball.project(top + unit_rows(RowStreams(0, [1]).normal(top)) * 1e-3 * radius)
    etas = torch.tensor([eta, ETA, eta], dtype=torch.float64)
    raised = -walk(loss, torch.cat([beside, beside, begin]), [etas] * steps).values
    return (raised[:, :2] - raised[0, 0]) / (raised.max() - raised[0, 0]).clamp_min(1e-300)


def curves(panels: Any, network: nn.Module, images: Tensor, labels: Tensor, scale: float, steps: int) -> dict[str, Any]:
    """A panel for each kind of steps: mean share by step, a line a ratio; told are the steps to half of the way."""
    norm = float(row_norm(images).mean()) * scale
    told = {}
    for ratio, colour in zip(RATIOS, palette.METHODS, strict=False):
        walks = [
            escape(network, image, label, ratio * norm, steps)
            for image, label in zip(images * scale, labels.tolist(), strict=True)
        ]
        shares = torch.stack(walks)
        halfway = torch.cat([shares >= 0.5, torch.ones_like(shares[:, :1], dtype=torch.bool)], 1).int().argmax(1)
        told[f"{ratio:g}"] = halfway.T.tolist()
        for axes, mean in zip(panels, shares.mean(0).unbind(1), strict=True):
            axes.plot(mean, color=colour, linewidth=1.6, label=f"ratio {ratio:g}")
            axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title(f"input scale {scale:g}")
    panels[1].set_xlabel("steps")
    return told


def finished(made: Any, panels: Any, path: Path) -> None:
    for axes, steps in zip(panels[:, 0], ("at one pace", f"of {ETA:g} times the gradient"), strict=True):
        axes.set_ylabel(f"steps {steps}:\nshare of the way up")
    made.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=5, frameon=False)
    save(made, path)


def escapes(path: Path, count: int, steps: int) -> dict[str, Any]:
    """Figure 2."""
    data = read_images("mnist:test", count=count)
    made = figure(11.0, 6.2)
    panels = made.subplots(2, 3, sharey=True, sharex=True)
    told = {
        f"{scale:g}": curves(column, convolutional(0), data.images.double(), data.labels, scale, steps)
        for column, scale in zip(panels.T, SCALES, strict=True)
    }
    finished(made, panels, path)
    return told


def adversarial_training(path: Path, count: int, steps: int, epochs: tuple[int, ...], rows: int) -> dict[str, Any]:
    """Figure 3, trained on `rows` images of scale 0.1 against l2 adversaries at ratio 0.1."""
    scale = 0.1
    data, learned = read_images("mnist:test", count=count), read_images("mnist:train", count=rows)
    images = scale * learned.images
    radius = 0.1 * float(row_norm(images).mean())
    adversary = Adversary(radius=radius, norm="l2", method="pgd:random_start=true", budget=3, bounds=None)
    network, made, told, done = convolutional(0), figure(11.0, 6.2), {}, 0
    panels = made.subplots(2, 3, sharey=True, sharex=True)
    for column, until in zip(panels.T, epochs, strict=True):
        if until > done:
            train(network, images, learned.labels, mode="adversarial", adversary=adversary, epochs=until - done,
                  optimiser="adam", rate=5e-3, schedule="constant", batch=25, seed=until, progress=False)  # fmt: skip
            done = until
        with torch.no_grad():
            right = float((network(images).argmax(1) == learned.labels).double().mean())
        told[str(until)] = curves(column, network, data.images.double(), data.labels, scale, steps) | {
            "accuracy": right
        }
        column[0].set_title(f"after {until} epochs (accuracy {right:.0%})")
    finished(made, panels, path)
    return told


def main() -> None:
    given = flags(__doc__.splitlines()[0], "few steps and images", "out/dynamics")
    steps, count = (4, 1) if given.quick else (120, 3)
    epochs, rows = ((0, 1, 2), 50) if given.quick else ((0, 5, 20), 1000)
    pictures: dict[str, Callable[[Path], dict[str, Any]]] = {
        "scales_and_ratios": lambda path: scales_and_ratios(path, steps),
    }
    if (Path(os.environ.get("GATEWISE_DATA", "")) / "mnist").is_dir():
        pictures |= {
            "escapes": lambda path: escapes(path, count, steps),
            "adversarial_training": lambda path: adversarial_training(path, count, steps, epochs, rows),
        }
    else:
        print("LEFT OUT: MNIST; set GATEWISE_DATA to the folder that holds mnist/.")
    draw_all(pictures, given)


if __name__ == "__main__":
    main()
