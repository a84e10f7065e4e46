"""Attack a classifier on a set of images: adversarial images, an honest table at equal budget, and a picture.

`gatewise.attack` is the library's form (module, images, labels in; a `Result` out), `run` the command's (a `Config` in;
files and a summary out).
"""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from gatewise.attack import (
    DEFAULT_BUDGET,
    Loss,
    Norm,
    attack,
    attack_goal,
    attack_objective,
    ball_in_box,
    check_images,
    check_labels,
    plain_logits,
)
from gatewise.catalogue import method_named
from gatewise.combinators import MultiTargeted, Restarts, Strongest
from gatewise.diagnostics import Finding, FindingName, black_box_beats_white_box, diagnose, finding, unsettled
from gatewise.errors import InvalidInput
from gatewise.flags import check_bounds, check_deviations, check_positive, flag, fraction, interval, numbers, required
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
from gatewise.network import NetworkView
from gatewise.objectives import Margin
from gatewise.problem import Problem
from gatewise.readers import Images, read_device, read_images, read_model
from gatewise.report.attack_table import attack_table, finding_lines
from gatewise.report.folder import all_or_nothing, require_writable
from gatewise.report.gallery import Column, draw_gallery, require_matplotlib
from gatewise.report.progress import progress_bar
from gatewise.result import Result
from gatewise.zoo.normalise import normalised

