"""ADMM: one sweep by hand, known optima, larger networks, what is told and what is refused."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from torch import nn

import gatewise as gw
from gatewise import zoo
from gatewise.catalogue import method_named
from gatewise.errors import InvalidInput, UnsupportedNetwork, UnsupportedProblem
from gatewise.methods import Admm
from gatewise.methods.admm import _Splitting
from gatewise.objectives import CrossEntropy, DifferenceOfLogitsRatio, Linear, Penalised, SquaredOutputDistance
from gatewise.solve import never

DOUBLE = torch.float64
ORDERS = ["backward", "forward", "alternating", "classical"]
FREE = gw.Box(-torch.inf, torch.inf)


def _chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double().eval()


def _by_hand(module, x0, target, weight, rho, relaxation, order, sweeps):
    """Equations 8 to 12 for two blocks and a squared output distance, one row, in numpy."""
    (W1, b1), (W2, b2) = ((part.weight.detach().numpy(), part.bias.detach().numpy()) for part in (module[0], module[2]))
    z1, origin = x0.copy(), x0
    p1 = W1 @ z1 + b1
    z2 = np.maximum(p1, 0)
    p2 = W2 @ z2 + b2
    z3 = p2
    s1, t1, s2, t2 = p1, z2, p2, z3
    us1, ut1, us2, ut2 = (np.zeros_like(v) for v in (s1, t1, s2, t2))
    assert relaxation == 1.0

    def relu_graph(p, q):
        on, off = np.maximum((p + q) / 2, 0), np.minimum(p, 0)
        better = (on - p) ** 2 + (on - q) ** 2 <= (off - p) ** 2 + q**2
        return np.where(better, on, off), np.where(better, on, 0)

    def z3_step():
        return (2 * target + rho * (t2 + ut2)) / (2 + rho)

    def z2_step():
        return np.linalg.solve(np.eye(7) + W2.T @ W2, t1 + ut1 + W2.T @ (s2 + us2 - b2))

    def z1_step():
        right = weight * origin + rho * W1.T @ (s1 + us1 - b1)
        return np.linalg.solve(weight * np.eye(5) + rho * W1.T @ W1, right)

    for sweep in range(sweeps):
        forth = order == "forward" or (order == "alternating" and sweep % 2 == 0)
        if order == "classical":
            z1, z2, z3 = z1_step(), z2_step(), z3_step()
            p1, p2 = W1 @ z1 + b1, W2 @ z2 + b2
            s1, t1 = relu_graph(p1 - us1, z2 - ut1)
            s2 = t2 = (p2 - us2 + z3 - ut2) / 2
        elif forth:
            z1 = z1_step()
            p1 = W1 @ z1 + b1
            s1, t1 = relu_graph(p1 - us1, z2 - ut1)
            z2 = z2_step()
            p2 = W2 @ z2 + b2
            s2 = t2 = (p2 - us2 + z3 - ut2) / 2
            z3 = z3_step()
        else:
            z3 = z3_step()
            s2 = t2 = (p2 - us2 + z3 - ut2) / 2
            z2 = z2_step()
            p2 = W2 @ z2 + b2
            s1, t1 = relu_graph(p1 - us1, z2 - ut1)
            z1 = z1_step()
            p1 = W1 @ z1 + b1
        us1, ut1, us2, ut2 = us1 + s1 - p1, ut1 + t1 - z2, us2 + s2 - p2, ut2 + t2 - z3
    return z1, np.sqrt(sum(((a - b) ** 2).sum() for a, b in ((s1, p1), (t1, z2), (s2, p2), (t2, z3))))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sweeps", [1, 2, 5])
def test_sweeps_are_those_of_the_equations(order, sweeps):
    module, rho, weight = _chain(), 0.3, 0.2
    x, target = torch.randn(2, 5, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)
    problem = gw.Problem(gw.view(module), FREE, Penalised(SquaredOutputDistance(target), x, weight))
    points = []

    class Watched(Admm):
        def iterate(self, problem, start):
            for iterate in super().iterate(problem, start):
                points.append(iterate)
                yield iterate

    gw.minimize(problem, Watched(rho=rho, order=order, steps=sweeps), x)
    for row in range(2):
        expected, primal = _by_hand(module, x[row].numpy(), target.numpy(), weight, rho, 1.0, order, sweeps)
        torch.testing.assert_close(points[-1].x[row], torch.from_numpy(expected), rtol=1e-9, atol=1e-10)
        assert points[-1].diagnostics["primal residual"][row].item() == pytest.approx(primal, rel=1e-9)


def _affine(rows=3):
    """An affine network of three blocks, none of which a gate separates but one that is always on."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double().eval().requires_grad_(False)
    module[0].bias += 30
    x, target = torch.randn(rows, 6, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)
    matrix = module[2].weight @ module[0].weight
    offset = module[2].weight @ module[0].bias + module[2].bias
    target += matrix @ torch.randn(6, dtype=DOUBLE) + offset  # within reach
    return module, x, target, matrix, offset


