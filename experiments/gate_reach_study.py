"""How can the objective's gradient reach the gates? What was tried on random networks, at equal budget.

Every row gets 3000 backward passes a network, in restarts of equal length that decay to 0; restarts are rows of one
batch, the first from x = 0. All but (a) tie each gate's relaxed state to x by its distance to the gate's hyperplane,
`u = h / (reach ||P||)`, with a reach that falls to 0; they differ in what stands in place of the gate:

    (a) sign        the network itself: restarted sign steps
    (b) surrogate   sigmoid(1.702 u) z, forward and backward: ADR-GD's smooth gate with eta tied to the distance
    (c) share       the gate itself, with the derivative Phi(u): that of the gate's expectation under noise
    (d) reaching    the gate itself, with the derivative of Phi(u) z: the library's `gate-reach`
    (e) nearest     (d) for the k gates of a row that are nearest to x, any layer; 0 or 1 elsewhere
    (f) ranked      (d) for the k gates of a row and layer that win most per distance if they flip; 0 or 1 elsewhere

Run by: .venv/bin/python experiments/gate_reach_study.py [--models A,B,C] [--quick] [--out FILE.json] [--plot FILE.png]
The last line printed is one JSON object; the exit code is 1 where an expected figure is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from expectations import check, verdict
from random_network_problems import LAYERS, RandomNetworks, add_flags, mean_gap, seeds_of, write
from rich.console import Console
from rich.table import Table
from torch import Tensor

import gatewise as gw
from gatewise.geometry import per_row
from gatewise.methods import GateReachingDescent, Method, ProjectedGradient
from gatewise.methods.base import cosine_decay
from gatewise.network.hyperplanes import RunningNorms
from gatewise.network.rules import Fixed, GateRule, Reaching
from gatewise.problem import Iterate, input_gradient

BACKWARDS, QUICK_BACKWARDS = 3000, 120
STEP, SETTLE, REFRESH = 0.5, 0.15, 3
DRIVER_SEEDS = (0, 1, 2)


@dataclass(frozen=True, eq=False)
class TiedSurrogate(GateRule):
    """(b) `sigmoid(1.702 z / s) z`."""

    deviation: Sequence[Tensor]

    def switch(self, index, z, slope):
        """The surrogate's value, which is not the network's."""
        return torch.sigmoid(1.702 * z / self.deviation[index].clamp_min(1e-9)) * z


@dataclass(frozen=True, eq=False)
class Share(GateRule):
    """(c) The gate itself; backward `Phi(z / s)`."""

    deviation: Sequence[Tensor]

    def switch(self, index, z, slope):
        """`max(z, 0)`."""
        return _ShareGate.apply(z, self.deviation[index])


class _ShareGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, s: Tensor) -> Tensor:
        ctx.save_for_backward(z, s)
        return z.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        z, s = ctx.saved_tensors
        return gradients[0] * torch.special.ndtr((z / s).nan_to_num(0.0)), None


@dataclass(frozen=True, eq=False)
class Ranked(GateRule):
    """(f) The gate itself; backward as `Reaching` for the `count` gates of each row that win most per distance."""

    deviation: Sequence[Tensor]
    norms: Sequence[Tensor]
    count: int

    def switch(self, index, z, slope):
        """`max(z, 0)`."""
        return _RankedGate.apply(z, self.deviation[index], self.norms[index], self.count)


class _RankedGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, s: Tensor, norm: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(z, s, norm)
        ctx.count = count
        return z.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        z, s, norm = ctx.saved_tensors
        (gradient,) = gradients
        # Wanted flips, as in Definition 5.2: open a gate that would lower the objective, close one that raises it.
        gain = (gradient * z.sign()).clamp_min(0) * norm
        score = gain * norm / z.abs().clamp_min(1e-12)
        allowed = torch.zeros_like(z).scatter_(1, score.topk(ctx.count, 1).indices, 1.0)
        u = (z / s).nan_to_num(0.0).clamp(-30, 30)
        share = torch.special.ndtr(u) + u * torch.exp(-u * u / 2) / math.sqrt(2 * math.pi)
        return gradient * torch.where(allowed > 0, share, (z > 0).to(z.dtype)), None, None, None


def nearest(count: int) -> Callable[[list[Tensor], list[Tensor], list[Tensor]], GateRule]:
    """(e) `Reaching` with width 0 for all but the nearest gates."""

    def rule(deviation: list[Tensor], norms: list[Tensor], heights: list[Tensor]) -> GateRule:
        distance = torch.cat([h.abs() / norm for h, norm in zip(heights, norms, strict=True)], 1)
        limit = distance.kthvalue(count, dim=1, keepdim=True).values
        near = (distance <= limit).split([h.shape[1] for h in heights], 1)
        return Reaching([s * kept for s, kept in zip(deviation, near, strict=True)])

    return rule


RULES: dict[str, Callable[[list[Tensor], list[Tensor], list[Tensor]], GateRule]] = {
    "surrogate": lambda deviation, norms, heights: TiedSurrogate(deviation),
    "share": lambda deviation, norms, heights: Share(deviation),
    "nearest 16": nearest(16),
    "nearest 64": nearest(64),
    "ranked 4": lambda deviation, norms, heights: Ranked(deviation, norms, 4),
    "ranked 16": lambda deviation, norms, heights: Ranked(deviation, norms, 16),
}


@dataclass(frozen=True, kw_only=True)
class TiedGates(Method):
    """The loop of `gate-reach` with another rule in place of `Reaching`."""

    name: ClassVar[str] = "tied-gates"

    rule: str
    reach: float

    def iterate(self, problem, start):
        """Look at the hyperplanes, yield x, step along the rule's gradient."""
        network, domain, steps = problem.network, problem.domain, start.steps(None)
        x, size = start.points, domain.size(start.points)
        running = RunningNorms(network, start.streams, refresh=REFRESH, fresh=0.3, first=1)
        for step in range(steps):
            with torch.no_grad():
                here = network.trace(x)
            yield Iterate(x, problem.measure(x, here.output), here.output)
            running.look(here, lambda at=here: Fixed(at.pattern()))
            norms = running.norms()[:-1]
            reach = per_row(self.reach * size * max(0.0, 1 - step / ((1 - SETTLE) * steps)), x)
            rule = RULES[self.rule]([reach * norm for norm in norms], list(norms), list(here.preactivations))
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                value = problem.measure(x, network.trace(x, rule).output)
            length = per_row(cosine_decay(step, steps) * STEP * size, x)
            x = domain.project(x.detach() - length * domain.steepest(input_gradient(value, x)))
        yield problem.at(x)


