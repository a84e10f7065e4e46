"""Square Attack against Algorithms 1 and 2 of Andriushchenko et al. (ECCV 2020) in plain tensors, one row at a time."""

import math

import pytest
import torch
from torch import nn

from gatewise.domains import Box, Intersection, L2Ball, LinfBall
from gatewise.errors import InvalidInput
from gatewise.methods import Square, Start
from gatewise.methods.square import _halved
from gatewise.network import view
from gatewise.objectives import Linear, Margin
from gatewise.problem import Problem
from gatewise.result import Status
from gatewise.solve import minimize
from gatewise.streams import RowStreams

from .trajectories import SEED, assert_same, network, points

STEPS, RADIUS, ROWS = 60, 0.2, 4
SHAPES = {"image": (3, 6, 6), "tall image": (2, 7, 3), "grey image": (1, 5, 5), "vector": (24,)}
LABELS = torch.tensor([0, 1, 2, 0])
HALVED_AT = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)  # of 10,000

each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def _setting(shape):
    """A network with three outputs, and starts."""
    n = math.prod(shape)
    return nn.Sequential(nn.Flatten(), *network(n, 16, 12, 3)).eval(), points(ROWS, n).reshape(ROWS, *shape)


def _walk(problem, start, method, steps=STEPS):
    streams = RowStreams(SEED, range(len(start)))
    return [iterate.x for iterate in method.iterate(problem, Start(start, steps, streams))]


def _share_at(step, steps, share=0.8):
    return share / 2 ** sum(step / steps >= mark / 10_000 for mark in HALVED_AT)


def _by_hand(start, judge, move, share=0.8):
    """The points that are asked for: `judge(row, x)` gives what is to be small, `move(x, signs, x0)` a candidate."""
    shape = start.shape[1:]
    channels, height, width = shape if len(shape) == 3 else (1, 1, *shape)
    walks = []
    for row in range(ROWS):
        streams = RowStreams(SEED, [row])

        def draw(*sizes, streams=streams):
            return streams.uniform(torch.zeros(1, *sizes, dtype=torch.float64))[0]

        x = x0 = start[row : row + 1]
        best, visited = judge(row, x), [x]
        for i in range(1, STEPS + 1):
            signs = torch.zeros(channels, height, width, dtype=torch.float64)
            if i == 1:
                for channel, stripes in enumerate(draw(channels, 1, width)):
                    for column, u in enumerate(stripes[0].tolist()):
                        signs[channel, :, column] = 1.0 if u >= 0.5 else -1.0
            else:
                p = _share_at(i, STEPS, share)
                h = max(1, round(math.sqrt(p * height * width) if height > 1 else p * width))
                tall, wide = min(h, height), min(h, width)
                u, v = draw(2).tolist()
                r, s = int(u * (height - tall + 1)), int(v * (width - wide + 1))
                for channel, u in enumerate(draw(channels, 1, 1).flatten().tolist()):
                    signs[channel, r : r + tall, s : s + wide] = 1.0 if u >= 0.5 else -1.0
            candidate = move(x, signs.reshape(1, *shape), x0)
            visited.append(candidate)
            if judge(row, candidate) < best:
                x, best = candidate, judge(row, candidate)
        walks.append(visited)
    return [torch.cat(at_step) for at_step in zip(*walks, strict=True)]


def _to_the_faces(x, signs, x0):
    return (x + 2 * RADIUS * signs).clamp(x0 - RADIUS, x0 + RADIUS).clamp(0, 1)


@pytest.mark.parametrize("share", [0.8, 0.3])
@each_shape
def test_the_trajectory_is_that_of_the_paper_in_a_linf_ball_cut_by_a_box(shape, share):
    module, start = _setting(shape)
    domain = Intersection(LinfBall(start, RADIUS), Box(0.0, 1.0))
    found = _walk(Problem(view(module), domain, Margin(LABELS)), start, Square(share=share))

    def judge(row, x):
        return Margin(LABELS[row : row + 1])(x, module(x)).item()

    assert_same(found, _by_hand(start, judge, _to_the_faces, share), 1e-12)
    values = torch.stack([Margin(LABELS)(x, module(x)) for x in found])
    assert (values.amin(0) < values[:2].amin(0)).all(), "no window ever helped: the test says nothing"


@each_shape
def test_in_an_l2_ball_a_window_moves_by_a_step_of_the_balls_own_norm(shape):
    module, start = _setting(shape)
    problem = Problem(view(module), L2Ball(start, RADIUS), Margin(LABELS))

    def judge(row, x):
        return Margin(LABELS[row : row + 1])(x, module(x)).item()

    def move(x, signs, x0):
        offset = x + 0.5 * RADIUS * signs / signs.norm() - x0
        return x0 + offset * min(1.0, RADIUS / offset.norm().item())

    assert_same(_walk(problem, start, Square(step_size=0.5)), _by_hand(start, judge, move))


