"""Regions a second of rLR-QP's inner problem: gatewise.region_projection beside daqp, on one thread.

Networks: 784-50-10 (`n1`) and 784-1024-10 (`1x1024`) of GATEWISE_DATA/models/mnist_mlp. For each of `--images` test
images a boundary point `x + d` (DeepFool, then bisection), and `--regions` different regions of points `x + d + e`
as in Algorithm 1 of Croce & Hein 2018: uniform direction, uniform radius up to 4 ||d||. A region is nine projections,
one a target class. "pruned" has the cutoff of the algorithm, the distance of the best point known; "all solved" has
none, which is what daqp does. daqp solves `--daqp` targets of one region an image, from the same arrays, to 1e-10;
seconds a region are nine times its seconds a problem, or, as "daqp_where_half_space_is_near", times the number of
targets whose half-space is nearer than the cutoff. Every figure is process time with the region's set-up (signs,
limits, map of the logits) included on both sides, and without it as `_without_setup`; the best of `--repeats` for ours.

Run by: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/region_qp.py [--images 20] [--regions 20] [--out FILE]
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import daqp
import numpy as np

from gatewise.readers import read_images, read_weights
from gatewise.region_projection import Faces, Outcome, Projection, nearest

NETWORKS = ("n1", "1x1024")
RADIUS = 4.0


@dataclass
class Network:
    """`W2 max(W1 x + b1, 0) + b2`, with the faces that all of its regions share."""

    W1: np.ndarray
    b1: np.ndarray
    W2: np.ndarray
    b2: np.ndarray

    def __post_init__(self):
        self.size = np.linalg.norm(self.W1, axis=1)
        self.rows = self.W1 / self.size[:, None]

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(classes,)."""
        return self.W2 @ np.maximum(self.W1 @ x + self.b1, 0) + self.b2

    def on(self, x: np.ndarray) -> np.ndarray:
        """Which hidden units are on, (units,)."""
        return self.W1 @ x + self.b1 > 0


class AroundImage:
    """What the regions around one image share: pre-activations and the map of the logits at the image."""

    def __init__(self, network: Network, x: np.ndarray, label: int):
        self.network, self.x, self.lower, self.upper = network, x, -x, 1 - x
        self.before = network.W1 @ x + network.b1
        self.on = self.before > 0
        self.levels = self.before / network.size
        self.lead = network.W2[label] - np.delete(network.W2, label, 0)
        self.lead_constant = network.b2[label] - np.delete(network.b2, label)
        self.lead_rows = (self.lead * self.on) @ network.W1

    def region(self, on: np.ndarray) -> tuple:
        """The arguments of `nearest` up to the box: only the units that differ from the image's change the map."""
        signs = np.where(on, -1.0, 1.0)
        changed = np.flatnonzero(on != self.on)
        sign = np.where(on[changed], 1.0, -1.0)
        rows = self.lead_rows + (self.lead[:, changed] * sign) @ self.network.W1[changed]
        limits = -((self.lead * on) @ self.before + self.lead_constant)
        return Faces(self.network.rows, -signs * self.levels, signs), rows, limits, self.lower, self.upper


def boundary_point(network: Network, x: np.ndarray, label: int) -> np.ndarray:
    """Steps to the nearest of the linearised classes, then bisection."""
    y = x.copy()
    for _ in range(100):
        logits = network.logits(y)
        if logits.argmax() != label:
            break
        gradients = (network.W2 * network.on(y)) @ network.W1
        gradients -= gradients[label]
        squares = np.maximum(np.einsum("ij,ij->i", gradients, gradients), 1e-30)
        gaps = logits[label] - logits + 1e-4
        distance = gaps / np.sqrt(squares)
        distance[label] = math.inf
        target = int(distance.argmin())
        y = np.clip(y + 1.02 * gaps[target] / squares[target] * gradients[target], 0, 1)
    inside, outside = 0.0, 1.0
    for _ in range(40):
        middle = (inside + outside) / 2
        if network.logits(x + middle * (y - x)).argmax() == label:
            inside = middle
        else:
            outside = middle
    return outside * (y - x)