def cases(quick: bool) -> list[tuple[str, float, int]]:
    """(what, reach, restarts)."""
    broad = ("surrogate", "share", "reaching")
    narrow = ("nearest 16", "nearest 64", "ranked 4", "ranked 16")
    if quick:
        return [("sign", 0.0, 6), *((what, 2.0, 6) for what in (*broad, "nearest 16", "ranked 4"))]
    return [
        *(("sign", 0.0, restarts) for restarts in (30, 60)),
        *((what, reach, restarts) for what in broad for reach in (0.3, 1.0, 2.0) for restarts in (30, 60)),
        *((what, 2.0, 30) for what in narrow),
    ]


def method_for(what: str, reach: float) -> Method:
    if what == "sign":
        return ProjectedGradient(step_size=STEP)
    if what == "reaching":
        return GateReachingDescent(step_size=STEP, reach=reach, settle=SETTLE, refresh=REFRESH)
    return TiedGates(rule=what, reach=reach)


def gap_of(model: str, seeds: Sequence[int], method: Method, restarts: int, backwards: int, seed: int) -> float:
    """Mean gap when the restarts of all networks are rows of one batch, network by network in turn."""
    network, dimension = RandomNetworks(model, seeds), LAYERS[model][0][0]
    problem = gw.Problem(gw.view(network), gw.Box(-1.0, 1.0), gw.objectives.Linear(torch.ones(1)))
    start = 2 * torch.rand(restarts, len(seeds), dimension, generator=torch.Generator().manual_seed(seed)) - 1
    start[0] = 0
    found = gw.maximize(problem, method, start.flatten(0, 1), budget=backwards // restarts, seed=seed, progress=False)
    assert found.backwards_per_row <= backwards // restarts
    return mean_gap(found.value.view(restarts, -1).amax(0), model, seeds)


def plot(by_model: dict[str, dict], file: Path) -> None:
    """Gap by method, one panel a model: a dot for each driver seed, at the best reach and number of restarts."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ran = {line["what"] for lines in by_model.values() for line in lines.values()}
    kinds = [kind for kind in reversed(dict.fromkeys(what for what, _, _ in cases(quick=False))) if kind in ran]
    size = (3.4 * len(by_model), 2.8)
    figure, panels = plt.subplots(
        1, len(by_model), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (model, lines) in zip(panels[0], by_model.items(), strict=True):
        for line in lines.values():
            shade = {0.3: "tab:green", 1.0: "tab:orange", 2.0: "tab:blue"}.get(line["reach"], "black")
            marker = "o" if line["restarts"] == 30 else "x"
            shown = [max(100 * gap, 1e-3) for gap in line["gaps"]]
            place = [kinds.index(line["what"])] * len(shown)
            panel.scatter(shown, place, s=16, color=shade, marker=marker, alpha=0.7, linewidths=1)
        panel.set(xscale="log", title=f"model {model}", xlabel="mean gap to best known, %")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.set_yticks(range(len(kinds)), kinds)
        panel.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def table(by_model: dict[str, dict]) -> Table:
    """Mean gap by case and model, the range over the driver seeds in brackets."""
    shown = Table("what", "reach", "restarts", *by_model, title="Mean gap to best known, % (range over driver seeds)")
    for key, line in next(iter(by_model.values())).items():
        cells = []
        for lines in by_model.values():
            gaps = [100 * gap for gap in lines[key]["gaps"]]
            cells.append(f"{statistics.mean(gaps):.3f} ({min(gaps):.3f}-{max(gaps):.3f})")
        shown.add_row(line["what"], f"{line['reach']:g}" if line["reach"] else "", str(line["restarts"]), *cells)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_flags(parser, "A,B,C")
    parser.add_argument("--kinds", help="only these, with commas: sign,share,ranked 4,…")
    parser.add_argument("--plot", type=Path, help="draw the gaps into this PNG")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    backwards, driver_seeds = (QUICK_BACKWARDS, (0,)) if options.quick else (BACKWARDS, DRIVER_SEEDS)
    by_model: dict[str, dict] = {}
    kinds = options.kinds.split(",") if options.kinds else [what for what, _, _ in cases(options.quick)]
    for model in options.models.split(","):
        seeds, lines = seeds_of(model, options.quick), {}
        by_model[model] = lines
        for what, reach, restarts in (case for case in cases(options.quick) if case[0] in kinds):
            method, began = method_for(what, reach), time.perf_counter()
            gaps = [gap_of(model, seeds, method, restarts, backwards, seed) for seed in driver_seeds]
            line = {"what": what, "reach": reach, "restarts": restarts, "gaps": gaps, "gap": statistics.mean(gaps)}
            key = f"{what}-{reach:g}-{restarts}".replace(" ", "-").replace(".", "_")
            lines[key] = line | {"seconds": round(time.perf_counter() - began, 1)}
            if options.out:
                write(options.out, "gate_reach_study", by_model)
    Console(width=120).print(table(by_model))
    if options.plot:
        plot(by_model, options.plot)
    flat = {f"{model}-{key}": line["gap"] for model, lines in by_model.items() for key, line in lines.items()}
    part = set(by_model) != set("ABC") or options.kinds is not None
    failures = check("gate_reach_study", flat, table="quick" if options.quick else "figures", part=part)
    code = verdict("gate_reach_study", failures)
    print(json.dumps(by_model))
    return code


if __name__ == "__main__":
    sys.exit(main())
