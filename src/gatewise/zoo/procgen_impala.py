"""The residual network of IMPALA, narrow, for the screens of Procgen."""

import torch.nn.functional as F
from torch import Tensor, nn


class _ResidualBlock(nn.Module):
    """ReLU-conv-ReLU-conv, plus what came in."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class ProcgenImpala(nn.Module):
    """A policy of Procgen's games: the large network of Espeholt et al. (IMPALA, 2018, Fig. 3) for one processor core.

    Input: (N, 64, 64, 3) RGB as the environment gives it, channels last, pixels in [0, 1]. Output: logits of the 15
    actions, (N, 15).
    Layers: three stages of 16, 32, 32 channels, each Conv(kernel 3), MaxPool(3, stride 2), two residual blocks
    x + Conv(ReLU(Conv(ReLU(x)))); ReLU; flatten to 512; Linear(512, 128), ReLU; Linear(128, 15).
    Deviations: (1) the first convolution has stride 2, a sixth of the cost; (2) 128 units instead of 256; (3) no LSTM.
    Keys: `trunk.<i>`, `actions`.
    """

    input_shape = (64, 64, 3)
    features = 128

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            *self._stage(3, 16, stride=2),
            *self._stage(16, 32),
            *self._stage(32, 32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, self.features),
            nn.ReLU(),
        )
        self.actions = nn.Linear(self.features, 15)

    @staticmethod
    def _stage(channels_in: int, channels: int, stride: int = 1) -> list[nn.Module]:
        first = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1)
        return [first, nn.MaxPool2d(3, stride=2, padding=1), _ResidualBlock(channels), _ResidualBlock(channels)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 15) of screens (N, 64, 64, 3)."""
        return self.actions(self.trunk(x.permute(0, 3, 1, 2)))
