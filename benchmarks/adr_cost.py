"""What an ADR-GD iteration costs beside a PGD step on the same batch, in one run.

For each network the two methods run in turn, several rounds of `--steps` iterations each; a ratio is ADR-GD's time
per iteration over PGD's, by round, and the median over rounds is reported with its range. Peak memory is the growth
of the resident set over the loaded network, each method in a process of its own. Weights are random unless the zoo
has none to draw: cost does not depend on them.

Run by: .venv/bin/python benchmarks/adr_cost.py [--rounds 7] [--steps 12] [--only mnist-cnn,resnet20] [--out FILE]
The last line printed is one JSON object. With ADR_OFFICIAL naming a checkout of the authors' code, their MNIST attack
is timed on one image too, and the ratio per image-iteration told.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import authors_code
import torch

import gatewise as gw
from gatewise import zoo
from gatewise.methods import ActivationDescent, ProjectedGradient

# name: (zoo name, batch, image shape, radius, ADR-GD settings)
CASES = {
    "mnist-cnn": ("adr-mnist-cnn", 64, (1, 28, 28), 0.2, "mnist"),
    "resnet20": ("cifar10-resnet20", 16, (3, 32, 32), 8 / 255, "cifar10"),
    "vgg19": ("vgg-19", 16, (3, 32, 32), 8 / 255, "cifar10"),
    "wide-resnet-50-2": ("wide-resnet-50-2", 1, (3, 224, 224), 2 / 255, "imagenet"),
}


def problem_of(case: str) -> tuple[gw.Problem, torch.Tensor]:
    name, batch, shape, radius, _ = CASES[case]
    network = zoo.build(name)
    images = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = network(images).argmax(1)
    domain = gw.Intersection(gw.LinfBall(images, radius), gw.Box(0.0, 1.0))
    return gw.Problem(gw.view(network), domain, -gw.objectives.CrossEntropy(labels)), images


def methods_of(case: str) -> dict[str, gw.methods.Method]:
    return {"pgd": ProjectedGradient(), "adr-gd": ActivationDescent.preset(CASES[case][4])}


def seconds_per_iteration(problem: gw.Problem, images: torch.Tensor, method: gw.methods.Method, steps: int) -> float:
    """Mean over `steps` iterations, the first (which sets up) left out."""
    marks: list[float] = []
    gw.minimize(
        problem,
        method,
        images,
        budget=(steps + 1) * method.backwards_per_step,
        callback=lambda _: marks.append(time.perf_counter()),
        progress=False,
    )
    return (marks[-1] - marks[1]) / (len(marks) - 2)


def peak_megabytes(case: str, method: str) -> float:
    """Growth of the resident set while the method runs, in a process of its own."""
    asked = [sys.executable, __file__, "--memory", case, method]
    return float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_memory(case: str, method: str) -> None:
    problem, images = problem_of(case)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = resident("VmRSS")
    gw.minimize(problem, methods_of(case)[method], images, budget=8, progress=False)
    print((resident("VmHWM") - before) / 1024)


def resident(entry: str) -> int:
    """Kilobytes, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry + ":"))


def measure(case: str, rounds: int, steps: int) -> dict[str, Any]:
    problem, images = problem_of(case)
    methods = methods_of(case)
    for method in methods.values():
        seconds_per_iteration(problem, images, method, 2)
    timed = [
        {name: seconds_per_iteration(problem, images, m, steps) for name, m in methods.items()} for _ in range(rounds)
    ]
    ratios = sorted(entry["adr-gd"] / entry["pgd"] for entry in timed)
    memory = {name: peak_megabytes(case, name) for name in methods}
    return {
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "pgd_ms": round(1e3 * statistics.median(entry["pgd"] for entry in timed), 2),
        "adr_gd_ms": round(1e3 * statistics.median(entry["adr-gd"] for entry in timed), 2),
        "memory_ratio": round(memory["adr-gd"] / max(memory["pgd"], 1e-9), 2),
        "memory_megabytes": {name: round(entry, 1) for name, entry in memory.items()},
    }


def authors_seconds() -> float | None:
    """Per image-iteration of the authors' released MNIST attack, on one image; None without a checkout."""
    problem, images = problem_of("mnist-cnn")
    return authors_code.seconds_per_iteration(problem.network.module, images[0], label=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", nargs=2)
    given = parser.parse_args()
    if given.memory:
        print_memory(*given.memory)
        return
    found = {}
    for case in given.only.split(","):
        found[case] = measure(case, given.rounds, given.steps)
        print(case, found[case], flush=True)
    told = {
        "ratio": {case: entry["ratio"] for case, entry in found.items()},
        "details": found,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    if "mnist-cnn" in found and (seconds := authors_seconds()) is not None:
        ours = 1e-3 * found["mnist-cnn"]["adr_gd_ms"] / CASES["mnist-cnn"][1]
        told["authors_code"] = {"seconds_per_image_iteration": round(seconds, 3), "ratio": round(seconds / ours)}
    if given.out:
        given.out.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
