"""Gate annealing: walk through gates that are smoothed by their own hyperplane's distance, and let the width go to 0.

When the input moves by normal noise of standard deviation r in every coordinate, a pre-activation h with hyperplane
normal P moves by one of standard deviation `s = r ||P||`, and its gate `max(h, 0)` is on average
`h Phi(h/s) + s phi(h/s)`, with derivative Phi(h/s): the share of the noise that has the gate on. Every gate of the
network is replaced by this average, so that a gradient sees gates that a move of length about r would switch, and r
falls from a share of the set's size to 0, where the run is the network itself: a homotopy from a smooth problem to the
true one.

Source: graduated optimisation (Blake & Zisserman 1987; Hazan, Levy & Shalev-Shwartz 2016) with randomised smoothing
(Duchi, Bartlett & Wainwright 2012).

Deviations: (1) The network is smoothed gate by gate in closed form instead of by samples of the whole; correlations
between gates are left out. (2) Each step draws one z ~ N(0, I) and takes `s_j = r |P_j z|`, one sample of the deviation
by one forward pass, the same z for all gates (`gatewise.network.hyperplanes`). That beats the deviation itself,
`r ||P_j||` as a running mean or exact, and so does a z for each gate (docs/gate-annealing.md): the draws keep the walk
from settling in one valley. (3) Steps are steepest in the set's own norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, cosine_decay, require_positive
from gatewise.network.hyperplanes import squared_norms
from gatewise.network.rules import Fixed, Smoothed
from gatewise.network.view import Trace
from gatewise.problem import Iterate, Problem, input_gradient


@dataclass(frozen=True, kw_only=True)
class GateAnnealing(Method):
    """Steepest steps through smoothed gates whose width shrinks to zero."""

    name: ClassVar[str] = "gate-annealing"

    step_size: float = 1.0
    """First step, in units of the set's size; it decays by half a cosine."""
    width: float = 0.5
    """Standard deviation of the noise at first, in units of the set's size; it falls to 0 linearly."""
    within: float | None = None
    """Share of a row's gates that is to be within one deviation of switching at first: a width for each row of its own,
    instead of `width`.
    """
    settle: float = 0.15
    """Share of the steps, at the end, that are taken in the network itself."""
    refresh: int = 1
    """Steps between two draws; the true network is looked at as often."""
    random_start: bool = False
    """Begin at a random point of the set instead of the given one."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, refresh=self.refresh, steps=self.steps)
        if self.within is not None and not 0 < self.within <= 1:
            raise InvalidInput(f"within must lie between 0 and 1, got {self.within}.")
        if self.settle >= 1:
            raise InvalidInput(f"settle must be below 1, got {self.settle}.")
        super().__post_init__()

    @property
    def backwards_per_step(self) -> int:
        """Between two looks at the true network."""
        return self.refresh

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Look at the network and its hyperplanes every few steps; step along the smoothed network's gradient."""
        network, domain, steps = problem.network, problem.domain, start.steps(self.steps)
        x = domain.sample(start.streams, start.points) if self.random_start else start.points
        size = domain.size(x)
        widest = self.width * size
        slopes: list[Tensor] = []
        for step in range(steps):
            left = max(0.0, 1 - (step + 1) / ((1 - self.settle) * steps))
            if left * max(self.width, self.within or 0.0) == 0:
                here = problem.at(x)
                yield here
                gradient = here.gradient()
            else:
                if step % self.refresh == 0:
                    with torch.no_grad():
                        here = network.trace(x).require_rows()
                        value = problem.measure(x, here.output)
                    yield Iterate(x, value, here.output)
                    squares = squared_norms(network, here, Fixed(here.pattern()), start.streams.normal(x))
                    slopes = [square.sqrt() for square in squares[:-1]]
                    if step == 0 and self.within is not None:
                        widest = _reach_of_share(here, slopes, self.within)
                x = x.detach().requires_grad_()
                with torch.enable_grad():
                    smooth = Smoothed([per_row(left * widest, slope) * slope for slope in slopes])
                    value = problem.measure(x, network.trace(x, smooth, keep=False).output)
                gradient = input_gradient(value, x)
            length = per_row(cosine_decay(step, steps) * self.step_size * size, x)
            x = domain.project(x.detach() - length * domain.steepest(gradient))
        yield problem.at(x)


def _reach_of_share(here: Trace, slopes: list[Tensor], share: float) -> Tensor:
    """The width, (batch,), at which `share` of each row's switches lie within one deviation of their hyperplanes."""
    distances = [
        (h / slope).abs().nan_to_num(torch.inf).flatten(1)
        for gate, h, slope in zip(here.gates, here.preactivations, slopes, strict=True)
        if gate.pool is None
    ]
    if not distances:
        return here.input.new_zeros(len(here.input))
    every = torch.cat(distances, 1)
    return every.kthvalue(max(1, round(share * every.shape[1])), dim=1).values.clamp(max=torch.finfo(every.dtype).max)
