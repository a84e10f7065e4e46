"""A start, a budget or an objective that cannot be used: one clear sentence, from every method."""

import pytest
import torch

from gatewise.errors import InvalidInput
from gatewise.solve import minimize

from .cases import METHODS, linf_images, scalar_in_box

EVERY_METHOD = pytest.mark.parametrize("method", METHODS)


def _nan(start):
    return start.index_fill(0, torch.tensor([1]), torch.nan)


UNUSABLE = {
    "NaN": (_nan, "holds NaN or infinite"),
    "infinite": (lambda start: start + torch.inf, "holds NaN or infinite"),
    "integers": (lambda start: start.long(), r"must be float32 or float64, got torch\.int64"),
    "bytes": (lambda start: (255 * start).to(torch.uint8), r"must be float32 or float64, got torch\.uint8"),
    "half": (lambda start: start.half(), r"must be float32 or float64, got torch\.float16"),
    "empty": (lambda start: start[:0], "non-empty batch"),
    "one axis": (lambda start: start[0].flatten(), "non-empty batch"),
}


@pytest.mark.parametrize("bad", UNUSABLE)
@pytest.mark.parametrize("problem", [linf_images, scalar_in_box])
def test_a_start_that_cannot_be_used_gives_a_sentence_before_anything_runs(bad, problem):
    change, sentence = UNUSABLE[bad]
    case = problem(torch.float32)
    with pytest.raises(InvalidInput, match=sentence):
        minimize(case.problem, METHODS["pgd"].method, change(case.start), budget=4)
    assert case.problem.network.meter.forwards == 0


@EVERY_METHOD
@pytest.mark.parametrize("problem", [linf_images, scalar_in_box])
def test_a_start_of_the_wrong_shape_gives_a_sentence(method, problem):
    if problem is scalar_in_box and (METHODS[method].needs_targets or METHODS[method].needs_proximal):
        problem = linf_images
    case = problem(torch.float32)
    with pytest.raises(InvalidInput, match=r"does not fit points|cannot be run on a start of shape") as caught:
        minimize(case.problem, METHODS[method].method, case.start[..., :-1], budget=4)
    assert "\n" not in str(caught.value)


@EVERY_METHOD
def test_a_start_of_another_dtype_than_the_network_gives_a_sentence(method):
    case = linf_images(torch.float32)
    with pytest.raises(InvalidInput, match=r"cannot be run on a start of shape \(3, 1, 6, 6\), torch.float64 on cpu"):
        minimize(case.problem, METHODS[method].method, case.start.double(), budget=4)


@pytest.mark.parametrize("budget", [0, -3, 10.5])
def test_a_budget_that_is_no_count_gives_a_sentence(budget):
    case = linf_images(torch.float32)
    with pytest.raises(InvalidInput, match=rf"a whole number of backward passes a row, at least 1, got {budget}"):
        minimize(case.problem, METHODS["pgd"].method, case.start, budget=budget)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_time_limit_that_is_not_positive_gives_a_sentence(seconds):
    case = linf_images(torch.float32)
    with pytest.raises(InvalidInput, match="time limit must be a positive number of seconds"):
        minimize(case.problem, METHODS["pgd"].method, case.start, seconds=seconds)


def test_row_names_that_do_not_match_give_a_sentence():
    case = linf_images(torch.float32)
    with pytest.raises(InvalidInput, match="2 row names for 3 rows"):
        minimize(case.problem, METHODS["pgd"].method, case.start, rows=[1, 2])
