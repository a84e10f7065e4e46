"""Square Attack: a random search that moves one square window of the image at a time and takes no gradient.

Source: Andriushchenko, Croce, Flammarion & Hein, "Square Attack: a query-efficient black-box adversarial attack via
random search" (ECCV 2020, arXiv:1912.00049), Algorithms 1 and 2, the linf form.

Legend: share of the pixels = the paper's p; side of the window = its h; signs = its rho, over 2 eps.

Deviations: (1) A window's signs are made a step of the set's own norm, and the set projects: in a linf ball, with a
box or without, this is the paper's move to its faces, and any other set is searched by the same loop. (2) The given
point is asked first, and the stripes replace it only where they are better. (3) Of two points, the one that meets the
goal is the better. (4) The share halves where the paper says; the authors' code also halves it at 500 of 10,000. (5) An
input that is no image (channels, height, width) counts as a strip: its windows are runs of entries, its stripes single
ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.problem import Iterate, Problem
from gatewise.streams import RowStreams

HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
"""The steps of 10,000 at which the share of the pixels halves."""


@dataclass(frozen=True, kw_only=True)
class Square(Method):
    """Random square windows, kept where the objective falls; no gradients.

    A step is one query, a forward pass. No backward pass is ever spent, so the driver's budget does not end it; it
    ends itself after one query for each backward pass that the budget would pay for: at equal budget it takes as many
    steps as a gradient method.
    """

    name: ClassVar[str] = "square"

    share: float = 0.8
    """Share of the pixels that the first windows cover; it halves eight times on the way."""
    step_size: float = 2.0
    """How far a window moves, in units of the set's size: 2 goes from one face of a linf ball to the other. Round balls
    want less, such as 0.25."""
    steps: int | None = None
    """Queries after that of the given point; None: one for each backward pass of the budget."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, steps=self.steps)
        if not 0 < self.share <= 1:
            raise InvalidInput(f"share must lie above 0 and be at most 1, got {self.share}.")
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Ask for the value at a candidate, yield it, keep it where it is better, and move a window of what is kept."""
        domain, streams, steps = problem.domain, start.streams, start.steps(self.steps)
        x = candidate = start.points
        length = per_row(self.step_size * domain.size(x), x)
        best = torch.full_like(x.flatten(1)[:, 0], torch.inf)
        met = torch.zeros_like(best, dtype=torch.bool)
        for step in range(1, steps + 2):
            with torch.no_grad():
                output = problem.network(candidate)
                value = problem.measure(candidate, output)
                meets = torch.zeros_like(met) if problem.goal is None else problem.goal(candidate, output) <= 0
            yield Iterate(candidate, value, output)
            better = ((meets & ~met) | ((meets == met) & (value < best))) & ~value.isnan()
            x = torch.where(per_row(better, x), candidate, x)
            best, met = torch.where(better, value, best), torch.where(better, meets, met)
            signs = _stripes(streams, x) if step == 1 else _window(streams, x, self.share * _halved(step, steps))
            candidate = domain.project(x + length * domain.steepest(signs))


def _halved(step: int, steps: int) -> float:
    """What is left of the share at a step."""
    return 0.5 ** sum(10_000 * step >= halving * steps for halving in HALVINGS)


def _stripes(streams: RowStreams, like: Tensor) -> Tensor:
    """A sign for each channel and column, shaped as `like`."""
    channels, height, width = _layout(like)
    signs = _signs(streams, like.new_empty(len(like), channels, 1, width))
    return signs.expand(-1, -1, height, -1).reshape(like.shape)


def _window(streams: RowStreams, like: Tensor, share: float) -> Tensor:
    """A sign for each channel in a window anywhere that covers about `share` of the pixels, 0 outside."""
    channels, height, width = _layout(like)
    side = max(1, round((share * height * width) ** (1 / 2 if height > 1 else 1)))
    place = streams.uniform(like.new_empty(len(like), 2))
    rows, columns = _run(place[:, 0], side, height), _run(place[:, 1], side, width)
    signs = _signs(streams, like.new_empty(len(like), channels, 1, 1))
    return (signs * (rows[:, :, None] & columns[:, None, :])[:, None]).reshape(like.shape)


def _layout(like: Tensor) -> tuple[int, int, int]:
    """Channels, height and width of an image; a strip for anything else."""
    if like.ndim != 4:
        return 1, 1, like[0].numel()
    _, channels, height, width = like.shape
    return channels, height, width


def _run(place: Tensor, length: int, entries: int) -> Tensor:
    """Which of some entries lie in a run of that length, or in all of them: (batch, entries) bool, by `place` in [0, 1)
    (batch,).
    """
    first = (place * max(1, entries - length + 1)).floor()[:, None]
    entry = torch.arange(entries, device=place.device)
    return (first <= entry) & (entry < first + length)


def _signs(streams: RowStreams, like: Tensor) -> Tensor:
    return torch.ones_like(like).copysign(streams.uniform(like) - 0.5)
