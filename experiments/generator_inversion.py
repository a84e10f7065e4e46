"""Inverting generators: MNIST test images through the DCGAN generator and the VAE decoder, whole, in part, in sketch.

`plain`: the whole image. `inpainting`: all pixels but a centred square of 14 x 14. `missing pixels`: three in ten are
seen, drawn at random. `compressed sensing`: 100 products with normal draws, as in Bora et al. (2017). Every method
begins at the same standard normal latents, in the same box, with the same number of backward passes a row; best point
so far by the objective, which knows what was measured and nothing else. Told is the error of the whole image.

Settings were chosen on the test images 1000 to 1049, none of which is among those reported: the first 100.

Run by: .venv/bin/python experiments/generator_inversion.py --out benchmarks/results/generator_inversion.json
The last line printed is one JSON object; the exit code is 1 where an expected figure is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from expectations import check, verdict
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

import gatewise as gw
from gatewise.catalogue import method_named
from gatewise.inversion import Inversion, Setting, of_generator, plain
from gatewise.measurements import measurement_named
from gatewise.readers import read_images, read_model
from gatewise.report.gallery import Column, draw_gallery

DATA = Path(os.environ.get("GATEWISE_DATA", ""))
SEED, BUDGET, COUNT = 0, 500, 100
# Name, file, shape of a latent, images.
GENERATORS = {
    "dcgan": ("zoo:mnist-dcgan", "models/mnist_dcgan/generator.pt", (64, 1, 1)),
    "vae": ("zoo:mnist-vae-decoder", "models/mnist_vae/vae.pt", (20,)),
}
# Generator, measurement, weight of the latent's squared norm: the best found for gauss-newton, and for the others.
TASKS = {
    "dcgan|plain": ("dcgan", "none", 0.0, 0.0),
    "dcgan|inpainting": ("dcgan", "mask:box=14", 1e-3, 1e-3),
    "dcgan|missing pixels": ("dcgan", "mask:keep=0.3", 1e-5, 1e-4),
    "dcgan|compressed sensing": ("dcgan", "projection:count=100", 1e-4, 1e-3),
    "vae|plain": ("vae", "none", 0.0, 0.0),
}
METHODS = {
    "adam": "adam:step_size=0.1",
    "adam, 2 runs": "restarts:member=(adam:step_size=0.2),times=2",
    "gauss-newton": "gauss-newton",
    "gauss-newton, 2 runs": "restarts:member=gauss-newton,times=2",
    "gate-annealing": "gate-annealing:step_size=0.1,width=0.2",
    "gauss-newton, no smoothing": "gauss-newton:width=0",
    "adam, 5 runs": "restarts:member=(adam:step_size=0.2),times=5",
    "gd": "gd:step_size=1,schedule=cosine",
    "adr-gd": "adr-gd:step_size=0.5",
    "admm": "admm:rho=1e-5",  # knows no proximal step for images seen in part
}
Cells = dict[str, dict[str, Any]]


def opened(task: str, count: int, ours: bool = True) -> tuple[Inversion, list[int]]:
    generator, measurement, *weights_of_norm = TASKS[task]
    name, weights, shape = GENERATORS[generator]
    data = read_images("mnist:test", count=count)
    module = read_model(name, DATA / weights)
    setting = Setting(l2=weights_of_norm[0 if ours else 1], seed=SEED)
    measured = measurement_named(measurement, SEED)
    return of_generator(module, data.images, data.index, shape, setting, measurement=measured), data.index.tolist()


def run(task: str, method: str, count: int, budget: int) -> tuple[dict[str, Any], Tensor]:
    """What one method did on one task, and its images."""
    inversion, rows = opened(task, count, ours="gauss-newton" in method)
    problem = gw.Problem(inversion.network, inversion.domain, inversion.objective(torch.arange(count)))
    began = time.process_time()
    result = gw.minimize(
        problem, method_named(method), inversion.start, budget=budget, seed=SEED, rows=rows, progress=False
    )
    seconds = time.process_time() - began
    output = plain(inversion.network, result.x, count)
    figures = inversion.judge(result.x, output)
    cell = {
        "method": method,
        "images": count,
        "budget": budget,
        "weight": TASKS[task][2 if "gauss-newton" in method else 3],
        "mse": [round(value, 6) for value in figures["mse"].tolist()],
        "measured_error_median": statistics.median(figures["measured_error"].tolist()),
        "psnr_mean": figures["psnr"].mean().item(),
        "ssim_mean": figures["ssim"].mean().item(),
        "backwards_per_row": result.backwards_per_row,
        "forwards_per_row": result.forwards_per_row,
        "cpu_seconds": round(seconds, 1),
    }
    return cell, inversion.pictures(result.x, output)


def figures_of(cells: Cells, task: str) -> dict[str, dict[str, float]]:
    """By method: the median error, and for ours its ratio to the best of Adam's, restarted or not."""
    mine = {key.partition(":")[2]: cell for key, cell in cells.items() if key.startswith(f"{task}:")}
    medians = {label: statistics.median(cell["mse"]) for label, cell in mine.items()}
    rivals = [median for label, median in medians.items() if label.startswith("adam")]
    return {
        label: {"mse_median": median} | ({"ratio": median / min(rivals)} if rivals and label not in ("gd",) else {})
        for label, median in medians.items()
    }


def flat(cells: Cells) -> dict[str, float]:
    return {
        f"{task}:{label}|{name}": value
        for task in TASKS
        for label, line in figures_of(cells, task).items()
        for name, value in line.items()
    }