@pytest.mark.parametrize("shape", [(3, 6, 6), (24,)])
def test_a_point_that_meets_the_goal_is_kept_against_smaller_values_that_do_not(shape):
    module, start = _setting(shape)
    objective = Linear(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
    least = module(start)[:, 2].detach() + 0.02  # the goal asks for more of the third output than the start gives
    domain = Intersection(LinfBall(start, RADIUS), Box(0.0, 1.0))
    problem = Problem(view(module), domain, objective, goal=lambda x, y: least - y[:, 2])

    def judge(row, x):
        y = module(x)
        return y[0, 2].item() < least[row].item(), objective(x, y).item()

    found = _walk(problem, start, Square())
    assert_same(found, _by_hand(start, judge, _to_the_faces), 1e-12)
    met = torch.stack([module(x)[:, 2] >= least for x in found])
    values = torch.stack([objective(x, module(x)) for x in found])
    overruled = met.any(0) & (values.amin(0) < values.where(met, torch.inf).amin(0))
    assert overruled.any(), "no row had to choose: the test says nothing"


def _signs_of(shape, steps, share=0.8):
    """The signs of each step, where no step is ever kept because every value is the same."""
    start = torch.full((1, *shape), 0.5)
    problem = Problem(view(nn.Flatten().eval()), LinfBall(start, 0.25), lambda x, y: torch.zeros(len(x)))
    return [(x - start).sign()[0] for x in _walk(problem, start, Square(share=share), steps)]


def test_the_first_query_is_the_start_and_the_second_has_vertical_stripes_of_width_one():
    start, stripes = _signs_of((3, 16, 16), 4)[:2]
    assert not start.any()
    assert (stripes.abs() == 1).all()
    assert (stripes == stripes[:, :1]).all(), "a stripe runs from top to bottom"
    assert len({tuple(channel[0].tolist()) for channel in stripes}) == 3, "each channel has its own"


def test_the_share_halves_at_the_papers_steps():
    at = {1: 0, 9: 0, 10: 1, 49: 1, 50: 2, 199: 2, 200: 3, 999: 3, 1000: 4, 1999: 4, 2000: 5, 4000: 6, 6000: 7, 8000: 8}
    assert [_halved(step, 10_000) for step in at] == [0.5**halvings for halvings in at.values()]
    assert _halved(10_000, 10_000) == 0.5**8
    assert [_halved(step, 100) for step in (1, 2, 10, 80, 100)] == [0.5**halvings for halvings in (2, 3, 4, 8, 8)]


def test_a_window_is_a_square_of_one_sign_a_channel_that_shrinks():
    sides = []
    for step, signs in list(enumerate(_signs_of((3, 20, 20), 1000)))[2:]:
        inside = signs[0] != 0
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        sides.append(len(rows))
        assert len(rows) == len(columns) == max(1, round(math.sqrt(_share_at(step, 1000) * 400)))
        assert rows[-1] - rows[0] == columns[-1] - columns[0] == len(rows) - 1
        for channel in signs:
            assert (channel != 0).equal(inside)
            assert len(channel[inside].unique()) == 1
    assert sides == sorted(sides, reverse=True)
    assert {sides[0], sides[-1]} == {13, 1}


def test_windows_lie_everywhere():
    covered = torch.stack([signs != 0 for signs in _signs_of((1, 6, 5), 600)[300:]])
    assert covered.any(0).all()


def test_a_window_of_a_vector_is_a_run_of_entries():
    for step, signs in list(enumerate(_signs_of((30,), 200, share=0.5)))[2:]:
        (entries,) = signs.nonzero(as_tuple=True)
        assert len(entries) == max(1, round(_share_at(step, 200, 0.5) * 30))
        assert entries[-1] - entries[0] == len(entries) - 1
        assert len(signs[entries].unique()) == 1


def test_it_takes_no_gradient_and_as_many_queries_as_the_budget_has_passes():
    module, start = _setting((3, 6, 6))

    class Graphless(nn.Module):
        def forward(self, x):
            assert not x.requires_grad
            assert not torch.is_grad_enabled()
            return module(x)

    problem = Problem(view(Graphless().eval()), LinfBall(start, RADIUS), Margin(LABELS))
    result = minimize(problem, Square(), start, budget=50)
    assert result.backwards_per_row == 0
    assert result.forwards_per_row == result.steps == 51
    assert result.status == (Status.FINISHED,) * ROWS
    assert minimize(problem, Square(steps=7), start, budget=50).steps == 8


@each_shape
def test_on_a_linear_classifier_it_ends_at_the_best_corner_of_the_ball(shape):
    torch.manual_seed(0)
    n = math.prod(shape)
    module = nn.Sequential(nn.Flatten(), nn.Linear(n, 2)).double().eval().requires_grad_(False)
    start = 0.3 + 0.4 * points(3, n).reshape(3, *shape)
    labels = module(start).argmax(1)
    margin, slope = Margin(labels), (module[1].weight[0] - module[1].weight[1]).abs().sum()
    needed = margin(start, module(start)) / slope
    attack = Problem(view(module), LinfBall(start, 1.2 * needed), margin, goal=margin)
    result = minimize(attack, Square(), start, budget=2000)
    assert result.goal_met.all()
    assert result.steps < 2000
    best = minimize(Problem(view(module), LinfBall(start, 0.1), margin), Square(), start, budget=4000)
    torch.testing.assert_close(best.value, margin(start, module(start)) - 0.1 * slope)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan"), -0.1])
def test_a_share_that_is_none_gives_a_sentence(share):
    with pytest.raises(InvalidInput, match="share must lie above 0 and be at most 1"):
        Square(share=share)
