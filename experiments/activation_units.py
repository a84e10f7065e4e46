"""VGG with the values of each activation in a unit of its own, so that ADMM, which weighs all constraints alike, weighs
those of each activation by its unit to the minus second power.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from gatewise.objectives import ObjectiveFunction
from gatewise.zoo import Vgg


def in_units(module: nn.Module, units: Sequence[float]) -> nn.Sequential:
    """The same function as the `Vgg`'s, with batch norm folded into the convolutions and the outputs of convolution i,
    and of the ReLU and the pool after it, divided by units[i]. Logits stay as they are.
    """
    vgg, left, before = cast(Vgg, module), iter(units), 1.0
    layers: list[nn.Module] = [vgg.normalise]
    features = list(vgg.features)
    for layer, following in zip(features, [*features[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            unit = next(left)
            fused = nn.utils.fuse_conv_bn_eval(layer, cast(nn.BatchNorm2d, following))
            fused.weight.data *= before / unit
            cast(Tensor, fused.bias).data /= unit
            layers.append(fused)
            before = unit
        elif not isinstance(layer, nn.BatchNorm2d):
            layers.append(layer)
    last = nn.Linear(vgg.classifier.in_features, vgg.classifier.out_features)
    last.weight.data, last.bias.data = vgg.classifier.weight.detach() * before, vgg.classifier.bias.detach()
    return nn.Sequential(*layers, nn.Flatten(), last).eval().requires_grad_(False)


def measured_units(module: nn.Module, x: Tensor, objective: ObjectiveFunction) -> list[float]:
    """Roots of pre-activations over adjoints (2-norms over all rows of `x`), in units of the logits': with them the
    weight of each activation is as large beside its adjoints as the others'. One forward and one backward pass.
    """
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in module.modules())
    values, value = [], x.clone().requires_grad_()
    for layer in in_units(module, [1.0] * convolutions):
        value = layer(value)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            values.append(value)
    adjoints = torch.autograd.grad(objective(x, value).sum(), values)
    squares = [float(p.detach().norm() / adjoint.norm()) for p, adjoint in zip(values, adjoints, strict=True)]
    return [(square / squares[-1]) ** 0.5 for square in squares[:-1]]
