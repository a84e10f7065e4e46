"""The rows of the conformance suite: every method and combinator, and the problems that they are held to.

A new method is one more line in `METHODS`; everything in this folder then applies to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from gatewise.combinators import FaceWalk, LinearRegionSearch, MultiTargeted, Restarts, Strongest, WarmStart
from gatewise.domains import Box, Intersection, L1Ball, L2Ball, LinfBall
from gatewise.methods import (
    ActivationDescent,
    ActivationDescentReference,
    Adagrad,
    Adam,
    Admm,
    AugmentedLagrangian,
    AutoProjectedGradient,
    CarliniWagner,
    CrossEntropyMethod,
    DecoupledDirectionNorm,
    DeepFool,
    FastAdaptiveBoundary,
    FastMinimumNorm,
    GateAnnealing,
    GateReachingDescent,
    GaussNewton,
    GradientDescent,
    LimitedMemory,
    LocalMilp,
    Method,
    PerturbedGradientDescent,
    ProjectedGradient,
    RandomSearch,
    RegionWalk,
    Square,
)
from gatewise.network import view
from gatewise.objectives import CrossEntropy, Margin
from gatewise.problem import Iterate, Problem
from gatewise.result import Result, Status
from gatewise.solve import Standing, minimize, never

BUDGET = 24  # divisible by every share that a combinator below makes of it, and by two


@dataclass(frozen=True)
class Row:
    """A method under test, and what is to be known about it."""

    method: Method
    needs_targets: bool = False
    """It aims at classes, so it takes classification objectives only."""
    visits_start: bool = True
    """The given point is the first that it visits."""
    takes_gradients: bool = True
    """Otherwise it ends itself, after as many queries as the budget has backward passes."""
    needs_proximal: bool = False
    """It takes objectives whose proximal step is known, and no function of one's own."""
    needs_box: bool = False
    """It takes sets that hold each entry between two numbers, and no others."""
    ends_itself: bool = False
    """It ends where it has nothing left to try, whatever the budget."""
    dear_steps: bool = False
    """Its steps cost many passes a row, so that a budget may be over before it is spent."""
    unlimited: int = 100
    """Backward passes a row that it takes at least where nothing limits it."""
    ends_at_cycles: bool = False
    """It ends itself where every row has come back to a point that it had visited."""


