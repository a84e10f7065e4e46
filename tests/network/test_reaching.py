"""The reaching gate: the network's own output, with a gradient that feels near gates move."""

import math

import pytest
import torch
import torch.nn.functional as F

from gatewise.network import Reaching, view

from .networks import Lambda, pooled

RELU, LEAKY = Lambda(F.relu), Lambda(lambda x: F.leaky_relu(x, 0.2))
Z = torch.linspace(-3, 3, 60, dtype=torch.float64)[None]


def _gradient(gate, deviation):
    z = Z.clone().requires_grad_()
    output = view(gate).trace(z, Reaching([deviation])).output
    return output, torch.autograd.grad(output.sum(), z)[0]


@pytest.mark.parametrize(("gate", "slope"), [(RELU, 0.0), (LEAKY, 0.2)], ids=["relu", "leaky"])
def test_the_output_is_the_gates_and_the_gradient_that_of_phi_of_z_over_s_times_z(gate, slope):
    s = torch.full_like(Z, 0.7)
    output, gradient = _gradient(gate, s)
    assert torch.equal(output, gate(Z))
    z = Z.clone().requires_grad_()
    relaxed = 0.5 * (1 + torch.erf(z / (0.7 * math.sqrt(2)))) * z
    (expected,) = torch.autograd.grad((slope * z + (1 - slope) * relaxed).sum(), z)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("gate", "slope"), [(RELU, 0.0), (LEAKY, 0.2)], ids=["relu", "leaky"])
@pytest.mark.parametrize("s", [0.0, 1e-300, 1e-3])
def test_with_no_reach_the_gradient_is_the_gates_own(gate, slope, s):
    _, gradient = _gradient(gate, torch.full_like(Z, s))
    torch.testing.assert_close(gradient, torch.where(Z > 0, torch.ones_like(Z), slope), rtol=0, atol=1e-12)


def test_on_its_hyperplane_with_no_reach_the_gradient_is_finite():
    z = torch.zeros(1, 3, requires_grad=True)
    output = view(RELU).trace(z, Reaching([torch.zeros(1, 3)])).output
    assert torch.autograd.grad(output.sum(), z)[0].isfinite().all()


def test_a_network_with_pools_keeps_its_output_bit_for_bit():
    network, x = pooled(), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    ones = torch.ones(1, dtype=torch.float64)
    assert torch.equal(view(network).trace(x, Reaching([ones, None, ones])).output, network(x))
