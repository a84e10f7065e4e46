"""The cross-entropy method: normal draws around a mean that moves to the best of them, no gradients.

Source: Rubinstein, "The cross-entropy method for combinatorial and continuous optimization" (Methodology and Computing
in Applied Probability 1999); as a choice of actions by a critic, Kalashnikov et al., "QT-Opt" (CoRL 2018).

Legend: population = the sample size N; elites = the share that is kept, rho N.

Deviations: (1) The given point is the first mean and is asked first. (2) Draws are projected onto the set, and means
and deviations are those of the projected elites. (3) A deviation of an entry is that of the elites about the *old*
mean, as in CMA-ES (Hansen & Ostermeier 2001), so that it does not shrink while the mean still moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gatewise.errors import InvalidInput
from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.problem import Iterate, Problem


@dataclass(frozen=True, kw_only=True)
class CrossEntropyMethod(Method):
    """Normal draws, and a normal fitted to the best of them, over and over.

    A step is one query, a forward pass. No backward pass is ever spent; it ends itself after one query for each
    backward pass that the budget would pay for.
    """

    name: ClassVar[str] = "cem"

    population: int = 20
    """Draws between two fits."""
    elites: int = 5
    """How many of them the normal is fitted to."""
    width: float = 0.5
    """Standard deviation at first, in units of the set's size."""
    steps: int | None = None
    """Queries after that of the given point; None: one for each backward pass of the budget."""

    def __post_init__(self):
        require_positive(population=self.population, elites=self.elites, width=self.width, steps=self.steps)
        if self.elites > self.population:
            raise InvalidInput(f"elites must be at most population, {self.population}, got {self.elites}.")
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Ask for the value at a draw, yield it; after every `population` of them fit the normal anew."""
        mean = x = start.points
        deviation = per_row(self.width * problem.domain.size(x), x).expand_as(x)
        drawn, values = [], []
        for query in range(start.steps(self.steps) + 1):
            with torch.no_grad():
                output = problem.network(x)
                value = problem.measure(x, output)
            yield Iterate(x, value, output)
            if query > 0:
                drawn.append(x)
                values.append(value.nan_to_num(torch.inf))
            if len(drawn) == self.population:
                best = torch.stack(values).argsort(dim=0, stable=True)[: self.elites]
                kept = torch.stack(drawn)[best, torch.arange(len(x), device=x.device)]
                deviation = (kept - mean).square().mean(0).sqrt()
                mean = kept.mean(0)
                drawn, values = [], []
            x = problem.domain.project(mean + deviation * start.streams.normal(mean))
