"""Networks that give nothing to go by: zero gradients, NaN, infinities."""

import copy

import pytest
import torch
from torch import nn

from gatewise.domains import LinfBall
from gatewise.network import view
from gatewise.objectives import CrossEntropy, Margin
from gatewise.problem import Problem
from gatewise.result import Status
from gatewise.solve import minimize, never

from .cases import METHODS

EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
LABELS = torch.zeros(3, dtype=torch.int64)


def _network():
    torch.manual_seed(0)
    parts = [nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)]
    module = nn.Sequential(*parts).eval()
    with torch.no_grad():
        module[-1].bias[0] = 20.0  # class 0 wins everywhere
    return module


def _solve(method, module, *, objective=None, start=None, budget=24):
    start = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) if start is None else start
    objective = Margin(LABELS) if objective is None else objective
    problem = Problem(view(module), LinfBall(start, 0.2), objective, goal=Margin(LABELS))
    return minimize(problem, METHODS[method].method, start, budget=budget, stop=never), start


@EVERY_METHOD
def test_a_network_that_does_not_depend_on_its_input_is_reported_as_zero_gradient(method):
    module = _network()
    with torch.no_grad():
        module[0].weight.zero_()
    result, _ = _solve(method, module)
    if not METHODS[method].takes_gradients:
        assert set(result.status) == {Status.FINISHED}
        return
    assert set(result.status) == {Status.ZERO_GRADIENT}
    assert "margin or dlr instead of cross-entropy" in str(result.status[0])


# Aiming at a class, following the goal, kicked gates and scaled logits do move where the cross-entropy itself is flat;
# what takes no gradient is told of none.
FOLLOW_THE_GOAL = ("fab", "deepfool", "ddn", "fmn", "alma", "carlini-wagner", "l-bfgs", "strongest")
BY_REGIONS = ("rlr-qp", "face-walk")
MOVING = ("warm-start", "multi-targeted", *FOLLOW_THE_GOAL, *BY_REGIONS)
PLAIN = [name for name, row in METHODS.items() if "adr-gd" not in name and name not in MOVING and row.takes_gradients]


@pytest.mark.parametrize("method", PLAIN)
def test_a_saturated_cross_entropy_is_reported_row_by_row(method):
    module = nn.Sequential(nn.Linear(5, 4)).eval()
    with torch.no_grad():
        module[0].bias.zero_()
        module[0].weight.zero_()
        module[0].weight[0] = 1.0
    start = torch.tensor([[40.0] * 5, [0.1] * 5, [40.0] * 5])  # rows 0 and 2 win by 200 nats: exactly zero in float32
    result, _ = _solve(method, module, objective=-CrossEntropy(LABELS), start=start)
    assert result.status[0] is result.status[2] is Status.ZERO_GRADIENT
    assert result.status[1] is not Status.ZERO_GRADIENT


@EVERY_METHOD
def test_a_network_of_nan_is_reported_as_not_finite_and_returns_a_feasible_point(method):
    module = _network()
    with torch.no_grad():
        module[-1].bias.fill_(torch.nan)
    result, start = _solve(method, module)
    assert set(result.status) == {Status.NOT_FINITE}
    assert torch.equal(result.x, start)
    assert not result.violation.any()
    assert not result.goal_met.any()


@EVERY_METHOD
def test_one_row_of_nan_does_not_touch_its_neighbours(method):
    class Poisoned(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = _network()
            self.eval()

        def forward(self, x):
            return self.inner(x) + torch.where(x[:, :1] > 50, torch.nan, 0.0)

    module = Poisoned()
    start = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    clean, _ = _solve(method, module, start=start)
    start[1, 0] = 100.0
    result, _ = _solve(method, module, start=start)
    assert result.status[1] is Status.NOT_FINITE
    for row in (0, 2):
        assert result.status[row] is clean.status[row]
        torch.testing.assert_close(result.value[row], clean.value[row], rtol=1e-4, atol=1e-4)


@EVERY_METHOD
def test_the_users_module_is_as_it_was(method):
    module = _network().train()
    module[0].eval()
    module[2].weight.requires_grad_(False)
    module[4].bias.grad = torch.ones(4)
    before = copy.deepcopy(module)
    modes = [part.training for part in module.modules()]

    def same():
        assert [part.training for part in module.modules()] == modes
        for mine, theirs in zip(module.parameters(), before.parameters(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.requires_grad == theirs.requires_grad
            assert mine.grad is None or torch.equal(mine.grad, torch.ones(4))
        assert module[0].weight.grad is None

    with pytest.warns(UserWarning, match="put back afterwards"):
        _solve(method, module)
    same()

    class Stop(Exception):
        pass

    def explode(standing):
        if standing.step == 2:
            raise Stop

    start = torch.rand(3, 5)
    problem = Problem(view(module), LinfBall(start, 0.2), Margin(LABELS))
    with pytest.warns(UserWarning, match="put back afterwards"), pytest.raises(Stop):
        minimize(problem, METHODS[method].method, start, budget=24, callback=explode)
    same()
