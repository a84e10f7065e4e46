"""Attack a classifier on a set of images: adversarial images, an honest table at equal budget, and a picture.

`gatewise.attack` is the library's form (module, images, labels in; a `Result` out), `run` the command's (a `Config` in;
files and a summary out).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from gatewise.attack import DEFAULT_BUDGET, Loss, attack, attack_objective, ball_in_box
from gatewise.classification import Norm, attack_goal, plain_logits
from gatewise.classifier_run import (
    ClassifierConfig,
    Found,
    Rows,
    chunks,
    mean,
    named_methods,
    passes,
    read_rows,
    write,
)
from gatewise.combinators import Restarts, Strongest
from gatewise.diagnostics import Finding, FindingName, black_box_beats_white_box, diagnose, finding, unsettled
from gatewise.flags import check_positive, flag, fraction, required
from gatewise.methods import (
    Adagrad,
    Adam,
    AutoProjectedGradient,
    GateAnnealing,
    GateReachingDescent,
    GradientDescent,
    ProjectedGradient,
)
from gatewise.methods.base import Method
from gatewise.objectives import Margin
from gatewise.problem import Problem
from gatewise.report.attack_table import attack_table, finding_lines
from gatewise.report.folder import require_writable
from gatewise.report.gallery import require_matplotlib
from gatewise.report.progress import progress_bar
from gatewise.result import Result

DEFAULT_METHODS = ("pgd", "apgd", "adr-gd")
_TRIED = 100  # attacked rows at which the network is looked at for signs of failure
# Methods of one walk downhill: their last point should be about their best. Kicks, random candidates, walks along the
# boundary and runs from several points owe nobody that.
_SETTLING = (
    Adagrad,
    Adam,
    AutoProjectedGradient,
    GateAnnealing,
    GateReachingDescent,
    GradientDescent,
    ProjectedGradient,
)


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """What `gatewise attack` is asked; the command line has one flag a field."""

    radius: float = required("radius of the ball; 8/255 is understood", parse=fraction)
    norm: Norm = flag("norm of the ball", "linf", choices=("linf", "l2", "l1"))
    method: tuple[str, ...] = flag(
        "NAME[:key=value,…]; repeatable, all at the same budget (default: pgd, apgd, adr-gd)",
        DEFAULT_METHODS,
        repeat=True,
    )
    loss: Loss = flag("what the attack raises: margin, cross-entropy or DLR", "margin", choices=("margin", "ce", "dlr"))
    restarts: int = flag("runs from random starts; they share the budget", 1, parse=int)
    budget: int | None = flag("backward passes a row (default 100; unlimited with --seconds)", parse=int)
    full_budget: bool = flag("do not stop at the first success: spend the budget on raising the loss", False)

    def __post_init__(self):
        check_positive(self, "restarts")
        super().__post_init__()


def run(config: Config) -> dict[str, Any]:
    """Attack as the command does, write the folder, print the table, and return the summary.

    Rows that are wrong from the start (or already of their target class) are not attacked: their point is the clean
    image. Nothing is written unless everything succeeds.

    The summary's `warnings` are the findings of `gatewise.diagnostics`: of the network and across methods in one list,
    of each method's run in its own. Their rows are positions in points.safetensors. The network is looked at on the
    first 100 attacked rows, after the attacks and outside their counts and clocks.

    Raises:
        GatewiseError: whatever is wrong, as one sentence.
    """
    require_writable(config.out)
    require_matplotlib()
    methods = _methods(config)
    rows = read_rows(config)
    images, labels, attacked = rows.images, rows.labels, rows.attacked
    domain = ball_in_box(images, config.norm, config.radius, config.bounds)
    objective = attack_objective(config.loss, labels, rows.targets)
    goal = attack_goal(labels, rows.targets)

    summary: dict[str, Any] = {"rows": len(labels), "clean_accuracy": mean(rows.correct), "methods": {}}
    found: dict[str, Found] = {}
    broken: dict[bool, list[Tensor]] = {True: [], False: []}  # by methods that took no gradient, and by the others
    with rows.network.borrowed(), progress_bar() as bar:
        for name, method in methods.items():
            task = bar.add_task(name, total=int(attacked.sum()))
            points, results, restless = images.clone(), [], torch.zeros_like(attacked)
            for some, seconds in chunks(attacked, config):
                result = attack(
                    rows.network,
                    images[some],
                    labels[some],
                    radius=config.radius,
                    norm=config.norm,
                    method=method,
                    loss=config.loss,
                    targets=rows.targets_of(some),
                    bounds=config.bounds,
                    budget=_budget(config),
                    seconds=seconds,
                    full_budget=config.full_budget,
                    seed=config.seed,
                    rows=rows.index[some.cpu()].tolist(),
                    progress=False,
                )
                points[some] = result.x
                results.append(result)
                if isinstance(method, _SETTLING):
                    restless[some] = unsettled(result)
                bar.advance(task, len(some))
            # Everything told of the points is read off the untouched module once more.
            after = plain_logits(rows.network, points, config.batch)
            losses = -objective(points, after)
            summary["methods"][name] = {
                "success": mean((goal(points, after) <= 0)[attacked]),
                "mean_value": mean(losses[attacked]),
                "forwards_per_row": passes(results, "forwards", int(attacked.sum())),
                "backwards_per_row": passes(results, "backwards", int(attacked.sum())),
                "seconds": sum(result.seconds for result in results),
                "max_violation": domain.violation(points).max().item(),
                "robust_accuracy": mean(rows.correct & (Margin(labels)(points, after) > 0)),
                "warnings": _told([finding("last far from best", restless)] if bool(restless.any()) else []),
            }
            if isinstance(method, Strongest):
                summary["methods"][name]["broken_by"] = _broken_by(results)
            found[name] = Found(points, after, losses)
            broken[bool(results) and not any(result.backwards_per_row for result in results)].append(
                attacked & (goal(points, after) <= 0)
            )
        findings = _signs(rows, config)
        summary["warnings"] = _told([*findings, *black_box_beats_white_box(broken[True], broken[False])])
    write(config.out, summary, rows, Found(images, rows.logits, -objective(images, rows.logits)), found, "loss")
    console = Console()
    console.print(attack_table(summary))
    for line in finding_lines(summary):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return summary


def _methods(config: Config) -> dict[str, Method]:
    named = named_methods(config)
    if _budget(config) is None:
        # With time alone to spend, no number of runs is the end.
        return {
            name: method if isinstance(method, Strongest) else Restarts(member=method, times=None)
            for name, method in named.items()
        }
    if config.restarts > 1:
        return {name: Restarts(member=method, times=config.restarts) for name, method in named.items()}
    return named


def _budget(config: Config) -> int | None:
    return DEFAULT_BUDGET if config.budget is None and config.seconds is None else config.budget


def _broken_by(results: list[Result]) -> dict[str, int]:
    """How many rows each member of a portfolio broke, the most first."""
    members = [by for result in results for by, met in zip(result.found_by, result.goal_met, strict=True) if met]
    return dict(Counter(members).most_common())


def _signs(rows: Rows, config: Config) -> list[Finding]:
    """What the network shows at the clean images of the first attacked rows, whatever the method."""
    seen: dict[FindingName, Tensor] = {}
    for some in rows.attacked.nonzero().flatten()[:_TRIED].split(config.batch):
        images, labels, targets = rows.images[some], rows.labels[some], rows.targets_of(some)
        problem = Problem(
            network=rows.network,
            domain=ball_in_box(images, config.norm, config.radius, config.bounds),
            objective=attack_objective(config.loss, labels, targets),
            goal=attack_goal(labels, targets),
        )
        for one in diagnose(problem, images, rows=rows.index[some.cpu()].tolist(), seed=config.seed):
            seen.setdefault(one.name, torch.zeros_like(rows.attacked))[some[list(one.rows)]] = True
    return [finding(name, where) for name, where in seen.items()]


def _told(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as they stand in the summary."""
    return [{"name": one.name, "rows": list(one.rows), "sentence": one.sentence} for one in findings]
