"""The MNIST network of ADR-GD's authors."""

from torch import Tensor, nn


class AdrMnistCnn(nn.Module):
    """Three convolutions and two linear layers: Yu & Gao's MNIST CNN, 8,396 gates.

    Input: (N, 1, 28, 28), pixels in [0, 1], not normalised. Output: logits (N, 10).
    Layers: Conv(1, 8, kernel 10), Conv(8, 32, 8), Conv(32, 32, 8), each with ReLU, stride 1, no padding (28 to 19 to 12
    to 5); flatten to 800; Linear(800, 100), ReLU, Linear(100, 10).
    Keys as in the authors' files (hoy021/ADR-GD): `ConvLayers.0/2/4`, `fc_layer.0/2`.
    """

    input_shape = (1, 28, 28)

    def __init__(self):
        super().__init__()
        self.ConvLayers = nn.Sequential(
            nn.Conv2d(1, 8, 10),
            nn.ReLU(),
            nn.Conv2d(8, 32, 8),
            nn.ReLU(),
            nn.Conv2d(32, 32, 8),
            nn.ReLU(),
        )
        self.fc_layer = nn.Sequential(nn.Linear(800, 100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 28, 28)."""
        return self.fc_layer(self.ConvLayers(x).flatten(1))
