"""Methods that look for nearest points: their papers' recursions in plain tensors, closed forms, and exact optima."""

import csv
import math
from pathlib import Path

import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import nn
from torch.nn.functional import cross_entropy, softplus

from gatewise.combinators import MultiTargeted, Restarts
from gatewise.domains import Box, L2Ball
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import row_norm
from gatewise.methods import (
    AugmentedLagrangian,
    CarliniWagner,
    DecoupledDirectionNorm,
    DeepFool,
    FastAdaptiveBoundary,
    FastMinimumNorm,
    LimitedMemory,
    Start,
)
from gatewise.network import view
from gatewise.objectives import DifferenceOfLogitsRatio, Distance, Margin, MarginTo, TargetedMargin
from gatewise.problem import Problem
from gatewise.readers.datasets import read_images
from gatewise.readers.weights import read_weights
from gatewise.result import Status
from gatewise.solve import minimize
from gatewise.streams import RowStreams
from gatewise.zoo import build

from .trajectories import SEED, assert_same, gradient, network, points

ROWS, N, CLASSES = 5, 6, 4
START = points(ROWS, N)
BOX = Box(0.0, 1.0)


def _balanced(module):
    """Shift the logits so that every class is near."""
    last = module[-1] if isinstance(module, nn.Sequential) else module
    with torch.no_grad():
        last.bias -= module(START).mean(0)
    return module.requires_grad_(False)


NET = _balanced(network(N, 14, 14, CLASSES))
LABELS = NET(START).argmax(1)


def _problem(module=NET, start=START, *, p=2.0, domain=BOX, goal=None):
    goal = Margin(module(start).argmax(1)) if goal is None else goal
    return Problem(view(module), domain, Distance(start, p), goal=goal)


def _visited(method, problem, steps, start=START):
    streams = RowStreams(SEED, range(len(start)))
    return [iterate.x for iterate in method.iterate(problem, Start(start, steps, streams))]


def _margin(x):
    return Margin(LABELS)(x, NET(x)).detach()


def _lengths(x, p=2.0):
    return row_norm(x, p)[:, None]


# -- The recursions of the papers, by hand --


@pytest.mark.parametrize("sharpen", [False, True])
def test_ddn_is_algorithm_1_with_the_cross_entropys_direction(sharpen):
    steps = 30
    found = _visited(DecoupledDirectionNorm(step_size=0.3, radius=0.2, change=0.1, sharpen=sharpen), _problem(), steps)
    x, radius, expected = START, torch.full((ROWS, 1), 0.2).double(), [START]
    for step in range(steps):
        fall = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        t = fall if sharpen else 1.0
        g = gradient(NET, lambda _, y, t=t: -cross_entropy(y / t, LABELS, reduction="none"), x)
        way = x - START - 0.3 * fall * g / _lengths(g)
        radius = radius * torch.where(_margin(x) <= 0, 0.9, 1.1)[:, None]
        x = (START + radius * way / _lengths(way)).clamp(0, 1)
        expected.append(x)
    assert_same(found, expected)
    met = torch.stack([_margin(x) <= 0 for x in expected])
    assert 0.2 < met.double().mean() < 0.8, "it stays on one side: the test says nothing"


def _onto_l1_ball(row, radius):
    """By bisection on the threshold."""
    if row.abs().sum() <= radius:
        return row
    low, high = 0.0, row.abs().max().item()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (row.abs() - middle).clamp(min=0).sum() > radius else (low, middle)
    return (row.abs() - high).clamp(min=0) * row.sign()


ONTO_BALLS = {
    1: lambda way, radius: torch.stack([_onto_l1_ball(*each) for each in zip(way, radius[:, 0], strict=True)]),
    2: lambda way, radius: way * (radius / _lengths(way)).clamp(max=1),
    math.inf: lambda way, radius: way.clamp(-radius, radius),
}


@pytest.mark.parametrize(("p", "q"), [(1, math.inf), (2, 2), (math.inf, 1)])
def test_fmn_is_algorithm_1_but_for_the_first_crossing(p, q):
    steps = 30
    found = _visited(FastMinimumNorm(step_size=0.3, change=0.1), _problem(p=p), steps)
    x, expected = START, [START]
    radius, nearest = torch.full((ROWS, 1), math.inf).double(), torch.full((ROWS, 1), math.inf).double()
    for step in range(steps):
        decay = (1 + math.cos(math.pi * step / steps)) / 2
        change = 0.001 + 0.099 * decay
        g, gap, distance = gradient(NET, Margin(LABELS), x), _margin(x)[:, None], _lengths(x - START, p)
        for row in range(ROWS):
            if gap[row] <= 0:
                nearest[row] = min(nearest[row], distance[row])
                radius[row] = min(radius[row] * (1 - change), nearest[row])
            elif nearest[row] < math.inf:
                radius[row] *= 1 + change
            else:
                estimate = distance[row] + gap[row] / g[row].norm(p=q)
                radius[row] = (1 + change) * (estimate if step == 0 else max(radius[row], estimate))
        ahead = x - 0.3 * (0.01 + 0.99 * decay) * g / _lengths(g)
        x = (START + ONTO_BALLS[p](ahead - START, radius)).clamp(0, 1)
        expected.append(x)
    assert nearest.isfinite().all()
    assert_same(found, expected)


