"""Every spelling of a gate is met as a gate, and the run gives what the module gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gatewise.network import Fixed, view

from .networks import Lambda, mlp


def _ignored(overwrite):
    """`overwrite` works in place and its return value is thrown away."""

    def forward(x):
        z = x * 1.0
        overwrite(z)
        return z

    return forward


RELU = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu(inplace)": lambda x: F.relu(x * 1.0, inplace=True),
    "F.relu(positional inplace)": lambda x: F.relu(x * 1.0, True),
    "F.relu_": lambda x: F.relu_(x * 1.0),
    "torch.relu": torch.relu,
    "torch.relu(input=)": lambda x: torch.relu(input=x),
    "torch.relu_": lambda x: torch.relu_(x * 1.0),
    "method": lambda x: x.relu(),
    "method_": lambda x: (x * 1.0).relu_(),
    "aten.relu": torch.ops.aten.relu.default,
    "aten.relu_": lambda x: torch.ops.aten.relu_.default(x * 1.0),
    "aten packet": torch.ops.aten.relu,
    "ignored nn.ReLU": _ignored(nn.ReLU(inplace=True)),
    "ignored F.relu": _ignored(lambda z: F.relu(z, inplace=True)),
    "ignored torch.relu_": _ignored(torch.relu_),
    "ignored method_": _ignored(lambda z: z.relu_()),
    "ignored aten": _ignored(torch.ops.aten.relu_.default),
    "ignored slice": _ignored(lambda z: z[:, :].relu_()),
}

OTHER_SWITCHES = {  # each with the number of switches that it is made of
    "nn.LeakyReLU": (nn.LeakyReLU(0.3), 1),
    "nn.LeakyReLU(inplace)": (_ignored(nn.LeakyReLU(0.3, inplace=True)), 1),
    "F.leaky_relu": (lambda x: F.leaky_relu(x, 0.3), 1),
    "F.leaky_relu_": (_ignored(lambda z: F.leaky_relu_(z, negative_slope=0.3)), 1),
    "aten.leaky_relu_": (_ignored(lambda z: torch.ops.aten.leaky_relu_.default(z, 0.3)), 1),
    "nn.PReLU": (nn.PReLU(init=0.3).double(), 1),
    "nn.PReLU(channels)": (nn.PReLU(6).double(), 1),
    "torch.prelu": (lambda x: torch.prelu(x, torch.tensor(0.3, dtype=x.dtype)), 1),
    "aten.prelu": (lambda x: torch.ops.aten.prelu.default(x, torch.full((6,), 0.3, dtype=x.dtype)), 1),
    "nn.RReLU": (nn.RReLU(), 1),
    "F.rrelu_": (_ignored(F.rrelu_), 1),
    "nn.ReLU6": (nn.ReLU6(), 2),
    "nn.ReLU6(inplace)": (_ignored(nn.ReLU6(inplace=True)), 2),
    "F.relu6": (F.relu6, 2),
    "nn.Hardtanh": (nn.Hardtanh(-0.5, 1.5), 2),
    "nn.Hardtanh(inplace)": (_ignored(nn.Hardtanh(inplace=True)), 2),
    "F.hardtanh_": (_ignored(lambda z: F.hardtanh_(z, 0.0, 0.7)), 2),
    "aten.hardtanh": (lambda x: torch.ops.aten.hardtanh.default(x, 0.0, 0.5), 2),
    "aten.hardtanh_": (_ignored(lambda z: torch.ops.aten.hardtanh_.default(z, 0.0, 0.5)), 2),
    "nn.Hardsigmoid": (nn.Hardsigmoid(), 2),
    "torch.clamp": (lambda x: torch.clamp(x, -0.5, 0.5), 2),
    "torch.clamp(input=)": (lambda x: torch.clamp(input=x, min=-0.5, max=0.5), 2),
    "clamp(min=)": (lambda x: x.clamp(min=0), 1),
    "clamp(max=)": (lambda x: x.clamp(max=0.5), 1),
    "clamp_": (_ignored(lambda z: z.clamp_(-0.5, 0.5)), 2),
    "clip": (lambda x: x.clip(-0.5, 0.5), 2),
    "torch.clip_": (_ignored(lambda z: torch.clip_(z, 0.0, 0.5)), 2),
    "clamp_min": (lambda x: x.clamp_min(0.1), 1),
    "clamp_max_": (_ignored(lambda z: z.clamp_max_(0.1)), 1),
    "aten.clamp_min": (lambda x: torch.ops.aten.clamp_min.default(x, 0.0), 1),
    "clamp with tensors": (lambda x: x.clamp(torch.full_like(x, -0.3), torch.full_like(x, 0.4)), 2),
    "nn.Threshold": (nn.Threshold(0.2, 0.2), 1),
    "F.threshold_": (_ignored(lambda z: F.threshold_(z, 0.2, 0.2)), 1),
    "torch.abs": (torch.abs, 1),
    "abs()": (abs, 1),
    "abs_": (_ignored(lambda z: z.abs_()), 1),
    "torch.maximum": (lambda x: torch.maximum(x, 0.1 - x), 1),
    "torch.minimum": (lambda x: torch.minimum(x, 0.1 - x), 1),
    "torch.max of two": (lambda x: torch.max(x, torch.zeros_like(x)), 1),
    "torch.min of two": (lambda x: x.min(0.1 - x), 1),
}

_IMAGE = (2, 2, 6, 6)
POOLS = {
    "nn.MaxPool1d": (nn.MaxPool1d(2), (3, 2, 6)),
    "nn.MaxPool2d": (nn.MaxPool2d(2), _IMAGE),
    "nn.MaxPool2d(overlapping)": (nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), _IMAGE),
    "nn.MaxPool2d(dilated)": (nn.MaxPool2d(2, stride=1, dilation=2), _IMAGE),
    "nn.MaxPool3d": (nn.MaxPool3d(2), (2, 1, 4, 4, 4)),
    "F.max_pool2d": (lambda x: F.max_pool2d(x, (2, 3), stride=(1, 2)), _IMAGE),
    "F.max_pool2d(return_indices)": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], _IMAGE),
    "torch.max_pool2d": (lambda x: torch.max_pool2d(x, 2), _IMAGE),
    "torch.max_pool1d": (lambda x: torch.max_pool1d(x, 3), (3, 2, 6)),
    "aten.max_pool2d": (lambda x: torch.ops.aten.max_pool2d.default(x, [2, 2], [2, 2]), _IMAGE),
    "aten.max_pool2d without stride": (lambda x: torch.ops.aten.max_pool2d.default(x, [2, 2]), _IMAGE),
    "aten.max_pool2d_with_indices": (
        lambda x: torch.ops.aten.max_pool2d_with_indices.default(x, [3, 3], [2, 2], [1, 1])[0],
        _IMAGE,
    ),
    "nn.AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d((3, 2)), _IMAGE),
    "F.adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 2), (3, 2, 6)),
    "torch.adaptive_max_pool1d": (lambda x: torch.adaptive_max_pool1d(x, 2)[0], (3, 2, 6)),
    "aten.adaptive_max_pool2d": (lambda x: torch.ops.aten.adaptive_max_pool2d.default(x, [3, 2])[0], _IMAGE),
}


def _module(spelling):
    return (spelling if isinstance(spelling, nn.Module) else Lambda(spelling)).eval()


def _points(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", RELU)
def test_a_relu_in_any_spelling_is_one_switch_and_runs_bit_for_bit(name):
    module, x = _module(RELU[name]), _points(4, 6)
    trace = view(module).trace(x)
    assert len(trace.gates) == 1
    assert trace.switches == (0,)
    assert trace.gates[0].slope == 0
    assert torch.equal(trace.preactivations[0], x), "the pre-activation is what went in, not what came out"
    assert torch.equal(trace.output, x.clamp(min=0))
    assert torch.equal(trace.output, module(x.clone()))


@pytest.mark.parametrize("name", OTHER_SWITCHES)
def test_other_elementwise_gates_are_switches(name):
    spelling, switches = OTHER_SWITCHES[name]
    module, x = _module(spelling), _points(4, 6)
    trace = view(module).trace(x)
    assert len(trace.switches) == len(trace.gates) == switches
    torch.testing.assert_close(trace.output, module(x), rtol=0, atol=1e-6)
    if "elu" in name.lower() and "6" not in name:
        assert torch.equal(trace.output, module(x))


@pytest.mark.parametrize("name", POOLS)
def test_max_pools_are_choices_and_run_bit_for_bit(name):
    spelling, shape = POOLS[name]
    module, x = _module(spelling), _points(*shape)
    trace = view(module).trace(x)
    assert len(trace.gates) == 1
    assert trace.switches == ()
    assert torch.equal(trace.output, module(x))
    held = view(module).trace(x, Fixed(trace.pattern()))
    assert torch.equal(held.output, module(x))


@pytest.mark.parametrize("name", [*RELU, *OTHER_SWITCHES, *POOLS])
def test_gradients_through_a_traced_gate_are_the_modules(name):
    spelling, shape = POOLS.get(name, (None, (4, 6)))
    spelling = spelling or RELU.get(name) or OTHER_SWITCHES[name][0]
    module = _module(spelling).requires_grad_(False)
    x = _points(*shape).requires_grad_()
    (plain,) = torch.autograd.grad(module(x * 1.0).sum(), x)
    (traced,) = torch.autograd.grad(view(module).trace(x).output.sum(), x)
    torch.testing.assert_close(traced, plain, rtol=0, atol=1e-7)  # PyTorch's hardsigmoid has 1/6 in float32


def test_a_module_used_three_times_is_three_gates():
    act, linear = nn.ReLU(), nn.Linear(6, 6)
    module = Lambda(lambda x: act(linear(act(linear(act(x))))))
    trace = view(module).trace(torch.randn(2, 6))
    assert len(trace.gates) == 3


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x[:, torch.arange(9).clamp(max=2)],
        lambda x: x.max(dim=1).values,
        lambda x: x.max(1).values,
        lambda x: x / x.detach().max(),
        lambda x: torch.where(condition=x > 0, input=x, other=x),
        lambda x: F.dropout(input=x, training=False),
    ],
    ids=["integers", "max(dim=1)", "max(1)", "max()", "where(input=)", "dropout(input=)"],
)
def test_calls_that_only_look_like_gates_are_left_alone(forward):
    module, x = Lambda(forward), torch.randn(2, 6)
    trace = view(module).trace(x)
    assert trace.gates == ()
    assert torch.equal(trace.output, module(x))


def test_the_input_is_not_overwritten_by_an_in_place_first_gate():
    x = torch.randn(3, 5)
    before = x.clone()
    lens = view(Lambda(lambda z: z.relu_()))
    lens(x), lens.trace(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_network_runs_bit_for_bit_in_its_own_dtype(dtype):
    module = mlp(6, 9, 7, 3, dtype=dtype)
    x = torch.randn(5, 6, dtype=dtype)
    trace = view(module).trace(x)
    assert trace.output.dtype is dtype
    assert torch.equal(trace.output, module(x))
