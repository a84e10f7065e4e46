"""Fully connected networks for MNIST, of any depth and width."""

import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from gatewise.errors import InvalidInput


class MnistMlp(nn.Sequential):
    """Linear layers with ReLU between them.

    Input: (N, 1, 28, 28) or (N, 784), pixels in [0, 1], flattened row by row, not normalised. Output: logits (N, 10).
    Keys `0, 2, 4, …` (the odd places are the ReLUs).

    Args:
        sizes: the width of every layer from input to output, such as (784, 50, 15, 10).
    """

    input_shape = (1, 28, 28)

    def __init__(self, sizes: Sequence[int]):
        layers: list[nn.Module] = []
        for width_in, width in itertools.pairwise(sizes):
            layers += [nn.Linear(width_in, width), nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, input: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 28, 28) or (N, 784)."""
        return super().forward(input.flatten(1))


def sizes_in(weights: Mapping[str, Tensor] | None) -> tuple[int, ...]:
    """The layer widths of the network that `weights` belongs to: `0.weight` (out, in), `2.weight`, ….

    Raises:
        InvalidInput: without weights, or when they are not those of linear layers that fit each other and take 784
            pixels.
    """
    if weights is None:
        raise InvalidInput("zoo:mnist-mlp reads its layer sizes from its weights, so it needs --weights FILE.")
    layers: list[Tensor] = []
    while (layer := weights.get(f"{2 * len(layers)}.weight")) is not None:
        layers.append(layer)
    sizes = [784]
    for layer in layers:
        if layer.ndim == 2 and layer.shape[1] == sizes[-1]:
            sizes.append(layer.shape[0])
    if not layers or len(sizes) != len(layers) + 1:
        found = ", ".join(f"{2 * i}.weight {tuple(layer.shape)}" for i, layer in enumerate(layers)) or "none of them"
        raise InvalidInput(
            "The weights of zoo:mnist-mlp must be matrices 0.weight (width, 784), 2.weight, 4.weight, … in which each "
            f"layer takes what the one before it gives; the file has {found}."
        )
    return tuple(sizes)