def test_alma_is_the_papers_algorithm_with_its_second_penalty():
    steps, alpha = 40, 0.8
    method = AugmentedLagrangian(step_size=0.05, smoothing=alpha, check=3)
    found = _visited(method, _problem(), steps)
    ratio = DifferenceOfLogitsRatio(LABELS)

    def penalty(y, rho, mu):
        above, below = mu * y + mu * rho * y**2 + rho**2 * y**3 / 6, mu * y / (1 - rho * y.clamp(max=0))
        return torch.where(y >= 0, above, below)

    delta, square, momentum = torch.zeros_like(START), torch.ones_like(START), torch.zeros_like(START)
    mu, rho, since = torch.ones(ROWS).double(), torch.ones(ROWS).double(), [None] * ROWS
    before, length, expected = None, None, [START]
    for step in range(steps):
        leaf = delta.clone().requires_grad_()
        y = ratio(START + leaf, NET(START + leaf))
        if step and (step + 1) % 3 == 0:
            for row in range(ROWS):
                if since[row] is None and not y[row] < 0.95 * before[row]:
                    rho[row] *= 1.2
        if step == 0 or (step + 1) % 3 == 0:
            before = y.detach()
        if step:
            at = y.detach().requires_grad_()
            (new,) = torch.autograd.grad(penalty(at, rho, mu).sum(), at)
            mu = (alpha * mu + (1 - alpha) * new).clamp(1e-6, 1e12)
        loss = penalty(y, rho, mu) + (leaf.norm(dim=1) if step else 0)
        (g,) = torch.autograd.grad(loss.sum(), leaf)
        if step == 0:  # the paper's line search: bisection for the length that the box leaves
            low, high = torch.zeros(ROWS, 1).double(), torch.full((ROWS, 1), 1e6).double()
            for _ in range(100):
                middle = (low + high) / 2
                short = _lengths((START - middle * g).clamp(0, 1) - START) < 0.05
                low, high = torch.where(short, middle, low), torch.where(short, high, middle)
            length = low
        since = [step if s is None and value <= 0 else s for s, value in zip(since, y.tolist(), strict=True)]
        decay = torch.tensor([0.01 ** (0 if s is None else (step - s) / (steps - s)) for s in since])[:, None]
        square = alpha * square + (1 - alpha) * g**2
        momentum = alpha * momentum + g / (square.sqrt() + 1e-8)
        delta = (START + delta - length * decay * momentum).clamp(0, 1) - START
        expected.append(START + delta)
    assert any(s is not None for s in since), "it never crosses: the test says nothing"
    assert (rho > 1).any()
    assert_same(found, expected)


@pytest.mark.parametrize(("p", "q"), [(2, 2), (math.inf, 1)])
def test_deepfool_is_algorithm_2(p, q):
    found = _visited(DeepFool(step_size=0.7, nudge=0.0, steps=6), _problem(p=p, domain=Box(-9.0, 9.0)), None)
    rows = []
    for row in range(ROWS):
        x, visited = START[row : row + 1], [START[row : row + 1]]
        for _ in range(len(found) - 1):
            gaps = [MarginTo(LABELS[row : row + 1], torch.tensor([k])) for k in range(CLASSES) if k != LABELS[row]]
            if min(gap(x, NET(x)).item() for gap in gaps) > 0:
                found_ways = []
                for gap in gaps:
                    w, f = gradient(NET, gap, x), gap(x, NET(x)).item()
                    step = w / w.norm() ** 2 if p == 2 else w.sign() / w.abs().sum()
                    found_ways.append((f / w.norm(p=q).item(), -f * step))
                x = x + 0.7 * min(found_ways, key=lambda each: each[0])[1]
            visited.append(x)
        rows.append(visited)
    assert len(found) == 7
    assert_same(found, [torch.cat(at_step) for at_step in zip(*rows, strict=True)])


