"""Claims (1) to (5) of Deng, He, Huang, Su (ICML 2020) on the dynamics of projected gradient, by experiment.

Two-layer softplus networks f(x) = sum_r a_r softplus(w_r . x) at Xavier's initialisation (w ~ N(0, I/d), a = +-m^-1/2)
and an input of norm 1. The minimised loss is L = -(y - f)² with y = f(x) + 1, or minus the cross-entropy of one logit
with the label y = 0; eps = (log m)^-2 unless said otherwise, eta = min((log m)^-2, eps²). Networks are drawn from seeds
0, 1, …; means have 95% intervals over networks (Student's t), shares Wilson's.

Run by: .venv/bin/python experiments/first_order_adversaries.py --out benchmarks/results/first_order_adversaries.json
    [--quick] [--networks 12]
A run goes on where it was stopped. The last line printed is one JSON object; the exit code is 1 where an expected
figure is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from expectations import check, verdict
from scipy.stats import t as student
from torch import Tensor

from gatewise.critical_points import critical_points
from gatewise.geometry import row_norm
from gatewise.sphere_dynamics import SphereLoss, walk, widest_angle

SIZES = ((30, 10), (300, 10), (3000, 10), (300, 40), (3000, 40))  # (m, d); m = d^2.5 is 316 for d = 10
RADII = tuple(10 ** (k / 4) for k in range(-8, 9))  # of the thresholds: 0.01 to 100
SCALES, RATIOS = (0.01, 1.0, 100.0), (0.1, 1.0, 10.0)


@dataclass(frozen=True, eq=False)
class TwoLayers:
    """`sum_r a_r softplus(w_r . x)`: weights w (m, d), signs a (m,) and an input x (d,), float64."""

    w: Tensor
    a: Tensor
    x: Tensor

    def __call__(self, offsets: Tensor) -> Tensor:
        """The output at x plus `offsets` (k, d): (k,)."""
        return F.softplus((self.x + offsets) @ self.w.T) @ self.a

    def squared(self, radius: float, y: float | None = None) -> SphereLoss:
        """`-(y - f)²`; y is `f(x) + 1` where none is given."""
        target = float(self(torch.zeros(1, len(self.x), dtype=torch.float64))) + 1 if y is None else y
        return SphereLoss(lambda d: -(target - self(d)).square(), radius, len(self.x))

    def cross_entropy(self, radius: float) -> SphereLoss:
        """Minus the cross-entropy of one logit with the label 0."""
        return SphereLoss(lambda d: -F.softplus(self(d)), radius, len(self.x))

    def output(self, radius: float) -> SphereLoss:
        """The network itself, to be differentiated."""
        return SphereLoss(self, radius, len(self.x))


def drawn(m: int, d: int, seed: int, scale: float = 1.0) -> TwoLayers:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(m, d, generator=generator, dtype=torch.float64) / d**0.5
    a = (2 * torch.randint(2, (m,), generator=generator) - 1).double() / m**0.5
    x = torch.randn(d, generator=generator, dtype=torch.float64)
    return TwoLayers(w, a, scale * x / x.norm())


def circle(radius: float, places: int) -> Tensor:
    angles = torch.arange(places, dtype=torch.float64) * (2 * math.pi / places) + 0.01
    return radius * torch.stack([angles.cos(), angles.sin()], 1)


def turns(loss: SphereLoss, places: int = 4000) -> tuple[Tensor, Tensor]:
    """The minima and the maxima of L on a circle, each between two of so many places, by the sign of the slope."""
    points = circle(loss.radius, places)
    slope = (loss.gradient(points)[1] * torch.stack([-points[:, 1], points[:, 0]], 1)).sum(1)
    after = slope.roll(-1)
    middle = loss.onto_sphere(points + points.roll(-1, 0))
    return middle[(slope < 0) & (after >= 0)], middle[(slope >= 0) & (after < 0)]


def on_one_network(m: int, d: int, seed: int, kind: str, epsilon: float) -> dict[str, float]:
    """Claims (1), (2), (4) and Lemma 4.5 on one network: eight walks, all critical points, angles."""
    network = drawn(m, d, seed)
    loss = network.squared(epsilon) if kind == "squared" else network.cross_entropy(epsilon)
    outer, eta = network.output(epsilon), min(epsilon**2, math.log(m) ** -2)
    ball, sphere = loss.uniform(256, seed), loss.onto_sphere(loss.uniform(256, seed + 1))
    everywhere = torch.cat([ball, sphere])
    slopes = row_norm(outer.gradient(everywhere)[1])
    steepness = row_norm(loss.gradient(everywhere)[1]) / slopes  # |dL/df|
    steps = min(math.ceil(30 * epsilon / (eta * float(steepness.mean()))), 2000)
    way = walk(loss, loss.uniform(8, seed), [eta] * steps)
    inside = ~way.on_sphere[1:]
    progress = ((way.values[:-1] - way.values[1:]) / eta)[inside]
    angle = widest_angle(outer.gradient(sphere)[1])
    near = eta**0.5 / float(steepness.min() * slopes.min())
    condition = near < 1 and angle + math.acos(math.sqrt(1 - near**2)) <= math.pi / 4  # (6) of Lemma 4.5
    wrong_side = bool(((way.cosines >= 1 - near) & way.on_sphere).any())
    found = critical_points(loss, starts=12, steps=150, seed=seed)
    least, most = found.of("minimum"), found.of("maximum")
    full = loss.extreme_eigenvalues(torch.cat([least, most]), tangent=False)
    signs = torch.tensor([1.0] * len(least) + [-1.0] * len(most))
    radial = loss.at(torch.cat([least, most])).multiplier  # its sign is that of <dL, d>, that is -(y - f) <df, d>
    gap = torch.cdist(way.points[-1], least).min(1).values
    return {
        "progress": float(progress.min()) if len(progress) else math.nan,
        "never_up": float((way.values.diff(dim=0) <= 1e-14).all()),
        "on_sphere": float(way.on_sphere[-1].double().mean()),
        "steps_to_sphere": float(way.first(way.on_sphere).double().mean() * eta / epsilon),
        "at_a_minimum": float((gap <= eta**0.5 / 10).double().mean()),
        "no_saddles": float("saddle" not in found.kinds),
        "isolated": float("degenerate" not in found.kinds),
        "definite": float(((full[:, 0] > 0) == (signs > 0)).all() and ((full[:, 1] < 0) == (signs < 0)).all()),
        "signs": float((-radial.sign() == signs).all()),
        "one_minimum": float(len(least) == 1),
        "minima": float(len(least)),
        "angle": math.degrees(angle),
        "within_45": float(angle < math.pi / 4),
        "condition": float(condition),
        "never_wrong_side": float(not wrong_side),
        "lemma_4_5": float(not (condition and wrong_side)),
        "lower": float(steepness.min()),
        "upper": float(steepness.max()),
    }


def rates(m: int, d: int, seed: int) -> dict[str, float]:
    """Claim (3) on one network: how steps grow as eta falls, and how fast shrinking steps come in."""
    epsilon = math.log(m) ** -2
    loss = drawn(m, d, seed).squared(epsilon)
    etas = epsilon**2 * torch.tensor([1.0, 0.5, 0.25, 0.125], dtype=torch.float64).repeat_interleave(4)
    start = loss.uniform(4, seed).repeat(4, 1)
    way = walk(loss, start, [etas] * math.ceil(80 / epsilon))
    best = critical_points(loss, starts=6, steps=150, seed=seed, saddles=False)
    least = best.of("minimum")
    gap = torch.stack([torch.cdist(points, least).min(1).values for points in way.points])
    steps = way.first(gap <= 0.1 * etas.sqrt()).double().view(4, 4).mean(1)
    log_eta = etas.view(4, 4)[:, 0].log()
    growth = -np.polyfit(log_eta.numpy(), steps.log().numpy(), 1)[0]
    # Shrinking steps 2 / (beta (s + z)), from where the tangent gradient is below the square root of eta.
    eta = float(etas[0])
    beta = float(best.eigenvalues[best.kinds.index("minimum"), 0])
    z = math.ceil(2 / (beta * eta)) + 1
    begin = way.points[int(way.first(way.slopes < eta**0.5)[0])][:1, :]
    shrinking = walk(loss, begin, [2 / (beta * (s + z)) for s in range(40 * z)])
    distance = torch.cdist(shrinking.points[:, 0], least).min(1).values.square()
    at = torch.arange(len(distance)) + z
    tail = (at > 2 * z) & (distance > 1e-24)
    law = (
        -np.polyfit(at[tail].double().log().numpy(), distance[tail].log().numpy(), 1)[0] if tail.sum() > 2 else math.nan
    )
    worst = float((distance * at / (distance[0] * z)).max())  # D_s (s + z) / (D_0 z)
    reached = bool((gap[-1] <= 0.1 * etas.sqrt()).all())
    return {"growth": float(growth) if reached else math.nan, "reached": float(reached), "law": float(law),
            "bound": worst}  # fmt: skip


def threshold(m: int, seed: int) -> dict[str, float]:
    """Claim (4) with two inputs, exactly: the largest radius up to which one adversary is all there is."""
    network = drawn(m, 2, seed)
    single = [len(turns(network.squared(radius), 1000)[0]) == 1 for radius in RADII]
    until = single.index(False) if False in single else len(single)
    target = float(network(torch.zeros(1, 2, dtype=torch.float64))) + 1
    reached = [bool((network(circle(radius, 1000)) >= target).any()) for radius in RADII]
    meets = reached.index(True) if True in reached else len(reached)
    return {
        "log_threshold": math.log10(RADII[until - 1]) if until else math.nan,
        "any": float(until > 0),
        "at_the_target": float(until == meets),  # the radius at which the sphere first meets f = y
    }


def escape(scale: float, ratio: float, seed: int) -> dict[str, float]:
    """Claim (5) with two inputs and y = 1: adversaries on the circle, and steps from beside a wrong-side critical point
    to one. A step is a twentieth of the radius over the mean slope, so that all cells walk at one pace.
    """
    loss = drawn(50, 2, seed, scale).squared(scale * ratio, 1.0)
    least, most = turns(loss)
    pace = 0.05 * loss.radius / float(row_norm(loss.gradient(circle(loss.radius, 200))[1]).mean())
    aside = torch.stack([-most[:, 1], most[:, 0]], 1)
    way = walk(loss, loss.onto_sphere(most + 0.01 * aside), [pace] * 400)
    there = torch.stack([torch.cdist(points, least).min(1).values < 0.05 * loss.radius for points in way.points])
    steps = way.first(there).double()
    return {
        "minima": float(len(least)),
        "single": float(len(least) == 1),
        "steps": float(steps.mean()),
        "escaped": float((steps <= 400).double().mean()),
    }


SHARES = {"never_up", "no_saddles", "isolated", "definite", "signs", "one_minimum", "within_45", "condition", "single"}
SHARES |= {"never_wrong_side", "lemma_4_5", "reached", "any", "at_the_target"}


def told(rows: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """By figure: the mean over networks and the two ends of its 95% interval; networks without it are left out."""
    return {key: interval(np.array([row[key] for row in rows]), key in SHARES) for key in rows[0]}


def interval(values: np.ndarray, is_share: bool) -> list[float]:
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return []
    mean = float(values.mean())
    if is_share:
        z = 1.96
        middle, half = mean + z * z / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
        ends = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    else:
        half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
        ends = (mean - half, mean + half)
    return [round(figure, 5) for figure in (mean, *ends)]


def cells(quick: bool) -> dict[str, Callable[[int], dict[str, float]]]:
    """What is measured on a network, by the name of the cell."""
    sizes = ((30, 10),) if quick else SIZES
    found: dict[str, Callable[[int], dict[str, float]]] = {}
    for m, d in sizes:
        small = math.log(m) ** -2
        found[f"small|{m}|{d}"] = lambda seed, m=m, d=d, e=small: on_one_network(m, d, seed, "squared", e)
    m, d = sizes[0] if quick else (300, 10)
    found["cross-entropy"] = lambda seed, m=m, d=d: on_one_network(m, d, seed, "cross-entropy", math.log(m) ** -2)
    for m in (10,) if quick else (10, 100, 1000):
        found[f"threshold|{m}"] = lambda seed, m=m: threshold(m, seed)
    for scale in SCALES[:1] if quick else SCALES:
        for ratio in RATIOS[:1] if quick else RATIOS:
            found[f"escape|{scale:g}|{ratio:g}"] = lambda seed, s=scale, r=ratio: escape(s, r, seed)
    for m, d in sizes if quick else ((30, 10), (300, 10)):
        found[f"large|{m}|{d}"] = lambda seed, m=m, d=d: on_one_network(m, d, seed, "squared", 3.0)
        found[f"rates|{m}|{d}"] = lambda seed, m=m, d=d: rates(m, d, seed)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two small networks a cell, for CI")
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    networks = 2 if given.quick else given.networks
    figures: dict[str, dict] = json.loads(given.out.read_text()) if given.out and given.out.is_file() else {}
    for name, measure in cells(given.quick).items():
        if figures.get(name, {}).get("networks", 0) >= networks:
            continue
        figures[name] = told([measure(seed) for seed in range(networks)]) | {"networks": networks}
        print(name, json.dumps(figures[name]), file=sys.stderr, flush=True)
        if given.out:
            given.out.write_text(json.dumps(figures, indent=1) + "\n")
    measured = {
        f"{name}|{figure}": values[0]
        for name, cell in figures.items()
        for figure, values in cell.items()
        if isinstance(values, list) and values
    }
    code = verdict("first_order_adversaries", check("first_order_adversaries", measured,
                                                    table="quick" if given.quick else "figures"))  # fmt: skip
    print(json.dumps(figures))
    return code


if __name__ == "__main__":
    sys.exit(main())
