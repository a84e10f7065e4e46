"""Same seed, same answer; a row takes the same draws alone, in a batch, or in another order."""

import pytest
import torch

from gatewise.solve import minimize, never

from .cases import BUDGET, METHODS, PAIRS, PROBLEMS

EVERY_PAIR = pytest.mark.parametrize(("method", "problem"), PAIRS, ids=lambda name: name)


def _solve(method, problem, rows, *, dtype=torch.float64, seed=3, names=None):
    case = PROBLEMS[problem](dtype, rows)
    member = METHODS[method].method
    return minimize(case.problem, member, case.start, budget=BUDGET // 2, stop=never, seed=seed, rows=names)


@EVERY_PAIR
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_seed_gives_the_same_answer_bit_for_bit(method, problem, dtype):
    first, second = (_solve(method, problem, range(3), dtype=dtype) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.history, second.history)
    assert first.status == second.status


@EVERY_PAIR
def test_the_global_generator_is_neither_read_nor_moved(method, problem):
    case = PROBLEMS[problem](torch.float64)
    results = []
    for outer in (11, 12):
        torch.manual_seed(outer)
        before = torch.get_rng_state()
        results.append(minimize(case.problem, METHODS[method].method, case.start, budget=BUDGET // 2, stop=never))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(results[0].x, results[1].x)


@EVERY_PAIR
def test_rows_together_equal_rows_alone(method, problem):
    rows = [4, 0, 2]
    together = _solve(method, problem, rows, names=rows)
    for position, row in enumerate(rows):
        alone = _solve(method, problem, [row], names=[row])
        torch.testing.assert_close(alone.value, together.value[position : position + 1], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(alone.x, together.x[position : position + 1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["pgd-random-start", "apgd-random-start", "restarts", "adr-gd-kicked", "square"])
def test_where_chance_plays_a_part_another_seed_gives_another_answer(method):
    first, second = (_solve(method, "box", range(3), seed=seed) for seed in (0, 1))
    assert not torch.equal(first.x, second.x)


@pytest.mark.parametrize("method", ["pgd-random-start", "adr-gd-kicked", "square"])
def test_a_rows_name_and_not_its_position_decides_its_draws(method):
    forth = _solve(method, "box", [0, 1, 2], names=[10, 11, 12])
    back = _solve(method, "box", [2, 1, 0], names=[12, 11, 10])
    torch.testing.assert_close(back.x.flip(0), forth.x, rtol=1e-6, atol=1e-7)
    renamed = _solve(method, "box", [0, 1, 2], names=[20, 21, 22])
    assert not torch.allclose(renamed.x, forth.x)
