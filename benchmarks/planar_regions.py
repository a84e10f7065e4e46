"""Exact linear regions of a plane beside two other ways to them, on the MNIST CNN of ADR-GD's authors, in one run.

- pixels: the same number of forward passes on a square grid, counting different activation patterns: how many regions
  it sees.
- faces: one region's polygon cut from its faces (`LinearRegion.polygon`), times the number of regions.

SplineCam (Humayun et al. 2023), which does the same, is not beside them: it needs a GPU and graph-tool, which pip does
not install.

Run by: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/planar_regions.py --out benchmarks/results/planar_regions.json
The last line printed is one JSON object. Seconds are of the clock, cpu seconds of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gatewise as gw
from gatewise.network import NetworkView, PlanarRegions, Plane, planar_regions
from gatewise.readers import read_images, read_model

CENTER = torch.zeros(1, 2, dtype=torch.float64)


def timed(task: Callable[[], Any]) -> tuple[Any, float, float]:
    clock, cpu = time.perf_counter(), time.process_time()
    return task(), time.perf_counter() - clock, time.process_time() - cpu


def seen_by_pixels(view: NetworkView, window: float, passes: int) -> int:
    """How many regions' patterns a square grid of that many points meets."""
    along = int(passes**0.5)
    ticks = ((torch.arange(along, dtype=torch.float64) + 0.5) / along - 0.5) * window
    seen: set[bytes] = set()
    for some in torch.cartesian_prod(ticks, ticks).split(64):
        bits = torch.cat([gate.flatten(1) for gate in view.pattern(some)], 1).numpy()
        seen.update(row.tobytes() for row in np.packbits(bits, axis=1))
    return len(seen)


def by_faces(view: NetworkView, regions: PlanarRegions, window: float, chosen: list[int]) -> float:
    """The largest difference in area between some polygons and those cut from the regions' faces."""
    objects = regions.linear_regions(chosen)
    return max(
        abs(objects.area(-window / 2, window / 2, row) - regions.areas[region]) for row, region in enumerate(chosen)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", default="0.6", help="sides of the squares, with commas")
    parser.add_argument("--faces", type=int, default=5, help="regions that are cut from their faces")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if "GATEWISE_DATA" not in os.environ or os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("Set GATEWISE_DATA to the folder that holds models/adr_gd_mnist, and OMP_NUM_THREADS=1.")
    found: dict[str, Any] = {"load_at_start": round(os.getloadavg()[0], 2), "cores": os.cpu_count()}
    image = read_images("mnist:test", count=1).images[0].double()
    for name in ("mnist_pgd", "mnist_clean"):
        weights = Path(os.environ["GATEWISE_DATA"]) / "models" / "adr_gd_mnist" / f"{name}.pt"
        view = Plane.drawn(image).of(gw.view(read_model("zoo:adr-mnist-cnn", weights).double()))
        for window in map(float, given.windows.split(",")):
            before = view.meter.forwards
            regions, clock, cpu = timed(lambda view=view, window=window: planar_regions(view, CENTER, window))
            passes = view.meter.forwards - before
            seen, _, pixel_cpu = timed(lambda *a, v=view, w=window, p=passes: seen_by_pixels(v, w, p))
            chosen = np.random.default_rng(0).choice(len(regions), given.faces, replace=False).tolist()
            apart, _, face_cpu = timed(lambda v=view, r=regions, w=window, c=chosen: by_faces(v, r, w, c))
            found[f"{name}, window {window:g}"] = {
                "regions": len(regions),
                "slivers": regions.slivers,
                "area_error": regions.area_error,
                "passes": passes,
                "seconds": round(clock, 2),
                "cpu_seconds": round(cpu, 2),
                "regions_per_cpu_second": round(len(regions) / cpu, 1),
                "times_pixels_regions_at_equal_passes": round(len(regions) / seen, 2),
                "pixels_cpu_seconds": round(pixel_cpu, 2),
                "times_faces_speed": round(face_cpu / given.faces * len(regions) / cpu, 1),
                "largest_area_difference_from_faces": apart,
            }
    text = json.dumps(found)
    if given.out is not None:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
