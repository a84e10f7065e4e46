"""ADMM: the network as constraints between copies, each divided from the others, so that no gradient passes through it.

The network is affine blocks joined by activations, `p_a = W_a z_a + b_a`, `z_{a+1} = activation_a(p_a)`. Each
activation gets a pair (v~_a, v_a) on its graph, and z and v are drawn together by the augmented Lagrangian: the steps
in z are least squares, the steps in v projections onto the graphs, and scaled duals u add up what is left between
them.

Source: Wong & Kolter, "Neural network inversion beyond gradient descent" (OPT 2017), equations 8 to 12; Boyd, Parikh,
Chu, Peleato & Eckstein, "Distributed optimization and statistical learning via the alternating direction method of
multipliers" (2011), for over-relaxation (3.4.3), residuals (3.3) and their balance (3.4.1).

Legend: z_0 = the input (the paper's z_1), …, z_k = the output; p = W z + b; s, t = the paper's v~, v; us, ut = u~, u.

A step is counted as one forward and one backward pass a row, what its products with the blocks amount to, and the
look at the true network as another forward pass. Where a block is solved by conjugate gradients each of their steps
multiplies by the block once more each way: the largest number of them over the blocks is counted as so many passes
more. Solves with stored factors (dense, Fourier) run nothing of the network and are not counted, nor is the making of
the factors.

Deviations: (1) Each point visited is z_0 itself, run through the true network; the paper does not say what its curves
show. (2) Any network of affine blocks, not only chains: with skip connections a copy's step is the least squares over
all pre-activations that it feeds. (3) A convolution's outputs that wrap around its torus are free and eliminated one
step behind (`gatewise.network.blocks.torus`). (4) The steps for the input and for blocks without factors are
iterative, warm started and inexact (`inner_tolerance`, `inner_steps`). (5) Sets other than boxes take projected
gradients for the input's step. (6) The step for the output is closed or a few Newton steps in float64; away from a
class, where the loss is concave, a stationary point. (7) Over-relaxation, residual balancing and a growing rho
are options; the paper has a fixed rho. (8) Projections that keep a gate's piece (`projection`) are another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import per_row, row_norm
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.network.blocks import LINE_SEARCH, Block, minimise_in_box, minimise_in_set, split_network
from gatewise.objectives.penalised import penalty_of
from gatewise.objectives.proximal import proximal_step
from gatewise.problem import Iterate, Problem


@dataclass(frozen=True, kw_only=True)
class Admm(Method):
    """Operator splitting over the blocks between gates: least squares, projections onto the gates' graphs, duals.

    For objectives with a proximal step in the output, with or without `Penalised` around them.
    """

    name: ClassVar[str] = "admm"

    rho: float = 0.1
    """Weight of the constraints, in units of the objective by squared activation (the paper's is 1e-5)."""
    balance: bool = False
    """Double or halve a row's rho where one of its residuals is ten times the other."""
    growth: float = 1.0
    """Factor by which rho grows after each sweep, at least 1: small at first, so that much moves, and stiff in the end,
    so that it comes to rest."""
    largest_rho: float | None = None
    """Where rho grows no further."""
    relaxation: float = 1.0
    """Over-relaxation, from 1 (none) to below 2; not with the alternating order."""
    order: Literal["backward", "forward", "alternating", "classical"] = "backward"
    """From the output to the input, each activation before the copy that feeds it; the reverse; one after the other; or
    all copies, then all activations. The paper's best is the first."""
    projection: Literal["nearest", "local"] = "nearest"
    """Onto the gates' graphs: the nearest point, as in the paper, or the nearest on the piece where the gate was as
    long as that has one inside. With the first a gate that is on at m goes off where its dual exceeds (1 + sqrt 2) m,
    so that small rho and wide networks never come to rest; with the second rho has no part in it."""
    inner_tolerance: float = 0.1
    """Where solves by conjugate gradients end: share of the right-hand side that is left."""
    inner_steps: int = 10
    """Steps of such a solve at most."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(rho=self.rho, largest_rho=self.largest_rho, steps=self.steps, inner_steps=self.inner_steps)
        if not 1 <= self.growth < torch.inf:
            raise InvalidInput(f"growth must be finite and at least 1, got {self.growth}; rho does not shrink.")
        if not 1 <= self.relaxation < 2:
            raise InvalidInput(f"relaxation must be at least 1 and below 2, got {self.relaxation}.")
        if not 0 < self.inner_tolerance < 1:
            raise InvalidInput(f"inner_tolerance must lie between 0 and 1, got {self.inner_tolerance}.")
        if self.relaxation > 1 and self.order == "alternating":
            raise InvalidInput(
                "Over-relaxation needs every sweep to go the same way: with order=alternating leave relaxation at 1."
            )
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Equations 8 to 12."""
        x = start.points
        output = problem.network(x)
        yield Iterate(x, problem.measure(x, output), output)
        if not bool(torch.isfinite(output).any()):
            return
        state = _Splitting(self, problem, start)
        for step in range(start.steps(self.steps)):
            state.begin()
            for turn, number in self._turns(step, len(state.s)):
                turn(state, number)
            state.step_duals()
            primal, dual = state.residuals()
            x = state.z[0]
            problem.network.meter.count(state.pay())
            problem.network.meter.tell(state.moved)
            output = problem.network(x)
            told = {"primal residual": primal, "dual residual": dual, "rho": state.rho}
            yield Iterate(x, problem.measure(x, output), output, ahead=state.dearest(), diagnostics=told)
            state.weigh(self._factor(state, primal, dual))

    def _factor(self, state: _Splitting, primal: Tensor, dual: Tensor) -> Tensor:
        """By which rho changes after a sweep, (batch,)."""
        factor = self.growth * (state.balanced(primal, dual) if self.balance else torch.ones_like(state.rho))
        return factor if self.largest_rho is None else factor.minimum((self.largest_rho / state.rho).clamp_min(1))

    def _turns(self, step: int, activations: int) -> Iterator[tuple[Callable[[_Splitting, int], None], int]]:
        """Which copy or activation moves next."""
        copy, project = _Splitting.step_copy, _Splitting.step_activation
        if self.order == "classical":
            yield from ((copy, i) for i in range(activations + 1))
            yield from ((project, a) for a in range(activations))
        elif self.order == "forward" or (self.order == "alternating" and step % 2 == 0):
            yield copy, 0
            for a in range(activations):
                yield from ((project, a), (copy, a + 1))
        else:
            yield copy, activations
            for a in reversed(range(activations)):
                yield from ((project, a), (copy, a))


class _Splitting:
    """The variables, and their steps; each (batch, …), by copy or by activation."""

    def __init__(self, method: Admm, problem: Problem, start: Start):
        self.method, self.domain, x = method, problem.domain, start.points
        self.objective, self.weight, self.origin = penalty_of(problem.objective, x)
        self.split = split = split_network(problem.network, x)
        self.p = list(split.preactivations)
        outputs = [activation(p) for activation, p in zip(split.activations, self.p, strict=True)]
        self.s, self.t = list(self.p), [split.lift(a + 1, v) for a, v in enumerate(outputs)]
        self.z = [x, *self.t]
        self.drawn = list(self.p)
        self.us, self.ut = [torch.zeros_like(s) for s in self.s], [torch.zeros_like(t) for t in self.t]
        self.rho = x.new_full((len(x),), method.rho)
        self.seen: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(self.s)
        self.moved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.stored = all(block.stored for block in split.blocks)
        self.left = self.rho.new_full(self.rho.shape, torch.inf if start.budget is None else start.budget)
        self.begin()
        try:
            self.bounds = problem.domain.bounds(x)
        except UnsupportedProblem:
            self.bounds = None

    def begin(self) -> None:
        """A new sweep."""
        self.before = list(self.z), list(self.p)
        self.products = torch.zeros_like(self.rho, dtype=torch.int64)
        # No row begins a solve that the rest of its budget may not pay for.
        self.most = (self.left - 1 - LINE_SEARCH).clamp(0, self.method.inner_steps).long()

    def pay(self) -> int:
        """The passes of this sweep, of all rows together."""
        self.left = self.left - 1 - self.products
        return int((1 + self.products).sum())

    def dearest(self) -> int:
        """As many as the next may take at most."""
        worst = 1.0 if self.stored else 1.0 + self.method.inner_steps + LINE_SEARCH
        return int(self.left.clamp(1, worst).sum())

    def step_copy(self, i: int) -> None:
        """z_i, given everything else, and the pre-activations that follow from it."""
        if i == len(self.s):  # equation 8
            self.z[i] = proximal_step(self.objective, self.t[-1] + self.ut[-1], self.rho)
            return
        block = self.split.blocks[i]
        pull = block.transposed([self.s[a] + self.us[a] - self.p[a] for a in block.feeds])
        if i:  # equation 9, as a step from where z_i is
            right = self.t[i - 1] + self.ut[i - 1] - self.z[i] + pull
            step, products = block.solve(right, tolerance=self.method.inner_tolerance, most=self.most)
            self.z[i] = self.z[i] + step
        else:  # equation 10, likewise
            self.z[0], products = self._nearest_input(block, pull)
        self.products = torch.maximum(self.products, products)
        self.split.refresh(i, self.z, self.p)

    def _nearest_input(self, block: Block, pull: Tensor) -> tuple[Tensor, Tensor]:
        """`argmin weight/2 ||z - origin||^2 + rho/2 ||W z + b - s - us||^2` over the set, and the products it took."""
        z, shift = self.z[0], self.weight / self.rho
        gradient = per_row(shift, z) * (z - self.origin) - pull
        self.moved = (gradient != 0).flatten(1).any(1)
        limits = {"tolerance": self.method.inner_tolerance, "most": self.most}

        def product(d: Tensor) -> Tensor:
            return per_row(shift, d) * d + block.gram(d)

        if self.bounds is not None:
            near = block.nearly(shift)
            found, products = minimise_in_box(
                product, gradient, z, self.bounds, precondition=near, majorised=block.majorised, **limits
            )
        else:
            largest = shift + block.largest
            found, products = minimise_in_set(product, gradient, z, self.domain.project, largest, **limits)
        return found, torch.zeros_like(products) if block.stored else products

    def step_activation(self, a: int) -> None:
        """Equation 11. Over-relaxed is, of each of its two pairs, the side that has moved first in this sweep."""
        share, lift, crop = self.method.relaxation, self.split.lift, self.split.crop
        p, z = self.p[a], self.z[a + 1]
        p_first, z_first = p is not self.before[1][a], z is not self.before[0][a + 1]
        p_seen = torch.lerp(self.s[a], p, share) if p_first else p
        z_seen = torch.lerp(self.t[a], z, share) if z_first else z
        before = self.drawn[a] if self.method.projection == "local" else None
        s, t = self.split.activations[a].project(p_seen - self.us[a], crop(a + 1, z_seen - self.ut[a]), before)
        self.drawn[a] = s
        self.s[a] = s if p_first else torch.lerp(p, s, share)
        self.t[a] = lift(a + 1, t) if z_first else torch.lerp(z, lift(a + 1, t), share)
        self.seen[a] = p_seen if p_first else None, z_seen if z_first else None

    def step_duals(self) -> None:
        """Equation 12."""
        for a, (p, z) in enumerate(self.seen):
            self.us[a] = self.us[a] + self.s[a] - (self.p[a] if p is None else p)
            self.ut[a] = self.ut[a] + self.t[a] - (self.z[a + 1] if z is None else z)

    def residuals(self) -> tuple[Tensor, Tensor]:
        """Norms of the primal and dual residual of this sweep, (batch,)."""
        z, p = self.before
        primal = zip((*self.s, *self.t), (*self.p, *self.z[1:]), strict=True)
        dual = zip((*self.p, *self.z[1:]), (*p, *z[1:]), strict=True)
        return _distance(primal), self.rho * _distance(dual)

    def balanced(self, primal: Tensor, dual: Tensor) -> Tensor:
        """By which factor residual balancing would have rho change, (batch,)."""
        return torch.where(primal > 10 * dual, 2.0, torch.where(dual > 10 * primal, 0.5, 1.0)).to(self.rho)

    def weigh(self, factor: Tensor) -> None:
        """Change rho, and the duals, which are scaled by it, the other way."""
        if bool((factor == 1).all()):
            return
        self.rho = self.rho * factor
        for duals in (self.us, self.ut):
            duals[:] = [u / per_row(factor, u) for u in duals]


def _distance(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The 2-norm of each row's differences, over all pairs."""
    return torch.stack([row_norm(a - b) for a, b in pairs]).square().sum(0).sqrt()
