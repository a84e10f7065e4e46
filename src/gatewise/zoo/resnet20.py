"""ResNet-20 for CIFAR-10, with parameter-free shortcuts (option A of He et al. 2016)."""

import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.zoo.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise


class _BasicBlock(nn.Module):
    """conv-bn-ReLU-conv-bn, plus the shortcut, ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        nn.init.constant_(self.bn2.weight, 0.25)  # without weights: keeps the sums of random branches in scale
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        # Option A: every second pixel, and zero channels for the new ones, half of them on each side.
        new = x.shape[1] // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, new, new))


class Cifar10ResNet20(nn.Module):
    """ResNet-20 for CIFAR-10, plainly trained.

    Input: (N, 3, 32, 32) RGB, pixels in [0, 1]; inside, minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225).
    Output: logits (N, 10).
    Layers: Conv(3, 16, kernel 3), batch norm, ReLU; three stages of 3 basic blocks with 16, 32, 64 channels (stages 2
    and 3 start with stride 2, option A shortcuts); global average; Linear(64, 10).
    Keys as in akamaster/pytorch_resnet_cifar10: `conv1, bn1, layer1-3.<i>.conv1/bn1/conv2/bn2, linear`.
    """

    input_shape = (3, 32, 32)

    def __init__(self):
        super().__init__()
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, stride=1)
        self.layer2 = self._stage(16, 32, stride=2)
        self.layer3 = self._stage(32, 64, stride=2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
        later = [_BasicBlock(channels, channels, 1) for _ in range(2)]
        return nn.Sequential(_BasicBlock(channels_in, channels, stride), *later)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 32, 32)."""
        h = F.relu(self.bn1(self.conv1(self.normalise(x))))
        h = self.layer3(self.layer2(self.layer1(h)))
        return self.linear(h.mean((2, 3)))
