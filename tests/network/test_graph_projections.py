"""The nearest point of a gate's graph, against brute force."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from torch import nn

from gatewise.errors import UnsupportedNetwork
from gatewise.network import view
from gatewise.network.blocks import Activation, nearest_on_graph, split_network

NUMBERS = st.floats(-3, 3, allow_nan=False)


def _value(s: Sequence, slope: float) -> float:
    m = max(s)
    return max(m, 0) + slope * min(m, 0)


def _least_cost(p: np.ndarray, q: float, slope: float) -> float:
    """By enumeration: which entry is the largest, and on which side of zero; a bounded least-squares problem each."""
    n, best = len(p), np.inf
    for winner, (side, a) in itertools.product(range(n), ((1, 1.0), (-1, slope))):
        # In m = s_winner and gaps d_j = m - s_j >= 0: residuals m - p_w, m - d_j - p_j, a m - q.
        others = [j for j in range(n) if j != winner]
        matrix = np.zeros((n + 1, n))
        matrix[:, 0] = [1.0] * n + [a]
        for row, _ in enumerate(others, start=1):
            matrix[row, row] = -1.0
        target = np.array([p[winner], *(p[j] for j in others), q])
        low = np.array([0.0 if side > 0 else -np.inf] + [0.0] * (n - 1))
        high = np.array([np.inf if side > 0 else 0.0] + [np.inf] * (n - 1))
        best = min(best, 2 * lsq_linear(matrix, target, (low, high + 1e-300), tol=1e-14).cost)
    return best


@given(
    p=st.lists(NUMBERS, min_size=1, max_size=5),
    q=NUMBERS,
    slope=st.sampled_from([0.0, 0.1, 0.5, 1.0, -1.0, 1.7]),
)
@settings(max_examples=150, deadline=None)
def test_it_is_on_the_graph_and_as_near_as_enumeration_finds(p, q, slope):
    if len(p) > 1:
        slope = abs(slope)
    given_p, given_q = torch.tensor(p, dtype=torch.float64)[:, None], torch.tensor([q], dtype=torch.float64)
    s, t = nearest_on_graph(given_p, given_q, slope)
    assert t.item() == pytest.approx(_value(s[:, 0].tolist(), slope), abs=1e-12)
    cost = (s - given_p).square().sum().item() + (t - given_q).square().item()
    assert cost == pytest.approx(_least_cost(np.array(p), q, slope), abs=1e-7)


@pytest.mark.parametrize(("p", "q", "s", "t"), [
    (2.0, 1.0, 1.5, 1.5),  # both sides meet in the middle
    (-1.0, 0.2, -1.0, 0.0),  # off is nearer
    (-0.2, 1.0, 0.4, 0.4),  # on is nearer
    (1.0, -3.0, 0.0, 0.0),  # the middle would be negative: the kink
])  # fmt: skip
def test_relu_by_hand(p, q, s, t):
    found = nearest_on_graph(torch.tensor([[p]]), torch.tensor([q]), 0.0)
    torch.testing.assert_close(found, (torch.tensor([[s]]), torch.tensor([t])))


def test_a_max_pool_by_hand():
    """Three entries share the way to a low output; the fourth lies below and stays."""
    s, t = nearest_on_graph(torch.tensor([[4.0], [3.0], [2.0], [-5.0]]), torch.tensor([-1.0]), 1.0)
    assert t.item() == 2.0
    assert s.flatten().tolist() == [2.0, 2.0, 2.0, -5.0]
    s, t = nearest_on_graph(torch.tensor([[1.0], [1.0]]), torch.tensor([3.0]), 1.0)
    assert t.item() == 2.0
    assert sorted(s.flatten().tolist()) == [1.0, 2.0], "one entry is raised, not both"


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_with_an_earlier_point_what_fits_stays_whatever_its_duals(slope):
    """Pre-activations and outputs of the network, moved by duals that cancel at the entry that counts."""
    torch.manual_seed(0)
    for n in (1, 4):
        s, u = torch.randn(n, 60, dtype=torch.float64), 10 * torch.randn(60, dtype=torch.float64)
        m, winner = s.amax(0), s.argmax(0, keepdim=True)
        t, steep = torch.where(m > 0, m, slope * m), torch.where(m > 0, torch.ones_like(m), slope)
        p = s.scatter_add(0, winner, -(steep * u)[None])
        found = nearest_on_graph(p, t + u, slope, s)
        torch.testing.assert_close(found, (s, t))
        assert not torch.equal(nearest_on_graph(p, t + u, slope)[1], t), "the nearest point is another for some"


@given(
    p=st.lists(NUMBERS, min_size=3, max_size=3),
    q=NUMBERS,
    before=st.lists(NUMBERS, min_size=3, max_size=3),
    slope=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=100, deadline=None)
def test_with_an_earlier_point_no_small_step_on_the_graph_comes_nearer(p, q, before, slope):
    p, before = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (p, before))
    s, t = nearest_on_graph(p, torch.tensor([q], dtype=torch.float64), slope, before)
    assert t.item() == pytest.approx(_value(s[:, 0].tolist(), slope), abs=1e-12)
    cost = (s - p).square().sum() + (t - q).square()
    torch.manual_seed(0)
    step = 1e-4 * torch.randn(3, 500, dtype=torch.float64)
    near = s + torch.cat([step, step * (torch.rand(3, 500) < 0.5)], 1)
    m = near.amax(0)
    costs = (near - p).square().sum(0) + (torch.where(m > 0, m, slope * m) - q).square()
    assert (costs >= cost - 1e-9).all()


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0])
def test_long_windows_are_sorted_another_way_to_the_same_end(slope):
    torch.manual_seed(0)
    p, q = torch.randn(12, 40, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    s, t = nearest_on_graph(p, q, slope)
    short = nearest_on_graph(p[:9], q, slope)
    padded = nearest_on_graph(torch.cat([p[:9], torch.full((3, 40), -50.0, dtype=torch.float64)]), q, slope)
    torch.testing.assert_close(padded[0][:9], short[0])
    torch.testing.assert_close(padded[1], short[1])
    torch.testing.assert_close(t, torch.where(s.amax(0) > 0, s.amax(0), slope * s.amax(0)))


def test_what_is_on_the_graph_stays():
    torch.manual_seed(0)
    p = torch.randn(4, 50, dtype=torch.float64)
    for slope in (0.0, 0.3, 1.0):
        m = p.amax(0)
        s, t = nearest_on_graph(p, torch.where(m > 0, m, slope * m), slope)
        torch.testing.assert_close(s, p)
        torch.testing.assert_close(t, torch.where(m > 0, m, slope * m))


def test_slopes_by_channel():
    slope = torch.tensor([0.0, 0.5])[:, None]
    p, q = torch.randn(1, 3, 2, 4), torch.randn(3, 2, 4)
    s, t = nearest_on_graph(p, q, slope)
    for channel in range(2):
        alone = nearest_on_graph(p[:, :, channel], q[:, channel], float(slope[channel]))
        torch.testing.assert_close((s[:, :, channel], t[:, channel]), alone)


@pytest.mark.parametrize(("pool", "shape"), [
    (nn.MaxPool2d(2), (2, 7, 9)), (nn.MaxPool2d((2, 3)), (2, 4, 9)), (nn.MaxPool1d(3), (2, 10)),
    (nn.MaxPool3d(2), (1, 4, 4, 5)), (nn.AdaptiveMaxPool2d(2), (2, 4, 6)),
])  # fmt: skip
def test_windows_are_those_of_the_pool(pool, shape):
    torch.manual_seed(0)
    z = torch.randn(3, *shape)
    split = split_network(view(nn.Sequential(nn.ReLU(), pool).eval()), z)
    (activation, _) = split.activations
    assert activation.slope == 0
    torch.testing.assert_close(activation(z), pool(z.relu()))
    s, t = activation.project(z, torch.randn(pool(z).shape))
    torch.testing.assert_close(activation(s), t)
    # What no window covers is free.
    kept, target = activation.project(z, pool(z.relu()))
    torch.testing.assert_close(kept, z)
    torch.testing.assert_close(target, pool(z.relu()))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2), nn.MaxPool2d(2, padding=1), nn.AdaptiveMaxPool2d(4)])
def test_windows_that_overlap_or_reach_beyond_the_map_get_a_sentence(pool):
    with pytest.raises(UnsupportedNetwork, match=r"Gate 1 is a max-pool whose windows overlap, have gaps or reach"):
        split_network(view(nn.Sequential(pool).eval()), torch.rand(2, 1, 7, 7))


def test_the_identity_meets_in_the_middle():
    p, q = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(Activation().project(p, q), ((p + q) / 2, (p + q) / 2))