def test_carlini_wagner_is_adam_on_equation_7_and_a_binary_search_over_c():
    searches, steps = 4, 50
    method = CarliniWagner(step_size=0.05, weight=0.05, searches=searches, early_abort=False)
    found = _visited(method, _problem(), searches * steps)[1:-1]
    c, low, high, expected = torch.full((ROWS,), 0.05).double(), [0.0] * ROWS, [math.inf] * ROWS, []
    for _ in range(searches):
        w = ((2 * START - 1) * (1 - 1e-6)).atanh().requires_grad_()
        adam, met = torch.optim.Adam([w], lr=0.05), torch.zeros(ROWS, dtype=torch.bool)
        for _ in range(steps):
            x = (w.tanh() + 1) / 2
            expected.append(x.detach().clone())
            margin = Margin(LABELS)(x, NET(x))
            met |= margin <= 0
            adam.zero_grad()
            ((x - START).square().sum(1) + c * margin.clamp(min=0)).sum().backward()
            adam.step()
        for row in range(ROWS):
            low[row], high[row] = (low[row], c[row].item()) if met[row] else (c[row].item(), high[row])
            c[row] = 10 * c[row] if high[row] == math.inf else (low[row] + high[row]) / 2
    assert len({value == math.inf for value in high}) == 1
    assert high[0] < math.inf
    assert_same(found, expected, tolerance=1e-5)


def test_an_early_abort_ends_a_search_and_spends_less():
    full = minimize(_problem(), CarliniWagner(step_size=0.05, early_abort=False), START, budget=900)
    early = minimize(_problem(), CarliniWagner(step_size=0.05), START, budget=900)
    assert full.backwards_per_row == 900
    assert early.backwards_per_row < 900
    assert (early.value <= 1.02 * full.value).all()


def test_l_bfgs_minimises_what_scipys_l_bfgs_b_minimises():
    """With one weight alone: the value where it ends is no higher than scipy's, which goes on to its own end."""
    weight, smooth = 2.0, nn.Sequential(nn.Linear(N, 8), nn.Softplus(), nn.Linear(8, CLASSES)).double().eval()
    labels = smooth(START).argmax(1)
    method = LimitedMemory(weight=weight, tolerance=1e-12, patience=80)
    visited = _visited(method, _problem(smooth), 80)[:-1]

    def value(x, row):
        margin = Margin(labels[row : row + 1])(x[None], smooth(x[None]))
        return ((x - START[row]).square().sum() + weight * softplus(margin)).squeeze()

    for row in range(ROWS):

        def with_gradient(x, row=row):
            leaf = torch.from_numpy(x).requires_grad_()
            loss = value(leaf, row)
            return loss.item(), torch.autograd.grad(loss, leaf)[0].numpy()

        theirs = scipy_minimize(with_gradient, START[row].numpy(), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * N)
        ours = min(value(x[row], row).item() for x in visited)
        assert ours <= theirs.fun + 1e-6


# -- Linear classifiers: the nearest point has a closed form --

NEAR = {
    "ddn": (DecoupledDirectionNorm(), 300, 1.005),
    "fmn": (FastMinimumNorm(), 300, 1.001),
    "alma": (AugmentedLagrangian(), 300, 1.02),
    "alma-short": (AugmentedLagrangian.preset("short"), 100, 1.02),
    "carlini-wagner": (CarliniWagner(step_size=0.002), 9000, 1.01),
    "l-bfgs": (LimitedMemory(), 300, 1.001),
    "fab": (FastAdaptiveBoundary(), 30, 1.001),
    "multi-targeted-ddn": (MultiTargeted(member=DecoupledDirectionNorm(), classes=3), 900, 1.005),
}


def _linear():
    torch.manual_seed(3)
    return _balanced(nn.Linear(N, CLASSES).double().eval())


def _exact(module, start, p):
    """The least of gap / dual norm over the rival classes, (rows,)."""
    labels, q = module(start).argmax(1), {1: math.inf, 2: 2, math.inf: 1}[p]
    distances = []
    for x, label in zip(start, labels.tolist(), strict=True):
        y = module(x)
        rivals = [k for k in range(CLASSES) if k != label]
        slopes = [(module.weight[label] - module.weight[k]).norm(p=q) for k in rivals]
        distances.append(min((y[label] - y[k]) / slope for k, slope in zip(rivals, slopes, strict=True)))
    return torch.stack(distances)