METHODS: dict[str, Row] = {
    "gd": Row(GradientDescent(step_size=0.1)),
    "gd-plain": Row(GradientDescent(step_size=0.05, normalise=False, schedule="cosine")),
    "pgd": Row(ProjectedGradient()),
    "pgd-constant": Row(ProjectedGradient(step_size=0.25, schedule="constant"), ends_at_cycles=True),
    "pgd-random-start": Row(ProjectedGradient(random_start=True), visits_start=False),
    "adam": Row(Adam()),
    "adagrad": Row(Adagrad()),
    "admm": Row(Admm(), needs_proximal=True),
    "admm-relaxed": Row(Admm(rho=0.3, balance=True, relaxation=1.5, order="forward"), needs_proximal=True),
    "apgd": Row(AutoProjectedGradient()),
    "apgd-random-start": Row(AutoProjectedGradient(random_start=True), visits_start=False),
    "perturbed-gd": Row(PerturbedGradientDescent(step_size=0.1, kick_size=0.1, patience=2)),
    "adr-gd": Row(ActivationDescent(step_size=0.1)),
    "adr-gd-kicked": Row(ActivationDescent(step_size=0.1, patience=1, stillness=10.0, slope=50.0, exact_norms=True)),
    "adr-gd-last-gate": Row(ActivationDescent(step_size=0.1, gates="last", normalise_distances=False)),
    "adr-gd-reference": Row(ActivationDescentReference.preset("mnist-robust", step_size=0.1, patience=2)),
    "adr-gd-reference-random": Row(ActivationDescentReference.preset("random-a", patience=2)),
    "gate-reach": Row(GateReachingDescent()),
    "gate-annealing": Row(GateAnnealing()),
    "gate-annealing-random-start": Row(GateAnnealing(width=1.0, random_start=True), visits_start=False),
    "gauss-newton": Row(GaussNewton(products=3), ends_itself=True),
    "region-walk": Row(RegionWalk(faces=9, radius=1.0), needs_box=True, ends_itself=True),
    "local-milp": Row(LocalMilp(gates=11, most_gates=11, radius=1.0), needs_box=True, ends_itself=True),
    "fab": Row(FastAdaptiveBoundary()),
    "deepfool": Row(DeepFool(candidates=3), ends_itself=True),
    "ddn": Row(DecoupledDirectionNorm()),
    "fmn": Row(FastMinimumNorm()),
    "alma": Row(AugmentedLagrangian()),
    "carlini-wagner": Row(CarliniWagner(step_size=0.1, weight=10.0, searches=2), needs_box=True, ends_itself=True),
    "l-bfgs": Row(LimitedMemory(), needs_box=True),
    "square": Row(Square(step_size=1.0), takes_gradients=False),
    "random-search": Row(RandomSearch(), takes_gradients=False),
    "cem": Row(CrossEntropyMethod(population=5, elites=2), takes_gradients=False),
    "restarts": Row(Restarts(member=ProjectedGradient(), times=3)),
    "restarts-of-square": Row(Restarts(member=Square(), times=2), takes_gradients=False),
    "restarts-of-adr-gd": Row(Restarts(member=ActivationDescent(step_size=0.1), times=2)),
    "multi-targeted": Row(MultiTargeted(member=AutoProjectedGradient()), needs_targets=True),
    "strongest": Row(Strongest(run=8), unlimited=4 + 8 + 4 * (8 + 4)),  # its runs are short here
    "rlr-qp": Row(
        LinearRegionSearch(kept=3, points=3, exploring=1, phases=2),
        needs_box=True,
        needs_targets=True,
        ends_itself=True,
        dear_steps=True,
    ),
    "face-walk": Row(FaceWalk(steps=5), needs_box=True, needs_targets=True, ends_itself=True, dear_steps=True),
    "warm-start": Row(WarmStart(first=ProjectedGradient(), then=ActivationDescent(step_size=0.1))),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A problem for some rows of a fixed data set, and where to start."""

    problem: Problem
    start: Tensor
    module: nn.Module


def _images(dtype: torch.dtype, rows: Sequence[int], radius: float, ball: Callable) -> Case:
    """A convolution, a leaky gate, a max-pool and a gate; four classes; a ball cut by the pixels' box."""
    torch.manual_seed(0)
    front = [nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Flatten()]
    module = nn.Sequential(*front, nn.Linear(16, 8), nn.ReLU(inplace=True), nn.Linear(8, 4)).to(dtype).eval()
    images = torch.rand(6, 1, 6, 6).to(dtype)
    images[:, :, 0] = 0.0  # pixels on the box's edge
    _balance(module, images)
    labels = module(images).argmax(1).detach()[list(rows)]
    images = images[list(rows)]
    domain = Intersection(ball(images, radius), Box(0.0, 1.0))
    return Case(Problem(view(module), domain, Margin(labels), goal=Margin(labels)), images, module)


def _balance(module: nn.Sequential, points: Tensor) -> None:
    """Shift the logits so that no class wins everywhere."""
    with torch.no_grad():
        module[-1].bias -= module(points).mean(0)


def linf_images(dtype: torch.dtype, rows: Sequence[int] = range(3), radius: float = 0.03) -> Case:
    """A linf ball cut by a box."""
    return _images(dtype, rows, radius, LinfBall)


def l1_images(dtype: torch.dtype, rows: Sequence[int] = range(3), radius: float = 0.3) -> Case:
    """A l1 ball cut by a box."""
    return _images(dtype, rows, radius, L1Ball)


def l2_vectors(dtype: torch.dtype, rows: Sequence[int] = range(3), radius: float = 0.2) -> Case:
    """A perceptron with two hidden layers in an l2 ball, cross-entropy as objective and the margin as goal."""
    torch.manual_seed(1)
    parts = [nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
    module = nn.Sequential(*parts).to(dtype).eval()
    points = torch.randn(6, 10).to(dtype)
    _balance(module, points)
    labels = module(points).argmax(1).detach()[list(rows)]
    points = points[list(rows)]
    return Case(
        Problem(view(module), L2Ball(points, radius), -CrossEntropy(labels), goal=Margin(labels)), points, module
    )


def scalar_in_box(dtype: torch.dtype, rows: Sequence[int] = range(3), radius: float = 1.0) -> Case:
    """A random network with one output, in a box; no goal."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 1)).to(dtype).eval()
    start = (radius * (2 * torch.rand(6, 5) - 1)).to(dtype)[list(rows)]
    return Case(Problem(view(module), Box(-radius, radius), lambda x, y: y[:, 0]), start, module)


PROBLEMS: dict[str, Callable[..., Case]] = {
    "linf": linf_images,
    "l1": l1_images,
    "l2": l2_vectors,
    "box": scalar_in_box,
}
PAIRS = [
    (method, problem)
    for method, row in METHODS.items()
    for problem in PROBLEMS
    if not ((row.needs_targets or row.needs_proximal) and problem == "box")
    and not (row.needs_box and problem in ("l1", "l2"))
]


def l2_or_linf(row: Row, dtype: torch.dtype) -> Case:
    """The vectors in l2 balls; the images in linf balls for a method that needs a box."""
    return linf_images(dtype) if row.needs_box else l2_vectors(dtype)


@dataclass(frozen=True, kw_only=True)
class Watched(Method):
    """A method whose every point is kept, with the backward passes of all rows that were spent before it."""

    member: Method
    points: list[Iterate] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    name = "watched"

    @property
    def backwards_per_step(self) -> int:
        return self.member.backwards_per_step

    def iterate(self, problem, start):
        for iterate in self.member.iterate(problem, start):
            self.points.append(iterate)
            self.spent.append(problem.network.meter.backwards)
            yield iterate


def every_row_came_back(points: list[Iterate]) -> bool:
    """Whether each row of the last point is a point that the row had visited before."""
    *before, last = (point.x for point in points)
    return all(any(torch.equal(row, x[i]) for x in before) for i, row in enumerate(last))


def check_it_went_on_to_the_end(row: Row, result: Result, points: list[Iterate], budget: int) -> None:
    """The budget is spent, to the last pass; a method that ends itself has made its queries, or goes round in circles.

    `points` are all that were visited, of a run that no goal, clock or callback could end.
    """
    ending = Status.FINISHED
    if not row.takes_gradients:
        assert result.backwards_per_row == 0
        assert budget < result.steps == result.forwards_per_row <= budget + 2  # and one query more for each run's start
    elif row.ends_itself:
        assert 0 < result.backwards_per_row <= budget
        assert set(result.status) <= {ending, Status.BUDGET_SPENT, Status.GOAL_MET}
        return
    elif not (row.ends_at_cycles and every_row_came_back(points)):
        assert result.backwards_per_row == budget <= result.forwards_per_row
        ending = Status.BUDGET_SPENT
    assert set(result.status) <= {ending, Status.GOAL_MET}


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, with every point that the method visited and every standing that the driver showed."""

    case: Case
    result: Result
    points: list[Iterate]
    spent: list[int]
    values: list[Tensor]
    met: list[Tensor]


@cache
def watched_run(method: str, problem: str, dtype: torch.dtype) -> Run:
    """One run to the end of its budget, kept so that several tests can look at it."""
    case, watched = PROBLEMS[problem](dtype), Watched(member=METHODS[method].method)
    values: list[Tensor] = []
    met: list[Tensor] = []

    def look(standing: Standing) -> None:
        values.append(standing.value.clone())
        met.append(standing.goal_met.clone())

    result = minimize(case.problem, watched, case.start, budget=BUDGET, stop=never, seed=7, callback=look)
    return Run(case, result, watched.points, watched.spent, values, met)