DEFAULT_METHODS = ("pgd", "apgd", "adr-gd")
_SHOWN = 8  # rows of the gallery
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
class Config:
    """What `gatewise attack` is asked; the command line has one flag a field."""

    model: str = required("ONNX file, .pt2 file, zoo:NAME, or module:callable")
    data: str = required("digits, mnist:test, cifar10:test, gtsrb:test, an .npz, or a folder of images")
    radius: float = required("radius of the ball; 8/255 is understood", parse=fraction)
    weights: str | None = flag("state dict for the model: .pt or .safetensors")
    indices: str | None = flag("FILE.csv[:CLASS]: rows by position (first column), of that class column")
    norm: Norm = flag("norm of the ball", "linf", choices=("linf", "l2", "l1"))
    method: tuple[str, ...] = flag(
        "NAME[:key=value,…]; repeatable, all at the same budget (default: pgd, apgd, adr-gd)",
        DEFAULT_METHODS,
        repeat=True,
    )
    loss: Loss = flag("what the attack raises: margin, cross-entropy or DLR", "margin", choices=("margin", "ce", "dlr"))
    target: int | None = flag("aim every image at this class", parse=int)
    targeted: Literal["next"] | None = flag("aim each image at class (label + 1) mod K", choices=("next",))
    restarts: int = flag("runs from random starts; they share the budget", 1, parse=int)
    budget: int | None = flag("backward passes a row (default 100; unlimited with --seconds)", parse=int)
    seconds: float | None = flag("time for each method, from model loaded to points final", parse=float)
    full_budget: bool = flag("do not stop at the first success: spend the budget on raising the loss", False)
    count: int | None = flag("use the first COUNT rows", parse=int)
    seed: int = flag("seed of every random draw", 0, parse=int)
    bounds: tuple[float, float] | None = flag("LO,HI of a pixel, or none", (0.0, 1.0), parse=interval)
    mean: tuple[float, ...] | None = flag("subtracted from each channel inside the model", parse=numbers)
    std: tuple[float, ...] | None = flag("divides each channel inside the model", parse=numbers)
    batch: int = flag("rows solved together", 100, parse=int)
    device: str = flag("auto, cpu, cuda, …", "auto")
    out: str = flag("folder for summary.json, points.safetensors and gallery.png", "out")

    def __post_init__(self):
        check_positive(self, "restarts", "budget", "seconds", "batch", "count")
        if len(set(self.method)) < len(self.method):
            raise InvalidInput("A method is named twice; give each --method once, or with different settings.")
        if self.target is not None and self.targeted is not None:
            raise InvalidInput("--target and --targeted exclude each other; give one.")
        if self.seed < 0:
            raise InvalidInput(f"--seed must be at least 0, got {self.seed}.")
        check_deviations(self.std)
        check_bounds(self.bounds)


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
    device = read_device(config.device)
    network = _network(config, device)
    data = read_images(config.data, count=config.count, indices=config.indices)
    images, labels = data.images.to(device), data.labels.to(device)
    check_images(images, labels, config.bounds)
    clean = plain_logits(network, images, config.batch)
    targets = _targets(config, labels, clean)
    correct = Margin(labels)(images, clean) > 0
    attacked = correct if targets is None else correct & (targets != labels)
    domain = ball_in_box(images, config.norm, config.radius, config.bounds)
    objective = attack_objective(config.loss, labels, targets)
    goal = attack_goal(labels, targets)

    summary: dict[str, Any] = {"rows": len(labels), "clean_accuracy": correct.double().mean().item(), "methods": {}}
    found: dict[str, _Found] = {}
    broken: dict[bool, list[Tensor]] = {True: [], False: []}  # by methods that took no gradient, and by the others
    with network.borrowed(), progress_bar() as bar:
        for name, method in methods.items():
            task = bar.add_task(name, total=int(attacked.sum()))
            points, results, restless = images.clone(), [], torch.zeros_like(attacked)
            for rows, seconds in _chunks(attacked, config):
                result = attack(
                    network,
                    images[rows],
                    labels[rows],
                    radius=config.radius,
                    norm=config.norm,
                    method=method,
                    loss=config.loss,
                    targets=None if targets is None else targets[rows],
                    bounds=config.bounds,
                    budget=_budget(config),
                    seconds=seconds,
                    full_budget=config.full_budget,
                    seed=config.seed,
                    rows=data.index[rows.cpu()].tolist(),
                    progress=False,
                )
                points[rows] = result.x
                results.append(result)
                if isinstance(method, _SETTLING):
                    restless[rows] = unsettled(result)
                bar.advance(task, len(rows))
            # Everything told of the points is read off the untouched module once more.
            after = plain_logits(network, points, config.batch)
            losses = -objective(points, after)
            summary["methods"][name] = {
                "success": _mean((goal(points, after) <= 0)[attacked]),
                "mean_value": _mean(losses[attacked]),
                "forwards_per_row": _passes(results, "forwards", int(attacked.sum())),
                "backwards_per_row": _passes(results, "backwards", int(attacked.sum())),
                "seconds": sum(result.seconds for result in results),
                "max_violation": domain.violation(points).max().item(),
                "robust_accuracy": _mean(correct & (Margin(labels)(points, after) > 0)),
                "warnings": _told([finding("last far from best", restless)] if bool(restless.any()) else []),
            }
            if isinstance(method, Strongest):
                summary["methods"][name]["broken_by"] = _broken_by(results)
            found[name] = _Found(points, after, losses)
            broken[bool(results) and not any(result.backwards_per_row for result in results)].append(
                attacked & (goal(points, after) <= 0)
            )
        findings = _signs(network, config, data, images, labels, targets, attacked)
        summary["warnings"] = _told([*findings, *black_box_beats_white_box(broken[True], broken[False])])
    shown = (attacked if bool(attacked.any()) else correct.new_ones(len(labels))).nonzero().flatten()[:_SHOWN]
    before = {"clean": _Found(images, clean, -objective(images, clean))}
    columns = [_column(name, entry, labels, shown) for name, entry in (before | found).items()]
    _write(config, summary, data, found, columns)
    console = Console()
    console.print(attack_table(summary))
    for line in finding_lines(summary):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return summary


def _methods(config: Config) -> dict[str, Method]:
    named = {name: method_named(name) for name in config.method}
    if config.target is not None or config.targeted is not None:
        for name, method in named.items():
            if isinstance(method, MultiTargeted):
                raise InvalidInput(f"{name} chooses its own targets; leave out --target and --targeted.")
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


def _network(config: Config, device: torch.device) -> NetworkView:
    module = read_model(config.model, config.weights)
    if config.model.startswith("zoo:") and config.weights is None:
        warnings.warn(f"{config.model} has random weights; name trained ones by --weights.", stacklevel=1)
    rows_per_run = getattr(module, "rows_per_run", None)
    return NetworkView(normalised(module, config.mean, config.std).to(device), rows_per_run=rows_per_run)