@pytest.mark.parametrize(
    ("order", "relaxation"), [(order, r) for order in ORDERS for r in (1.0, 1.6) if order != "alternating" or r == 1]
)
def test_every_order_comes_to_the_closed_form_where_the_network_is_affine(order, relaxation):
    module, x, target, matrix, offset = _affine()
    problem = gw.Problem(gw.view(module), FREE, Penalised(SquaredOutputDistance(target), x, 0.5))
    found = gw.minimize(problem, Admm(rho=0.3, order=order, relaxation=relaxation), x, budget=250)
    system = 2 * matrix.mT @ matrix + 0.5 * torch.eye(6, dtype=DOUBLE)
    expected = torch.linalg.solve(system, (2 * matrix.mT @ (target - offset) + 0.5 * x).mT).mT
    torch.testing.assert_close(found.x, expected, rtol=0, atol=1e-5)
    assert (found.diagnostics["primal residual"][-1] < 1e-6).all()
    assert (found.diagnostics["dual residual"][-1] < 1e-6).all()


def test_in_a_box_it_comes_to_the_solution_of_the_box_program():
    module, x, target, matrix, offset = _affine()
    box = gw.Box(-0.4, 0.5)
    problem = gw.Problem(gw.view(module), box, Penalised(SquaredOutputDistance(target), x, 0.5))
    found = gw.minimize(problem, Admm(rho=0.3, inner_tolerance=1e-3, inner_steps=50), x, budget=400)
    stacked = torch.cat([matrix, 0.5 * torch.eye(6, dtype=DOUBLE)])
    for row in range(3):
        right = torch.cat([target - offset, 0.5 * x[row]])
        expected = lsq_linear(stacked.numpy(), right.numpy(), (-0.4, 0.5), tol=1e-13).x
        torch.testing.assert_close(found.x[row], torch.tensor(expected), rtol=0, atol=1e-4)
    assert not found.violation.any()


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_balanced_rho_leaves_a_wrong_one_and_each_row_has_its_own(factor):
    module, x, target, *_ = _affine()
    x[0] *= 100
    problem = gw.Problem(gw.view(module), FREE, Penalised(SquaredOutputDistance(target), x, 0.5))
    fixed = gw.minimize(problem, Admm(rho=0.3 * factor), x, budget=60)
    balanced = gw.minimize(problem, Admm(rho=0.3 * factor, balance=True), x, budget=60)
    assert (balanced.value < fixed.value).all()
    rho = balanced.diagnostics["rho"]
    assert rho[0].isnan().all(), "nothing is told of the start"
    assert (rho[1] == 0.3 * factor).all()
    assert (rho[-1] != rho[1]).all()
    alone = gw.minimize(
        gw.Problem(gw.view(module), FREE, Penalised(SquaredOutputDistance(target), x[1:2], 0.5)),
        Admm(rho=0.3 * factor, balance=True), x[1:2], budget=60,
    )  # fmt: skip
    torch.testing.assert_close(alone.diagnostics["rho"][1:, 0], rho[1:, 1])


def _images(name, rows):
    torch.manual_seed(0)
    module = zoo.build(name).eval()
    x = torch.rand(rows, *module.input_shape)
    with torch.no_grad():
        labels = module(x).argmax(1)
    return module, x, labels, (labels + 1) % 10


@pytest.mark.parametrize(
    ("name", "rows", "steps", "share"),
    [("lenet-5", 4, 30, 0.5), ("cifar10-resnet20", 1, 5, 1)],
)
def test_on_image_networks_the_objective_falls_and_the_point_is_judged_by_the_network(name, rows, steps, share):
    module, x, _, targets = _images(name, rows)
    problem = gw.Problem(gw.view(module), gw.Box(0.0, 1.0), Penalised(CrossEntropy(targets), x, 1e-3))
    found = gw.minimize(problem, Admm(rho=0.01, steps=steps), x)
    assert (found.value < share * found.history[0]).all()
    with torch.no_grad():
        torch.testing.assert_close(found.value, problem.objective(found.x, module(found.x)))
    assert not found.violation.any()


def test_a_linear_functional_in_a_box_changes_the_label():
    module, x, labels, targets = _images("lenet-5", 4)
    weights = nn.functional.one_hot(labels, 10).float() - nn.functional.one_hot(targets, 10).float()
    domain = gw.Intersection(gw.LinfBall(x, 0.3), gw.Box(0.0, 1.0))
    found = gw.minimize(gw.Problem(gw.view(module), domain, Linear(weights)), Admm(rho=0.01), x, budget=60)
    with torch.no_grad():
        assert (module(found.x).argmax(1) != labels).all()
    assert not found.violation.any()


def test_stored_factors_cost_one_pass_a_step_and_conjugate_gradients_more_which_is_announced():
    module, x, _, targets = _images("lenet-5", 2)
    problem = gw.Problem(gw.view(module), FREE, Penalised(CrossEntropy(targets), x, 0.1))
    found = gw.minimize(problem, Admm(), x, budget=7)
    assert found.backwards_per_row == 7
    assert found.forwards_per_row == 1 + 2 * 7 + 2  # the looks, the sweeps, and two to take the network apart
    module, x, _, targets = _images("cifar10-resnet20", 1)
    problem = gw.Problem(gw.view(module), FREE, Penalised(CrossEntropy(targets), x, 0.1))
    found = gw.minimize(problem, Admm(inner_steps=3), x, budget=20)
    assert 0.5 * 20 < found.backwards_per_row <= 20
    assert found.steps < 20


