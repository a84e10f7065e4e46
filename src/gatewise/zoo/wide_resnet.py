"""Wide ResNet-50-2 for ImageNet (Zagoruyko & Komodakis 2016), with torchvision's layout and key names."""

import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.zoo.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise


class _Bottleneck(nn.Module):
    """1x1, 3x3 (twice as wide as in ResNet-50, carrying the stride) and 1x1 convolutions, plus the shortcut."""

    def __init__(self, channels_in: int, width: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        nn.init.constant_(self.bn3.weight, 0.25)  # without weights: keeps the sums of random branches in scale
        self.downsample = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn3(self.conv3(h)) + shortcut)


class WideResNet50(nn.Module):
    """Wide ResNet-50-2, 1,000 classes of ImageNet-1k.

    Input: (N, 3, 224, 224) RGB (other sizes work: the last pool is global), pixels in [0, 1]; inside, minus
    (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225). Output: logits (N, 1000).
    Keys as in torchvision's `wide_resnet50_2`, whose files load as they are.
    """

    input_shape = (3, 224, 224)

    def __init__(self):
        super().__init__()
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self._stage(3, 64, 128, 256, stride=1)
        self.layer2 = self._stage(4, 256, 256, 512, stride=2)
        self.layer3 = self._stage(6, 512, 512, 1024, stride=2)
        self.layer4 = self._stage(3, 1024, 1024, 2048, stride=2)
        self.fc = nn.Linear(2048, 1000)

    @staticmethod
    def _stage(blocks: int, channels_in: int, width: int, channels: int, stride: int) -> nn.Sequential:
        later = [_Bottleneck(channels, width, channels, 1) for _ in range(blocks - 1)]
        return nn.Sequential(_Bottleneck(channels_in, width, channels, stride), *later)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1000) of images (N, 3, H, W)."""
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(self.normalise(x)))), 3, stride=2, padding=1)
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return self.fc(h.mean((2, 3)))