@pytest.mark.parametrize("name", NEAR)
def test_on_a_linear_classifier_the_distance_is_the_closed_forms(name):
    method, budget, ratio = NEAR[name]
    module = _linear()
    exact = _exact(module, START, 2)
    result = minimize(_problem(module, domain=Box(-3.0, 4.0)), method, START, budget=budget)
    assert result.goal_met.all()
    assert (result.value >= exact * (1 - 1e-9)).all()
    assert (result.value <= exact * ratio).all()


@pytest.mark.parametrize(("p", "ratio"), [(1, 1.01), (2, 1.001), (math.inf, 1.001)])
def test_fmn_finds_the_closed_form_in_each_norm(p, ratio):
    module = _linear()
    exact = _exact(module, START, p)
    result = minimize(_problem(module, p=p, domain=Box(-9.0, 9.0)), FastMinimumNorm(), START, budget=500)
    assert result.goal_met.all()
    assert (result.value >= exact * (1 - 1e-9)).all()
    assert (result.value <= exact * ratio).all()


@pytest.mark.parametrize("p", [2, math.inf])
def test_deepfool_solves_a_linear_classifier_in_one_step(p):
    module = _linear()
    result = minimize(_problem(module, p=p, domain=Box(-9.0, 9.0)), DeepFool(), START, budget=300)
    assert set(result.status) == {Status.GOAL_MET}
    assert result.steps == 2
    assert result.backwards_per_row == CLASSES - 1
    torch.testing.assert_close(result.value, 1.02 * (_exact(module, START, p) + 1e-4))


def test_a_shorter_list_of_candidates_costs_less():
    result = minimize(_problem(_linear()), DeepFool(candidates=2, steps=1), START, budget=300)
    assert result.backwards_per_row == 1
    single = minimize(_problem(_linear(), goal=TargetedMargin((LABELS + 1) % CLASSES)), DeepFool(steps=1), START)
    assert single.backwards_per_row == 1


