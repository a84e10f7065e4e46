"""Nearest adversarial points of a set of images: how far each image is from another class, method by method.

`gatewise.nearest` is the library's form (module, images, labels in; a `Result` out), `run` the command's (a `Config`
in; files and a summary out).
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from gatewise.classification import Norm, attack_goal, norm_exponent, plain_logits
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
from gatewise.domains import Box
from gatewise.errors import InvalidInput
from gatewise.flags import flag
from gatewise.geometry import row_norm
from gatewise.nearest import DEFAULT_METHOD, Segments, nearest
from gatewise.readers import ProvedDistances, read_proved_distances
from gatewise.report.folder import require_writable
from gatewise.report.gallery import require_matplotlib
from gatewise.report.nearest_table import nearest_table
from gatewise.report.progress import progress_bar

_AT_THE_OPTIMUM = 1e-4  # relative distance within which a proved optimum counts as reached


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """What `gatewise nearest` is asked; the command line has one flag a field."""

    norm: Norm = flag("norm of the distance", "l2", choices=("linf", "l2", "l1"))
    method: tuple[str, ...] = flag(
        f"NAME[:key=value,…]; repeatable, all at the same budget (default: {DEFAULT_METHOD})",
        (DEFAULT_METHOD,),
        repeat=True,
    )
    budget: int | None = flag("backward passes a row (default: as many as the method takes by itself)", parse=int)
    reference: str | None = flag(
        "FILE.csv:NET: attack the rows whose column net is NET, by their column index, and compare with the column "
        "optimal_NORM"
    )
    dtype: Literal["float64", "float32"] = flag(
        "of images, network and points", "float64", choices=("float64", "float32")
    )

    def __post_init__(self):
        super().__post_init__()
        norm_exponent(self.norm)
        if self.dtype not in ("float64", "float32"):
            raise InvalidInput(f"--dtype must be float64 or float32, got {self.dtype!r}.")
        if self.reference is not None and self.indices is not None:
            raise InvalidInput("--reference and --indices exclude each other: a reference names its rows; give one.")
        if self.reference is not None and self.is_targeted:
            raise InvalidInput("A reference knows the nearest point of any class; leave out --target and --targeted.")


def run(config: Config) -> dict[str, Any]:
    """Search as the command does, write the folder, print the table, and return the summary.

    Rows that are wrong from the start (or already of their target class) are not attacked: their point is the clean
    image, and no number but `rows` and `clean_accuracy` counts them. Distances are those of the rows where a point was
    found. Nothing is written unless everything succeeds.

    What the summary tells of each method, None where it does not apply:

    - `success`: the share of attacked rows that were found; `distance_mean`, `distance_median` of those.
    - `ratio_mean`, `ratio_max`, `ratio_min`: distance over proved optimum, with a reference. `proved`: how many rows
      reach theirs to 1e-4 of it. `below_bound`: how many lie below their proved lower bound, where the file has one;
      any but 0 says that the file is about another network, other images or other bounds.
    - `forwards_per_row`, `backwards_per_row`: passes. `cpu_seconds_per_row`: of the process, all threads. `seconds`:
      of the clock, and `median_seconds` a row, where rows that are solved together share their time equally.
    - `max_violation`: how far a point lies outside the bounds. `boundary`: by which share of its distance a point lies
      past the boundary, at most.

    Raises:
        GatewiseError: whatever is wrong, as one sentence.
    """
    require_writable(config.out)
    require_matplotlib()
    methods = named_methods(config)
    reference = None if config.reference is None else read_proved_distances(config.reference, config.norm)
    rows = read_rows(config, getattr(torch, config.dtype), None if reference is None else reference.index.tolist())
    if reference is not None:
        reference = reference[: len(rows.labels)]
        _require_same_labels(reference, rows, config)
    total = int(rows.attacked.sum())
    summary: dict[str, Any] = {
        "rows": len(rows.labels),
        "clean_accuracy": mean(rows.correct),
        "attacked": total,
        "methods": {},
    }
    found: dict[str, Found] = {}
    with rows.network.borrowed(), progress_bar() as bar:
        for name, method in methods.items():
            task = bar.add_task(name, total=total)
            points, results, seconds_of_rows = rows.images.clone(), [], []
            began = time.process_time()
            for some, seconds in chunks(rows.attacked, config):
                result = nearest(
                    rows.network,
                    rows.images[some],
                    rows.labels[some],
                    norm=config.norm,
                    method=method,
                    targets=rows.targets_of(some),
                    bounds=config.bounds,
                    budget=config.budget,
                    seconds=seconds,
                    seed=config.seed,
                    rows=rows.index[some.cpu()].tolist(),
                    progress=False,
                )
                points[some] = result.x
                results.append(result)
                seconds_of_rows += [result.seconds / len(some)] * len(some)
                bar.advance(task, len(some))
            cpu_seconds = time.process_time() - began
            # Everything told of the points is read off the untouched module once more.
            after = plain_logits(rows.network, points, config.batch)
            met = rows.attacked & (attack_goal(rows.labels, rows.targets)(points, after) <= 0)
            distance = row_norm(points - rows.images, norm_exponent(config.norm))
            summary["methods"][name] = {
                "success": mean(met[rows.attacked]),
                "distance_mean": mean(distance[met]),
                "distance_median": _median(distance[met].tolist()),
                **_against(reference, distance, met),
                "forwards_per_row": passes(results, "forwards", total),
                "backwards_per_row": passes(results, "backwards", total),
                "cpu_seconds_per_row": cpu_seconds / total if total else None,
                "seconds": sum(result.seconds for result in results),
                "median_seconds": _median(seconds_of_rows),
                "max_violation": _violation(points, config),
                "boundary": _boundary(rows, points, met, config.batch),
            }
            found[name] = Found(points, after, distance)
    write(
        config.out,
        summary,
        rows,
        Found(rows.images, rows.logits, torch.zeros_like(rows.logits[:, 0])),
        found,
        config.norm,
    )
    Console().print(nearest_table(summary))
    return summary


def _require_same_labels(reference: ProvedDistances, rows: Rows, config: Config) -> None:
    if reference.labels is None:
        return
    other = (reference.labels != rows.labels.cpu()).nonzero().flatten()
    if len(other):
        row = int(other[0])
        raise InvalidInput(
            f"The image at position {int(rows.index[row])} is of class {int(reference.labels[row])} in "
            f"{config.reference} and of class {int(rows.labels[row])} in {config.data}; give the data of the reference."
        )


def _against(reference: ProvedDistances | None, distance: Tensor, met: Tensor) -> dict[str, Any]:
    """What is told of the `distance` (rows,) of the rows that have `met` (rows,) bool the goal, beside proved ones."""
    if reference is None:
        return dict.fromkeys(("ratio_mean", "ratio_max", "ratio_min", "proved", "below_bound"))
    distance, met = distance.double().cpu(), met.cpu()
    known = met & reference.optimum.isfinite()
    ratio = (distance / reference.optimum)[known]
    bound = reference.lower_bound
    return {
        "ratio_mean": mean(ratio),
        "ratio_max": ratio.max().item() if len(ratio) else None,
        "ratio_min": ratio.min().item() if len(ratio) else None,
        "proved": int((ratio <= 1 + _AT_THE_OPTIMUM).sum()),
        "below_bound": None if bound is None else int((met & (distance < bound)).sum()),
    }


def _median(values: list[float]) -> float | None:
    """None for no values at all."""
    return statistics.median(values) if values else None


def _violation(points: Tensor, config: Config) -> float:
    return 0.0 if config.bounds is None else Box(*config.bounds).violation(points).max().item()


def _boundary(rows: Rows, points: Tensor, met: Tensor, batch: int) -> float | None:
    """The largest share of its distance by which a point that was found lies past the boundary."""
    largest = [
        Segments(rows.network, rows.labels[some], rows.targets_of(some))
        .gap(rows.images[some], points[some])
        .max()
        .item()
        for some in met.nonzero().flatten().split(batch)
        if len(some)
    ]
    return max(largest, default=None)
