"""From "not this class" to "that class": `toward` and `rivals`."""

import pytest
import torch

from gatewise.errors import UnsupportedProblem
from gatewise.objectives import (
    CrossEntropy,
    DifferenceOfLogitsRatio,
    Linear,
    Margin,
    TargetedDifferenceOfLogitsRatio,
    TargetedMargin,
)
from gatewise.objectives.targeted import rivals, toward

LABELS, TARGETS = torch.tensor([0, 2, 1]), torch.tensor([3, 0, 2])
UNTARGETED = {
    "margin": (Margin(LABELS), TargetedMargin(TARGETS)),
    "cross-entropy": (-CrossEntropy(LABELS), CrossEntropy(TARGETS)),
    "dlr": (DifferenceOfLogitsRatio(LABELS), TargetedDifferenceOfLogitsRatio(LABELS, TARGETS)),
}


@pytest.mark.parametrize("name", UNTARGETED)
def test_toward_gives_the_targeted_form(name):
    untargeted, targeted = UNTARGETED[name]
    y = torch.randn(3, 5)
    found = toward(untargeted, TARGETS)
    assert type(found) is type(targeted)
    assert torch.equal(found(y, y), targeted(y, y))


@pytest.mark.parametrize("name", UNTARGETED)
def test_rivals_are_the_other_classes_likeliest_first(name):
    y = torch.tensor([[9.0, 1, 3, 2, 0], [5, 4, 9, 1, 2], [0, 1, 2, 3, 9]])
    assert rivals(UNTARGETED[name][0], y).tolist() == [[2, 3, 1, 4], [0, 1, 4, 3], [4, 3, 2, 0]]


def test_rivals_that_tie_come_in_order_of_their_number():
    assert rivals(Margin(torch.tensor([1])), torch.zeros(1, 4)).tolist() == [[0, 2, 3]]


@pytest.mark.parametrize(
    "objective",
    [CrossEntropy(LABELS), TargetedMargin(TARGETS), Linear(torch.ones(5)), lambda x, y: y[:, 0]],
    ids=["cross-entropy to stay", "already targeted", "linear", "a callable"],
)
def test_other_objectives_have_no_targeted_form_and_the_sentence_says_which_have(objective):
    for asked in (lambda: toward(objective, TARGETS), lambda: rivals(objective, torch.randn(3, 5))):
        with pytest.raises(UnsupportedProblem, match="no targeted form; use Margin, -CrossEntropy or Diff"):
            asked()