EVERY = {
    "deepfool": DeepFool(),
    **{name: method for name, (method, _, _) in NEAR.items() if name not in ("alma-short", "multi-targeted-ddn")},
    "fmn": FastMinimumNorm(),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_target_class_is_reached_where_the_goal_names_one(name):
    targets = NET(START).argsort(dim=1, descending=True)[:, 1]
    problem = _problem(goal=TargetedMargin(targets), domain=Box(-2.0, 3.0))
    budget = 2700 if name == "carlini-wagner" else 400
    result = minimize(problem, EVERY[name], START, budget=budget)
    assert result.goal_met.double().mean() >= (0.6 if name == "fab" else 0.8)
    assert (NET(result.x).gather(1, targets[:, None])[:, 0] >= NET(result.x).amax(1) - 1e-9)[result.goal_met].all()


@pytest.mark.parametrize("name", EVERY)
def test_an_original_that_already_meets_the_goal_is_its_own_nearest_point(name):
    result = minimize(_problem(goal=Margin((LABELS + 1) % CLASSES)), EVERY[name], START, budget=30)
    assert torch.equal(result.x, START)
    assert (result.value == 0).all()


def test_restarts_of_nearest_points_are_measured_from_the_original_and_never_worse():
    single = minimize(_problem(), DecoupledDirectionNorm(), START, budget=100)
    several = minimize(_problem(), Restarts(member=DecoupledDirectionNorm(), times=5), START, budget=500)
    torch.testing.assert_close(several.value, row_norm(several.x - START))
    assert (several.value <= single.value).all()


@pytest.mark.parametrize("member", [DecoupledDirectionNorm(), FastAdaptiveBoundary(), FastMinimumNorm()], ids=str)
def test_multi_targeted_aims_the_goal_and_is_never_farther_than_the_boundary_of_a_class(member):
    aimed = minimize(_problem(), MultiTargeted(member=member, classes=CLASSES - 1), START, budget=300)
    order = NET(START).argsort(dim=1, descending=True)
    alone = [minimize(_problem(goal=MarginTo(LABELS, order[:, k])), member, START, budget=100) for k in (1, 2, 3)]
    best = torch.stack([run.value.where(run.goal_met, torch.inf) for run in alone]).amin(0)
    assert aimed.goal_met[best.isfinite()].all()
    torch.testing.assert_close(aimed.value[best.isfinite()], best[best.isfinite()])


def test_fabs_final_search_draws_the_point_to_the_boundary():
    results = [
        minimize(_problem(domain=Box(-2.0, 3.0)), FastAdaptiveBoundary(final_search=n), START, budget=30)
        for n in (0, 6)
    ]
    assert all(result.goal_met.all() for result in results)
    gaps = [-_margin(result.x) / row_norm(gradient(NET, Margin(LABELS), result.x)) for result in results]
    assert (gaps[0] > 1e-4).any()
    assert (gaps[1] < 1e-6).all()
    assert (results[1].value <= results[0].value).all()


# -- What cannot be done is said in a sentence --


@pytest.mark.parametrize("name", ["ddn", "alma", "carlini-wagner", "l-bfgs"])
def test_another_norm_than_2_gives_a_sentence(name):
    with pytest.raises(UnsupportedProblem, match=r"near in the 2-norm; for a Distance with p=inf use fmn"):
        minimize(_problem(p=math.inf), EVERY[name], START, budget=10)


@pytest.mark.parametrize("name", ["deepfool", "fab"])
def test_steepest_steps_in_the_1_norm_are_refused(name):
    with pytest.raises(UnsupportedProblem, match=r"no steps for a Distance with p=1, .* use fmn"):
        minimize(_problem(p=1), EVERY[name], START, budget=10)


@pytest.mark.parametrize("name", ["carlini-wagner", "l-bfgs"])
def test_a_set_that_is_no_box_gives_a_sentence(name):
    with pytest.raises(UnsupportedProblem, match="does not hold each entry between two numbers"):
        minimize(_problem(domain=L2Ball(START, 1.0)), EVERY[name], START, budget=10)


def test_a_tanh_needs_finite_bounds():
    with pytest.raises(UnsupportedProblem, match="needs a box with finite bounds"):
        minimize(_problem(domain=Box(-math.inf, math.inf)), CarliniWagner(), START, budget=10)


@pytest.mark.parametrize("name", ["ddn", "fmn", "alma", "fab", "deepfool", "l-bfgs"])
def test_a_box_without_end_will_do(name):
    result = minimize(_problem(domain=Box(-math.inf, math.inf)), EVERY[name], START, budget=300)
    assert result.goal_met.all()


def test_settings_that_mean_nothing_give_a_sentence():
    for method, name, value in (
        (DecoupledDirectionNorm, "change", 1.0),
        (FastMinimumNorm, "last_change", 0.0),
        (AugmentedLagrangian, "smoothing", 1.0),
        (DeepFool, "candidates", 1),
    ):
        with pytest.raises(InvalidInput, match=f"{name} must .* got {value}"):
            method(**{name: value})


# -- Exact optima of a published network --

EXACT = Path(__file__).parents[1] / "reference" / "mnist_exact_l2.csv"
PUBLISHED = {
    # method, budget, and the most that the mean ratio to the optimum may be; peers' figures in the comments
    "deepfool": (DeepFool(), 450, 1.06),  # 1.038 on fifty images
    "ddn-100": (DecoupledDirectionNorm(), 100, 1.03),  # 1.009, and overshoot
    "ddn-1000": (DecoupledDirectionNorm(), 1000, 1.02),  # 1.009
    "fmn-100": (FastMinimumNorm(), 100, 1.07),  # 1.069
    "alma-100": (AugmentedLagrangian.preset("short"), 100, 1.05),  # 1.025
    "alma-1000": (AugmentedLagrangian(), 1000, 1.02),  # 1.009
    "l-bfgs": (LimitedMemory(), 300, 1.06),
    "fab": (FastAdaptiveBoundary(), 100, 1.06),  # 1.022, with nine gradients a step
    "multi-targeted-fab": (MultiTargeted(member=FastAdaptiveBoundary()), 450, 1.015),  # 1.007
}


@pytest.fixture(scope="module")
def published(data_folder):
    """The network n1, its first images with their labels, and what is known of the nearest points."""
    with EXACT.open() as file:
        known = [row for row in csv.DictReader(file) if row["net"] == "n1"][:20]
    weights = read_weights(data_folder / "models" / "mnist_mlp" / "n1.safetensors")
    module = build("mnist-mlp", weights).double().eval().requires_grad_(False)
    index = [int(row["index"]) for row in known]
    data = read_images("mnist:test", count=max(index) + 1)
    optimum, below = (torch.tensor([float(row[k]) for row in known]).double() for k in ("optimal_l2", "lower_bound"))
    return module, data.images[index].double(), data.labels[index], optimum, below


@pytest.mark.parametrize("name", PUBLISHED)
def test_on_a_published_network_it_is_never_below_the_bound_and_as_near_as_peers(name, published):
    method, budget, most = PUBLISHED[name]
    module, images, labels, optimum, below = published
    problem = Problem(view(module), BOX, Distance(images), goal=Margin(labels))
    result = minimize(problem, method, images, budget=budget)
    assert result.goal_met.all()
    assert (Margin(labels)(result.x, module(result.x)) <= 0).all()
    assert (result.value >= below).all()
    assert (result.value / optimum).mean() <= most