def test_the_residuals_fall_by_orders_of_magnitude():
    module = _chain()
    x, target = torch.randn(3, 5, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)
    problem = gw.Problem(gw.view(module), FREE, Penalised(SquaredOutputDistance(target), x, 0.2))
    found = gw.minimize(problem, Admm(rho=1.0), x, budget=250)
    for kind in ("primal residual", "dual residual"):
        told = found.diagnostics[kind]
        assert told.shape == found.history.shape
        assert (told[-1] < 1e-2 * told[1]).all()


def test_it_is_called_by_name_with_settings():
    assert method_named("admm:rho=1e-5,order=forward,balance=true,relaxation=1.6") == Admm(
        rho=1e-5, order="forward", balance=True, relaxation=1.6
    )


@pytest.mark.parametrize(("settings", "said"), [
    ({"relaxation": 2.0}, "relaxation must be at least 1 and below 2, got 2.0"),
    ({"relaxation": 1.5, "order": "alternating"}, "Over-relaxation needs every sweep to go the same way"),
    ({"inner_tolerance": 0.0}, "inner_tolerance must lie between 0 and 1, got 0.0"),
    ({"inner_steps": 0}, "inner_steps must be a positive number, got 0"),
])  # fmt: skip
def test_settings_that_cannot_be_used_get_a_sentence(settings, said):
    with pytest.raises(InvalidInput, match=said):
        Admm(**settings)


def test_an_objective_without_a_proximal_step_is_refused_by_name():
    module, x = _chain(), torch.rand(2, 5, dtype=DOUBLE)
    for objective in (lambda x, y: y[:, 0], DifferenceOfLogitsRatio(torch.tensor([0, 1]))):
        with pytest.raises(UnsupportedProblem, match="No proximal step is known for"):
            gw.minimize(gw.Problem(gw.view(module), FREE, objective), Admm(), x, budget=3, stop=never)


def test_a_network_with_smooth_parts_is_refused():
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    x = torch.rand(2, 5, dtype=DOUBLE)
    problem = gw.Problem(gw.view(module), FREE, Linear(torch.ones(3, dtype=DOUBLE)))
    with pytest.raises(UnsupportedNetwork, match="applies tanh, which is no gate and not affine"):
        gw.minimize(problem, Admm(), x, budget=3)


@pytest.mark.parametrize("rho", [1e-4, 1e-2, 1.0])
def test_where_network_and_adjoints_agree_local_projections_rest_whatever_rho(rho):
    """Nearest ones rest there only while rho is large beside the adjoints."""
    torch.manual_seed(0)
    parts = [part for n in (6, 30, 30) for part in (nn.Linear(n, 30), nn.ReLU())]
    module = nn.Sequential(*parts, nn.Linear(30, 3)).double().eval().requires_grad_(False)
    x, target = torch.randn(4, 6, dtype=DOUBLE), 5 * torch.randn(3, dtype=DOUBLE)
    values = [x.requires_grad_()]
    for layer in module:
        values.append(layer(values[-1]))
    slopes = torch.autograd.grad((values[-1] - target).square().sum(), values)
    origin = x.detach() + slopes[0] / 0.5  # which makes x stationary
    problem = gw.Problem(gw.view(module), FREE, Penalised(SquaredOutputDistance(target), origin, 0.5))
    moved = {}

    class Seated(Admm):
        def iterate(self, problem, start):
            state = _Splitting(self, problem, start)
            state.us = [-slope / rho for slope in (*slopes[1:-1:2], slopes[-1])]
            state.ut = [slope / rho for slope in (*slopes[2:-1:2], slopes[-1])]
            for _ in range(20):
                state.begin()
                for turn, number in self._turns(0, len(state.s)):
                    turn(state, number)
                state.step_duals()
            moved[self.projection] = (state.z[0] - start.points).abs().max().item()
            yield from super().iterate(problem, start)

    for projection in ("local", "nearest"):
        gw.minimize(problem, Seated(rho=rho, projection=projection, steps=1), x.detach())
    assert moved["local"] < 1e-8
    assert rho == 1 or moved["nearest"] > 0.01


def test_a_growing_rho_is_told_and_comes_to_the_same_where_the_network_is_affine():
    module, x, target, *_ = _affine()
    problem = gw.Problem(gw.view(module), FREE, Penalised(SquaredOutputDistance(target), x, 0.5))
    fixed, growing = (gw.minimize(problem, Admm(rho=0.3, growth=growth, steps=250), x) for growth in (1.0, 1.002))
    torch.testing.assert_close(growing.x, fixed.x, rtol=0, atol=1e-5)
    rho = growing.diagnostics["rho"]
    torch.testing.assert_close(rho[2:] / rho[1:-1], torch.full_like(rho[2:], 1.002))
    with pytest.raises(InvalidInput, match="growth must be finite and at least 1"):
        Admm(growth=0.9)
