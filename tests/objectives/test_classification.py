"""Margin, DLR and cross-entropy: values by hand, any number of classes, and what a user must be able to rely on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gatewise.errors import InvalidInput
from gatewise.objectives import (
    CrossEntropy,
    DifferenceOfLogitsRatio,
    Margin,
    MarginTo,
    Negative,
    TargetedDifferenceOfLogitsRatio,
    TargetedMargin,
)

LABEL, TARGET = 1, 0


def _objectives(labels, targets):
    return {
        "margin": Margin(labels),
        "targeted margin": TargetedMargin(targets),
        "cross-entropy": CrossEntropy(labels),
        "-cross-entropy": -CrossEntropy(labels),
        "dlr": DifferenceOfLogitsRatio(labels),
        "targeted dlr": TargetedDifferenceOfLogitsRatio(labels, targets),
    }


def _by_hand(name, z):
    """The value of one row of logits (a list) in plain Python."""
    others = [value for k, value in enumerate(z) if k != LABEL]
    not_target = [value for k, value in enumerate(z) if k != TARGET]
    order = sorted(z, reverse=True)
    margin, targeted = z[LABEL] - max(others), max(not_target) - z[TARGET]
    entropy = math.log(sum(math.exp(value) for value in z)) - z[LABEL]
    match name:
        case "margin":
            return margin
        case "targeted margin":
            return targeted
        case "cross-entropy":
            return entropy
        case "-cross-entropy":
            return -entropy
        case "dlr":
            return margin / (order[0] - order[2]) if len(z) > 2 else margin
        case "targeted dlr" if len(z) > 3:
            return (z[LABEL] - z[TARGET]) / (order[0] - (order[2] + order[3]) / 2)
        case _:
            return targeted


NAMES = list(_objectives(torch.tensor([0]), torch.tensor([0])))


def _value(name, logits, labels=None, targets=None):
    rows = len(logits)
    labels = torch.full((rows,), LABEL) if labels is None else labels
    targets = torch.full((rows,), TARGET) if targets is None else targets
    return _objectives(labels, targets)[name](torch.zeros(rows, 1), logits)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_formula_by_hand(name, classes):
    logits = 3 * torch.randn(20, classes, dtype=torch.float64)
    expected = [_by_hand(name, row) for row in logits.tolist()]
    torch.testing.assert_close(_value(name, logits), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_below_its_least_number_of_classes_dlr_is_the_margin():
    two, three = torch.randn(9, 2), torch.randn(9, 3)
    assert torch.equal(_value("dlr", two), _value("margin", two))
    assert torch.equal(_value("targeted dlr", two), _value("targeted margin", two))
    assert torch.equal(_value("targeted dlr", three), _value("targeted margin", three))


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_added_to_all_logits_changes_no_bit_where_the_sums_are_exact(name, classes, dtype):
    logits = torch.randint(-64, 64, (30, classes)).to(dtype) / 8
    for constant in (16.0, -1024.0):
        assert torch.equal(_value(name, logits + constant), _value(name, logits))


@pytest.mark.parametrize("name", NAMES)
@given(constant=st.floats(-100, 100), seed=st.integers(0, 10**6))
def test_a_constant_added_to_all_logits_changes_nothing_but_rounding(name, constant, seed):
    logits = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(_value(name, logits + constant), _value(name, logits), rtol=1e-6, atol=1e-6)


def test_the_margin_is_the_least_of_the_margins_to_one_rival():
    y, labels = torch.randn(7, 4), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    to_one = [MarginTo(labels, (labels + shift) % 4)(y, y) for shift in (1, 2, 3)]
    assert torch.equal(torch.stack(to_one).amin(0), Margin(labels)(y, y))
    assert torch.equal(to_one[0][:1], y[:1, 0] - y[:1, 1])
    with pytest.raises(InvalidInput):
        MarginTo(labels, labels)(y[:, :1], y[:, :1])


@given(logits=st.lists(st.integers(-3, 3), min_size=2, max_size=6), label=st.integers(0, 5))
def test_the_margin_is_at_most_zero_exactly_where_another_class_wins_or_ties(logits, label):
    y, label = torch.tensor([logits], dtype=torch.float32), label % len(logits)
    margin = Margin(torch.tensor([label]))(y, y).item()
    assert (margin <= 0) == any(value >= logits[label] for k, value in enumerate(logits) if k != label)
    if margin != 0:
        assert (margin < 0) == (y.argmax(1).item() != label)
    targeted = TargetedMargin(torch.tensor([label]))(y, y).item()
    assert targeted == -margin
    assert (targeted <= 0) == (logits[label] == max(logits))


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_dlr_has_the_sign_of_the_margin_and_does_not_change_with_the_logits_scale(classes):
    logits = torch.randn(30, classes, dtype=torch.float64)
    assert torch.equal(_value("dlr", logits).sign(), _value("margin", logits).sign())
    if classes > 2:
        torch.testing.assert_close(_value("dlr", 7 * logits), _value("dlr", logits), rtol=0, atol=1e-9)
        assert (_value("dlr", logits) <= 1 + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_even_where_all_logits_tie(name):
    logits = torch.zeros(2, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(_value(name, logits).sum(), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_targets_are_per_row(name):
    logits = torch.randn(6, 5)
    labels, targets = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 0, 0, 4, 2, 3])
    together = _value(name, logits, labels, targets)
    alone = torch.cat([_value(name, logits[i, None], labels[i, None], targets[i, None]) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 5, 2), (3, 5, 1, 1)])
def test_what_is_no_batch_of_logits_gives_a_sentence(name, shape):
    with pytest.raises(InvalidInput, match=r"needs logits of shape \(batch, classes >= 2\), got .*; flatten"):
        _value(name, torch.randn(shape), torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("labels", [torch.zeros(2, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64)])
def test_labels_that_do_not_match_the_rows_give_a_sentence(name, labels):
    with pytest.raises(InvalidInput, match="labels for 3 rows of logits; give one label a row"):
        _value(name, torch.randn(3, 5), labels, labels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_labels_of_another_dtype_give_a_sentence(name, dtype):
    labels = torch.zeros(3, dtype=dtype)
    with pytest.raises(InvalidInput, match="int64"):
        _value(name, torch.randn(3, 5), labels, labels)


def test_targets_are_checked_as_labels_are():
    logits, labels = torch.randn(3, 5), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(InvalidInput, match="give one label a row"):
        _value("targeted dlr", logits, labels, labels[:2])


def test_minus_turns_the_sign_and_twice_turns_it_back():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    margin = Margin(labels)
    assert isinstance(-margin, Negative)
    assert torch.equal((-margin)(logits, logits), -margin(logits, logits))
    assert torch.equal(Negative(-margin)(logits, logits), margin(logits, logits))
    assert torch.equal(Negative(lambda x, y: y[:, 0])(logits, logits), -logits[:, 0])
