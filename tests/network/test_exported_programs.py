"""Programs of `torch.export`: their aten overloads are gates, and a fixed batch size is kept."""

import warnings

import pytest
import torch
from torch import nn

from gatewise.network import Fixed, NetworkView, require_piecewise_linear, view

BATCH = 4


class Gates(nn.Module):
    """A gate of every kind that an exported program spells as an aten overload; for inputs (batch, 1, 6, 6)."""

    def __init__(self, third: nn.Module):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu, self.leaky, self.third = nn.ReLU(inplace=True), nn.LeakyReLU(0.2, inplace=True), third
        self.six, self.tanh = nn.ReLU6(inplace=True), nn.Hardtanh(-0.5, 0.5)
        self.pool, self.adaptive = nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(2)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        h = self.relu(self.norm(self.conv(x)))
        h = self.pool(self.leaky(h - 0.2))
        h = self.six(self.third(h - 0.3) + 0.1)
        h = self.adaptive(self.tanh(h - 0.4))
        return self.head(h.flatten(1))


GATES = 9  # relu, leaky, [pool], third, relu6 (2), hardtanh (2), [adaptive pool]


def _export(module, batch, *, decomposed=False):
    example = torch.randn(batch, 1, 6, 6, dtype=torch.float64)
    program = torch.export.export(module, (example,))
    if decomposed:
        with warnings.catch_warnings():  # torch 2.13 trips over its own deprecation of LeafSpec here
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            program = program.run_decompositions()
    return program.module()


@pytest.fixture(scope="module", params=["as exported", "decomposed"])
def pair(request):
    """A module and its exported program. (Core aten has no prelu: decomposed, it would be no gate any more.)"""
    torch.manual_seed(0)
    decomposed = request.param == "decomposed"
    module = Gates(nn.LeakyReLU(0.1) if decomposed else nn.PReLU(3)).double().eval()
    return module, _export(module, BATCH, decomposed=decomposed)


@pytest.fixture
def original(pair):
    return pair[0]


@pytest.fixture
def exported(pair):
    return pair[1]


def test_every_aten_gate_is_met(original, exported):
    x = torch.randn(BATCH, 1, 6, 6, dtype=torch.float64)
    plain, through_aten = view(original).trace(x), view(exported).trace(x)
    assert len(through_aten.gates) == len(plain.gates) == GATES
    assert through_aten.switches == plain.switches
    for mine, theirs in zip(through_aten.preactivations, plain.preactivations, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(through_aten.output, exported(x), rtol=0, atol=1e-12)


def test_an_exported_program_is_piecewise_linear_and_held_by_its_pattern(exported):
    x = torch.randn(BATCH, 1, 6, 6, dtype=torch.float64)
    lens = view(exported)
    require_piecewise_linear(lens, x)
    torch.testing.assert_close(lens.trace(x, Fixed(lens.pattern(x))).output, exported(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 8, 9])
def test_any_batch_runs_through_a_program_of_fixed_batch(original, exported, rows):
    x = torch.randn(rows, 1, 6, 6, dtype=torch.float64)
    lens, expected = NetworkView(exported, rows_per_run=BATCH), original(x)
    torch.testing.assert_close(lens(x), expected, rtol=0, atol=1e-12)
    trace = lens.trace(x)
    torch.testing.assert_close(trace.output, expected, rtol=0, atol=1e-12)
    whole = view(original).trace(x)
    for mine, theirs in zip(trace.preactivations, whole.preactivations, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    held = lens.trace(x, Fixed(trace.pattern()))
    torch.testing.assert_close(held.output, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 6])
def test_rows_that_fill_a_piece_up_are_not_counted_and_take_no_gradient(original, exported, rows):
    x = torch.randn(rows, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    lens = NetworkView(exported, rows_per_run=BATCH)
    (gradient,) = torch.autograd.grad(lens(x).square().sum(), x)
    (expected,) = torch.autograd.grad(original(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    assert (lens.meter.forwards, lens.meter.backwards) == (rows, rows)


def test_a_module_may_state_its_own_batch_size(original):
    class Refusing(nn.Module):
        rows_per_run = BATCH

        def __init__(self):
            super().__init__()
            self.inner = original
            self.eval()

        def forward(self, x):
            assert len(x) == BATCH
            return self.inner(x)

    x = torch.randn(6, 1, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(view(Refusing())(x), original(x), rtol=0, atol=1e-12)


def test_an_exported_program_counts_as_in_evaluation_mode(exported):
    view(exported)(torch.zeros(BATCH, 1, 6, 6, dtype=torch.float64))  # a TrainingModeWarning would be an error
