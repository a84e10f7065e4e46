"""Settings: frozen, keyword-only, checked with a sentence; presets by name; steps that the budget pays for."""

import dataclasses

import pytest
import torch

from gatewise import methods
from gatewise.errors import InvalidInput
from gatewise.methods import (
    ActivationDescent,
    Admm,
    CrossEntropyMethod,
    LocalMilp,
    Method,
    ProjectedGradient,
    RandomSearch,
    RegionWalk,
    Start,
)
from gatewise.methods.base import cosine_decay
from gatewise.streams import RowStreams

KINDS = [
    kind
    for kind in (getattr(methods, name) for name in methods.__all__)
    if isinstance(kind, type) and issubclass(kind, Method) and kind is not Method
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@every_kind
def test_every_setting_has_a_default_and_is_given_by_name(kind):
    assert kind() == kind()
    with pytest.raises(TypeError):
        kind(0.5)


@every_kind
def test_settings_are_frozen(kind):
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().step_size = 3.0


@every_kind
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_a_step_that_is_no_positive_number_gives_a_sentence(kind, value):
    lengths = {LocalMilp: "radius", RegionWalk: "radius", Admm: "rho"}  # in a region; of the constraints
    lengths |= {CrossEntropyMethod: "width", RandomSearch: "steps"}  # of the draws; it has none
    length = lengths.get(kind, "step_size")
    with pytest.raises(InvalidInput, match=f"{length} must be a positive number, got {value}"):
        kind(**{length: value})


@every_kind
def test_a_number_of_steps_below_one_gives_a_sentence(kind):
    with pytest.raises(InvalidInput, match="steps must be a positive number, got 0"):
        kind(steps=0)


@every_kind
def test_every_preset_can_be_built_and_changed(kind):
    for name in kind.presets:
        assert isinstance(kind.preset(name), kind)
        assert kind.preset(name, step_size=0.123).step_size == 0.123


def test_an_unknown_preset_gives_a_sentence_that_names_those_there_are():
    with pytest.raises(InvalidInput, match="adr-gd has no preset 'minst'; there are: mnist, cifar10"):
        ActivationDescent.preset("minst")
    with pytest.raises(InvalidInput, match="adagrad has no preset 'x'; there are: none"):
        methods.Adagrad.preset("x")


@pytest.mark.parametrize(
    ("wanted", "budget", "cost", "steps"),
    [
        (None, None, 1, 100),
        (None, 20, 1, 20),
        (None, 20, 2, 10),
        (None, 1, 2, 1),
        (7, None, 2, 7),
        (7, 4, 1, 4),
        (3, 9, 1, 3),
    ],
)
def test_steps_are_the_methods_own_but_no_more_than_the_budget_pays_for(wanted, budget, cost, steps):
    start = Start(torch.zeros(1, 2), budget, RowStreams(0, [0]))
    assert start.steps(wanted, cost) == steps


def test_the_cosine_falls_from_one_to_zero():
    decay = [cosine_decay(step, 10) for step in range(11)]
    assert decay[0] == 1
    assert decay[-1] == pytest.approx(0, abs=1e-15)
    assert decay[5] == pytest.approx(0.5)
    assert decay == sorted(decay, reverse=True)


def test_fgsm_is_a_preset():
    assert ProjectedGradient.preset("fgsm").steps == 1
