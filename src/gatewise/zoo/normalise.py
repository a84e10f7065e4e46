"""Channel normalisation inside a network, so that every network takes pixels in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """`(x - mean) / std` by channel, for x (N, C, H, W).

    The constants move with the module (`.to`, `.double`) but are no part of its state dict, so that the keys stay those
    of the published files.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised images, shaped as `x`."""
        return (x - self.mean) / self.std


def normalised(module: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """The module behind a `Normalise`, in the mode that it is in; the module itself where both are None."""
    if mean is None and std is None:
        return module
    whole = nn.Sequential(Normalise(mean or (0.0,), std or (1.0,)), module)
    whole.training = module.training
    return whole
