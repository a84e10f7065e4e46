"""What an ADMM iteration costs beside a forward and backward pass, and a Fourier solve beside a dense one.

Iteration: LeNet-5 on CIFAR-10's shape, cross-entropy to a class with an l2 penalty, one batch. ADMM's iterations (the
sweep, the look at the true network, the driver's books; the making of the factors left out and told apart) and plain
forward and backward passes run in turn, several rounds; the ratio is taken by round, its median and range are told.
Weights are random: cost does not depend on them.

Solve: `(I + C'C) d = r` for a 3 x 3 convolution with padding 1, on the padded torus. At a size where the matrix fits,
by `Torus` and by a Cholesky factor of the matrix written out, and the relative difference. At 64 channels of 32 x 32
the matrix has 73,984 rows and columns (22 GB in float32) and is not made: there the Fourier solve is timed beside
conjugate gradients on the same system to 1e-5, and beside a dense solve whose time is extrapolated, by the square of
the side, from the largest one that was timed. Factors are made before the clock starts, in all cases.

Run by: .venv/bin/python benchmarks/admm_cost.py [--rounds 9] [--steps 10] [--batch 50] [--out FILE]
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import gatewise as gw
from gatewise import zoo
from gatewise.methods import Admm
from gatewise.network.blocks.conjugate_gradients import conjugate_gradients
from gatewise.network.blocks.torus import Torus
from gatewise.objectives import CrossEntropy, Penalised

ROWS = 8  # right-hand sides of a solve


def iteration(rounds: int, steps: int, batch: int) -> dict[str, Any]:
    network = zoo.build("lenet-5")
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = (network(images).argmax(1) + 1) % 10
    problem = gw.Problem(gw.view(network), gw.Box(-10.0, 10.0), Penalised(CrossEntropy(targets), images, 0.1))

    def passes() -> float:
        with problem.network.borrowed():
            began = time.perf_counter()
            for _ in range(steps):
                problem.at(images).gradient()
        return (time.perf_counter() - began) / steps

    def sweeps() -> tuple[float, float]:
        marks = [time.perf_counter()]
        method = Admm(rho=0.01, steps=steps + 1)
        gw.minimize(problem, method, images, callback=lambda _: marks.append(time.perf_counter()), progress=False)
        # The start, the first sweep with the making of the factors, then sweeps alone.
        each = (marks[-1] - marks[2]) / steps
        return each, marks[2] - marks[1] - each

    passes(), sweeps()
    timed = [(passes(), *sweeps()) for _ in range(rounds)]
    ratios = sorted(sweep / both for both, sweep, _ in timed)
    return {
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "pass_ms": round(1e3 * statistics.median(both for both, _, _ in timed), 2),
        "sweep_ms": round(1e3 * statistics.median(sweep for _, sweep, _ in timed), 2),
        "preparation_ms": round(1e3 * statistics.median(before for _, _, before in timed), 1),
        "batch": batch,
    }


def torus_of(channels: int, size: int) -> Torus:
    torch.manual_seed(0)
    return Torus(torch.randn(channels, channels, 3, 3) / (3 * channels**0.5), (size + 2, size + 2))


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median of several runs, after one that is not timed."""
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def gram(torus: Torus, d: torch.Tensor) -> torch.Tensor:
    """`d + C'C d` with the outputs that wrap around, by convolutions."""
    pushed = F.conv2d(F.pad(d, (0, 2, 0, 2), mode="circular"), torus.kernel)
    return d + F.conv_transpose2d(F.pad(pushed, (2, 0, 2, 0), mode="circular"), torus.kernel)[..., 2:-2, 2:-2]


def solve(channels: int, size: int, rounds: int) -> dict[str, Any]:
    """Fourier beside dense, where the matrix fits."""
    torus = torus_of(channels, size)
    n = channels * (size + 2) ** 2
    right = torch.randn(ROWS, channels, size + 2, size + 2)
    system = torch.cat([gram(torus, part.view(-1, *right.shape[1:])).flatten(1) for part in torch.eye(n).split(256)])
    factor = torch.linalg.cholesky(system)
    dense = torch.cholesky_solve(right.flatten(1).mT, factor).mT.view_as(right)
    error = float((torus.solve(right) - dense).norm() / dense.norm())
    fourier = seconds(lambda: torus.solve(right), rounds)
    direct = seconds(lambda: torch.cholesky_solve(right.flatten(1).mT, factor), rounds)
    return {
        "channels": channels,
        "size": size,
        "columns": n,
        "relative_difference": float(f"{error:.2e}"),
        "fourier_ms": round(1e3 * fourier, 3),
        "dense_ms": round(1e3 * direct, 3),
        "times_faster": round(direct / fourier, 1),
    }


def large_solve(dense: dict[str, Any], rounds: int) -> dict[str, Any]:
    """64 channels of 32 x 32: Fourier beside conjugate gradients, and beside the dense solve extrapolated."""
    torus = torus_of(64, 32)
    n = 64 * 34**2
    right = torch.randn(ROWS, 64, 34, 34)
    found = torus.solve(right)
    residual = float((gram(torus, found) - right).norm() / right.norm())
    fourier = seconds(lambda: torus.solve(right), rounds)
    solved = conjugate_gradients(lambda d: gram(torus, d), right, tolerance=1e-5, most=200)
    iterative = seconds(
        lambda: conjugate_gradients(lambda d: gram(torus, d), right, tolerance=1e-5, most=200), max(1, rounds // 3)
    )
    extrapolated = 1e-3 * dense["dense_ms"] * (n / dense["columns"]) ** 2
    return {
        "columns": n,
        "relative_residual": float(f"{residual:.2e}"),
        "fourier_ms": round(1e3 * fourier, 2),
        "conjugate_gradients_ms": round(1e3 * iterative, 1),
        "conjugate_gradients_steps": int(solved.steps.max()),
        "times_faster_than_conjugate_gradients": round(iterative / fourier, 1),
        "dense_extrapolated_ms": round(1e3 * extrapolated),
        "times_faster_than_dense_extrapolated": round(extrapolated / fourier),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    told: dict[str, Any] = {"iteration": iteration(given.rounds, given.steps, given.batch)}
    print(told["iteration"], flush=True)
    solves = [solve(channels, size, given.rounds) for channels, size in ((8, 8), (16, 8), (16, 16))]
    for entry in solves:
        print(entry, flush=True)
    told["solve"] = solves
    told["solve_64_channels_32x32"] = large_solve(solves[-1], given.rounds)
    print(told["solve_64_channels_32x32"], flush=True)
    told["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    if given.out:
        given.out.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