def _targets(config: Config, labels: Tensor, logits: Tensor) -> Tensor | None:
    classes = logits.shape[1]
    check_labels(labels, classes)
    if config.targeted == "next":
        return (labels + 1) % classes
    if config.target is None:
        return None
    if not 0 <= config.target < classes:
        raise InvalidInput(f"--target must lie between 0 and {classes - 1}, got {config.target}.")
    return torch.full_like(labels, config.target)


def _chunks(attacked: Tensor, config: Config) -> Iterator[tuple[Tensor, float | None]]:
    """The attacked rows, some at a time, each chunk with its share of the time that is left."""
    deadline = None if config.seconds is None else time.perf_counter() + config.seconds
    left = attacked.nonzero().flatten()
    while len(left):
        rows = left[: config.batch]
        remaining = None if deadline is None else deadline - time.perf_counter()
        if remaining is not None and remaining <= 0:
            return
        yield rows, None if remaining is None else remaining * len(rows) / len(left)
        left = left[config.batch :]


def _mean(values: Tensor) -> float | None:
    """None for no values at all."""
    return values.double().mean().item() if len(values) else None


def _passes(results: list[Result], kind: str, rows: int) -> float | None:
    """Passes of one kind a row, over `rows` rows."""
    return sum(getattr(result, f"{kind}_per_row") * len(result.x) for result in results) / rows if rows else None


def _broken_by(results: list[Result]) -> dict[str, int]:
    """How many rows each member of a portfolio broke, the most first."""
    members = [by for result in results for by, met in zip(result.found_by, result.goal_met, strict=True) if met]
    return dict(Counter(members).most_common())


def _signs(
    network: NetworkView,
    config: Config,
    data: Images,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    attacked: Tensor,
) -> list[Finding]:
    """What the network shows at the clean images of the first attacked rows, whatever the method."""
    seen: dict[FindingName, Tensor] = {}
    for rows in attacked.nonzero().flatten()[:_TRIED].split(config.batch):
        aims = None if targets is None else targets[rows]
        problem = Problem(
            network=network,
            domain=ball_in_box(images[rows], config.norm, config.radius, config.bounds),
            objective=attack_objective(config.loss, labels[rows], aims),
            goal=attack_goal(labels[rows], aims),
        )
        for one in diagnose(problem, images[rows], rows=data.index[rows.cpu()].tolist(), seed=config.seed):
            seen.setdefault(one.name, torch.zeros_like(attacked))[rows[list(one.rows)]] = True
    return [finding(name, where) for name, where in seen.items()]


def _told(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as they stand in the summary."""
    return [{"name": one.name, "rows": list(one.rows), "sentence": one.sentence} for one in findings]


@dataclass(frozen=True, eq=False)
class _Found:
    """A method's points (rows, …), with the plain network's logits (rows, classes) and losses (rows,) there; also the
    clean images.
    """

    points: Tensor
    logits: Tensor
    losses: Tensor


def _write(
    config: Config, summary: dict[str, Any], data: Images, found: dict[str, _Found], gallery: list[Column]
) -> None:
    with all_or_nothing(config.out) as scratch:
        (scratch / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        tensors = {"index": data.index, "labels": data.labels, "clean": data.images}
        tensors |= {name: entry.points.cpu().contiguous() for name, entry in found.items()}
        save_file(tensors, scratch / "points.safetensors")
        draw_gallery(scratch / "gallery.png", *gallery)


def _column(title: str, found: _Found, labels: Tensor, shown: Tensor) -> Column:
    """What the gallery shows of a method: image, predicted class and loss; marked where the class is not the label."""
    classes, losses = found.logits[shown].argmax(1), found.losses[shown]
    captions = [f"{chosen}  loss {loss:.3g}" for chosen, loss in zip(classes.tolist(), losses.tolist(), strict=True)]
    return Column(title, found.points[shown].cpu(), captions, (classes != labels[shown]).tolist())