def tables(cells: Cells, console: Console) -> None:
    for task in TASKS:
        lines = figures_of(cells, task)
        if not lines:
            continue
        shown = Table(title=task, title_justify="left", box=box.SIMPLE_HEAD)
        for heading in ("", "median MSE", "mean", "PSNR", "SSIM", "measured", "back", "forw", "cpu s", "over Adam"):
            shown.add_column(heading, justify="left" if not heading else "right")
        for label, line in lines.items():
            cell = cells[f"{task}:{label}"]
            numbers = [f"{line['mse_median']:.5f}", f"{statistics.fmean(cell['mse']):.5f}"]
            numbers += [f"{cell['psnr_mean']:.2f}", f"{cell['ssim_mean']:.3f}", f"{cell['measured_error_median']:.5f}"]
            numbers += [f"{cell[f'{kind}_per_row']:.0f}" for kind in ("backwards", "forwards")]
            ratio = f"{line['ratio']:.2f}" if "ratio" in line else ""
            shown.add_row(label, *numbers, f"{cell['cpu_seconds']:.0f}", ratio)
        console.print(shown)


def write(file: Path | None, told: dict[str, Any]) -> None:
    """One line a cell."""
    if file is None:
        return
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(cell)}" for key, cell in told["cells"].items())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{{\n "machine": {json.dumps(told["machine"])},\n "cells": {{\n{lines}\n }}\n}}\n')


def gallery(folder: Path, path: Path, count: int) -> None:
    """Two images of each task on the DCGAN, one below the other: original, what was seen, Adam's and ours."""
    parts: dict[str, list[Tensor]] = {}
    tasks = [task for task in TASKS if task.startswith("dcgan")]
    found = {task: load_file(folder / file_of(task)) for task in tasks}
    shown = [label for label in ("adam", "adam, 2 runs", "gauss-newton") if all(label in found[task] for task in tasks)]
    for task in tasks:
        inversion, _ = opened(task, count)
        assert inversion.truth is not None
        start = inversion.pictures(inversion.start, plain(inversion.network, inversion.start, count))
        seen = inversion.truth if inversion.measured is None else inversion.measured
        columns = {"original": inversion.truth, "seen": seen, "start": start} | {one: found[task][one] for one in shown}
        for title, images in columns.items():
            parts.setdefault(title, []).append(images[2:4] if count > 3 else images[:1])
    pictures = {title: torch.cat(images) for title, images in parts.items()}
    truth = pictures["original"]
    columns = [
        Column(
            title,
            images,
            [f"mse {value:.4f}" if title in shown else "" for value in (images - truth).flatten(1).square().mean(1)],
            [False] * len(images),
        )
        for title, images in pictures.items()
    ]
    draw_gallery(path, columns[0], *columns[3:], between=columns[1:3])


def file_of(task: str) -> str:
    """Where the images of a task on the DCGAN are kept."""
    return f"{task.partition('|')[2].replace(' ', '_')}.safetensors"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three images and short runs, for CI")
    parser.add_argument("--tasks", default=",".join(TASKS), help="which to run, with commas (default all)")
    parser.add_argument("--methods", help="which to run, with semicolons (default all)")
    parser.add_argument("--seconds", type=float, help="begin nothing new after so long; --out keeps what is done")
    parser.add_argument("--out", type=Path, help="JSON file, written after every cell; what is in it is not run again")
    parser.add_argument("--images", type=Path, help="folder for the images found, and a gallery of them")
    given = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {"machine": "", "cells": {}}
    if given.out and given.out.is_file():
        told = json.loads(given.out.read_text())
    told["machine"] = f"{platform.machine()}, 1 thread, torch {torch.__version__}"
    cells, began, left = told["cells"], time.perf_counter(), 0
    count, budget = (3, 22) if given.quick else (COUNT, BUDGET)
    chosen = ("adam", "gauss-newton") if given.quick else tuple(METHODS)
    if given.methods:
        chosen = tuple(given.methods.split(";"))
    for label in chosen:
        for task in given.tasks.split(","):
            if label == "admm" and TASKS[task][1] != "none":
                continue
            key = f"{task}:{label}"
            if key in cells and cells[key]["method"] == METHODS[label] and cells[key]["budget"] == budget:
                continue
            if given.seconds is not None and time.perf_counter() - began > given.seconds:
                left += 1
                continue
            cells[key], images = run(task, METHODS[label], count, budget)
            said = f"{key}: median {statistics.median(cells[key]['mse']):.5f}, {cells[key]['cpu_seconds']} s"
            print(said, file=sys.stderr, flush=True)
            write(given.out, told)
            if given.images:
                keep(given.images, task, label, images)
    drawn = [file_of(task) for task in TASKS if task.startswith("dcgan")]
    if given.images and all((given.images / name).is_file() for name in drawn):
        gallery(given.images, given.images / "gallery.png", count)
    tables(cells, Console(width=150))
    if left:
        print(f"{left} cells are left; run the same command again.")
    part = not given.quick and bool(left or given.methods or given.tasks != ",".join(TASKS))
    failures = check("generator_inversion", flat(cells), table="quick" if given.quick else "figures", part=part)
    code = verdict("generator_inversion", failures)
    print(json.dumps(told))
    return code


def keep(folder: Path, task: str, label: str, images: Tensor) -> None:
    """The images of one method beside those of the others."""
    if not task.startswith("dcgan"):
        return
    file = folder / file_of(task)
    folder.mkdir(parents=True, exist_ok=True)
    save_file((load_file(file) if file.is_file() else {}) | {label: images.contiguous()}, file)


if __name__ == "__main__":
    sys.exit(main())