def sampled_patterns(network: Network, x, d, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Which units are on, for `count` regions (fewer where 50 draws each do not find as many)."""
    found: dict[bytes, np.ndarray] = {}
    for _ in range(50 * count):
        e = rng.normal(size=len(x))
        e *= rng.random() * RADIUS * np.linalg.norm(d) / np.linalg.norm(e)
        on = network.on(np.clip(x + d + e, 0, 1))
        found.setdefault(on.tobytes(), on)
        if len(found) == count:
            break
    return list(found.values())


def by_daqp(faces: Faces, row, limit, lower, upper) -> float:
    """The distance; `inf` for an empty region."""
    size = np.linalg.norm(row)
    rows = np.empty((len(faces.limits) + 1, len(lower)))
    np.multiply(faces.rows, faces.signs[:, None], out=rows[1:])
    rows[0] = row / size
    above = np.concatenate([upper, [limit / size], faces.limits])
    below = np.concatenate([lower, np.full(len(rows), -1e30)])
    point, _, flag, _ = daqp.solve(
        np.eye(len(lower)), np.zeros(len(lower)), rows, above, below, primal_tol=1e-10, eps_prox=-1.0
    )
    return float(np.linalg.norm(point)) if flag == 1 else math.inf


def measure(name: str, given: argparse.Namespace) -> dict[str, object]:
    folder = Path(os.environ["GATEWISE_DATA"]) / "models/mnist_mlp"
    weights = read_weights(folder / f"{name}.safetensors")
    network = Network(*(weights[key].double().numpy() for key in ("0.weight", "0.bias", "2.weight", "2.bias")))
    images = read_images("mnist:test", count=2 * given.images)
    rng = np.random.default_rng(0)
    work: list[tuple[AroundImage, float, list[np.ndarray]]] = []
    for image, label in zip(images.images, images.labels.tolist(), strict=True):
        x = image.double().numpy().ravel()
        if len(work) < given.images and network.logits(x).argmax() == label:
            d = boundary_point(network, x, label)
            patterns = sampled_patterns(network, x, d, given.regions, rng)
            work.append((AroundImage(network, x, label), float(np.linalg.norm(d)), patterns))
    regions = sum(len(patterns) for _, _, patterns in work)

    def ours(pruning: bool, most: int) -> list[list[Projection]]:
        found = []
        for around, best, patterns in work:
            cutoff = best if pruning else math.inf
            for on in patterns[:most]:
                found.append(nearest(*around.region(on), cutoff, keep=1.0 if pruning else math.inf))
                if pruning:
                    cutoff = min([cutoff, *(projection.distance for projection in found[-1])])
        return found

    def setup() -> None:
        for around, _, patterns in work:
            for on in patterns:
                around.region(on)

    def seconds(task, repeats: int = given.repeats) -> tuple[float, list]:
        times = []
        for _ in range(repeats):
            start = time.process_time()
            result = task()
            times.append(time.process_time() - start)
        return min(times), result

    def near_halfspaces() -> int:
        count = 0
        for around, best, patterns in work:
            for on in patterns:
                _, rows, limits, _, _ = around.region(on)
                count += int((-limits < best * np.linalg.norm(rows, axis=1)).sum())
        return count

    setting_up = seconds(setup)[0] / regions
    pruned, with_cutoff = seconds(lambda: ours(True, given.regions))
    few = 2
    solved, without = seconds(lambda: ours(False, few), 2)
    solved /= len(without)
    per_problem, differences = [], []
    problems = rng.permutation(9)[: given.daqp]
    for i, (around, _, patterns) in enumerate(work[: given.daqp_images]):
        faces, rows, limits, lower, upper = around.region(patterns[0])
        position = sum(min(few, len(other)) for _, _, other in work[:i])
        for target in problems.tolist():
            start = time.process_time()
            distance = by_daqp(faces, rows[target], limits[target], lower, upper)
            per_problem.append(time.process_time() - start)
            mine = without[position][target]
            if mine.status is Outcome.SOLVED:
                differences.append(abs(mine.distance - distance) / distance)
            elif distance < math.inf:
                differences.append(math.inf)
    daqp_seconds = 9 * float(np.mean(per_problem))
    near_seconds = daqp_seconds / 9 * near_halfspaces() / regions + setting_up
    outcomes = [projection.status for found in with_cutoff for projection in found]
    ours_seconds = pruned / regions
    return {
        "images": len(work),
        "regions": regions,
        "regions_per_second": {
            "pruned": round(1 / ours_seconds, 1),
            "pruned_without_setup": round(1 / (ours_seconds - setting_up), 1),
            "all_solved": round(1 / solved, 2),
            "daqp": round(1 / (daqp_seconds + setting_up), 3),
            "daqp_without_setup": round(1 / daqp_seconds, 3),
            "daqp_where_half_space_is_near": round(1 / near_seconds, 3),
        },
        "times_daqp": {
            "pruned": round((daqp_seconds + setting_up) / ours_seconds, 1),
            "pruned_without_setup": round(daqp_seconds / (ours_seconds - setting_up), 1),
            "pruned_where_half_space_is_near": round(near_seconds / ours_seconds, 1),
            "all_solved": round((daqp_seconds + setting_up) / solved, 1),
        },
        "outcomes": {outcome.value: outcomes.count(outcome) for outcome in Outcome},
        "outcomes_all_solved": {
            outcome.value: sum(projection.status is outcome for found in without for projection in found)
            for outcome in Outcome
        },
        "daqp_problems": len(per_problem),
        "largest_relative_difference_from_daqp": float(f"{max(differences):.2g}"),
        "largest_relative_residual": float(
            f"{max(p.residual / p.distance for found in without for p in found if p.status is Outcome.SOLVED):.2g}"
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--regions", type=int, default=20, help="regions an image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--daqp", type=int, default=3, help="targets that daqp solves in a region")
    parser.add_argument("--daqp-images", type=int, default=10, help="images in which daqp solves one region")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if "GATEWISE_DATA" not in os.environ or os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("Set GATEWISE_DATA to the folder that holds models/mnist_mlp, and OMP_NUM_THREADS=1.")
    load = os.getloadavg()[0]
    found = {"load_at_start": round(load, 2), "cores": os.cpu_count()}
    found |= {name: measure(name, given) for name in NETWORKS}
    text = json.dumps(found)
    if given.out is not None:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
