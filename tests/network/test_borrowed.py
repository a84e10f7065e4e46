"""The user's module is borrowed: run in evaluation mode with frozen parameters, and given back as it was."""

import pytest
import torch
from torch import nn

from gatewise.errors import InvalidInput, TrainingModeWarning
from gatewise.network import view

from .networks import Lambda


@pytest.fixture
def module():
    """Every mode and flag mixed."""
    parts = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    parts.train()
    parts[1].eval()
    parts[0].weight.requires_grad_(False)
    parts[4].bias.grad = torch.ones(2)
    return parts


def _state(module):
    return (
        [part.training for part in module.modules()],
        [parameter.requires_grad for parameter in module.parameters()],
        [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        {name: tensor.clone() for name, tensor in module.state_dict().items()},
    )


def _same(before, after):
    assert before[:2] == after[:2]
    for mine, theirs in zip(before[2], after[2], strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)
    for name, tensor in before[3].items():
        assert torch.equal(tensor, after[3][name]), name


RUNS = {
    "call": lambda lens, x: lens(x),
    "plain": lambda lens, x: lens.plain(x),
    "trace": lambda lens, x: lens.trace(x),
    "pattern": lambda lens, x: lens.pattern(x),
    "gradient": lambda lens, x: lens(x.requires_grad_()).sum().backward(),
}


@pytest.mark.parametrize("run", RUNS)
def test_mode_of_every_part_parameters_flags_gradients_and_buffers_are_put_back(module, run):
    before = _state(module)
    with pytest.warns(TrainingModeWarning, match="put back afterwards"):
        RUNS[run](view(module), torch.randn(3, 4))
    _same(before, _state(module))


def test_it_runs_in_evaluation_mode_whatever_its_mode(module):
    x = torch.randn(3, 4)
    with pytest.warns(TrainingModeWarning):
        found = view(module)(x)
    assert torch.equal(found, module.eval()(x))


def test_a_module_in_evaluation_mode_gives_no_warning(module):
    view(module.eval())(torch.randn(3, 4))  # warnings are errors here


@pytest.mark.parametrize("run", ["call", "trace", "pattern"])
def test_the_module_is_put_back_after_an_exception_too(module, run):
    class Boom(Exception):
        pass

    def explode(x):
        raise Boom

    module.append(Lambda(explode))
    before = _state(module)
    with pytest.raises(Boom), pytest.warns(TrainingModeWarning):
        RUNS[run](view(module), torch.randn(3, 4))
    _same(before, _state(module))


def test_an_outer_loan_holds_over_inner_runs_and_ends_with_it(module):
    before, lens = _state(module), view(module)
    loan = lens.borrowed()
    with pytest.warns(TrainingModeWarning):
        loan.__enter__()
    lens(torch.randn(3, 4)), lens.trace(torch.randn(3, 4))  # a second warning would be an error
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    loan.__exit__(None, None, None)
    _same(before, _state(module))


def test_a_module_that_overrides_train_is_still_put_back():
    class Frozen(nn.Linear):
        def train(self, mode=True):
            raise NotImplementedError

        def eval(self):
            raise NotImplementedError

    module = Frozen(4, 2)
    with pytest.warns(TrainingModeWarning):
        view(module)(torch.randn(3, 4))
    assert module.training


def test_gradients_reach_the_input_and_not_the_parameters(module):
    x = torch.randn(3, 4, requires_grad=True)
    view(module.eval())(x).sum().backward()
    assert x.grad is not None
    assert module[0].bias.grad is None


def test_what_is_no_module_is_refused_with_a_sentence():
    with pytest.raises(InvalidInput, match=r"needs a torch\.nn\.Module, got function; wrap"):
        view(lambda x: x)
