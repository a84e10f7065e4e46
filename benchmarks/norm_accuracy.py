"""How accurate the estimated hyperplane norms are beside the exact ones, by layer: relative error quantiles.

Two figures for each gate of the robust MNIST network (when GATEWISE_DATA is set, random weights otherwise) and of a
random network A: the running mean that adr-gd holds after `--steps` refreshes along an ADR-GD-like walk, and a single
sample.

Run by: .venv/bin/python benchmarks/norm_accuracy.py [--rows 4] [--refreshes 30] [--out FILE]
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

import gatewise as gw
from gatewise import zoo
from gatewise.network import Fixed, RunningNorms, exact_norms, squared_norms
from gatewise.readers import read_images, read_weights
from gatewise.streams import RowStreams

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def networks() -> dict[str, tuple[torch.nn.Module, torch.Tensor]]:
    data = os.environ.get("GATEWISE_DATA")
    weights = None if data is None else read_weights(Path(data) / "models/adr_gd_mnist/mnist_pgd.pt")
    images = torch.rand(16, 1, 28, 28) if data is None else read_images("mnist:test", count=16).images
    generator = torch.Generator().manual_seed(0)
    layers = [(10, 64), (64, 64), (64, 1)]
    small = torch.nn.Sequential()
    for i, (width_in, width_out) in enumerate(layers):
        linear = torch.nn.Linear(width_in, width_out)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 - 1)
        small.append(linear)
        if i < len(layers) - 1:
            small.append(torch.nn.ReLU())
    return {
        "mnist-cnn": (zoo.build("adr-mnist-cnn", weights), images),
        "random-a": (small.eval(), torch.rand(16, 10, generator=generator) * 2 - 1),
    }


def quantiles(estimate: torch.Tensor, exact: torch.Tensor) -> list[float]:
    """Of the relative error, over the neurons that some input reaches."""
    live = exact > 1e-6 * exact.max()
    error = (estimate[live] / exact[live] - 1).double()
    return [round(torch.quantile(error, q).item(), 3) for q in QUANTILES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--refreshes", type=int, default=30)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    for name, (module, points) in networks().items():
        lens, x = gw.view(module), points[: given.rows]
        with lens.borrowed(), torch.no_grad():
            base = lens.trace(x)
            held = Fixed(base.pattern())
            exact = exact_norms(lens, base, held)
            streams = RowStreams(0, range(len(x)))
            single = [square.sqrt() for square in squared_norms(lens, base, held, streams.normal(x))]
            running = RunningNorms(lens, streams, refresh=1)
            for _ in range(given.refreshes):
                running.look(base, lambda held=held: held)
            mean = running.norms()
        found[name] = {
            f"gate {i}": {"running": quantiles(mean[i], exact[i]), "single": quantiles(single[i], exact[i])}
            for i in range(len(base.gates))
        }
        print(name, json.dumps(found[name], indent=1))
    told = {"relative_error_quantiles": {"levels": QUANTILES} | found, "rows": given.rows, "refreshes": given.refreshes}
    if given.out:
        given.out.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
