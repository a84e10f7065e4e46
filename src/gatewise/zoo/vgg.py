"""VGG with batch norm for 32 x 32 images: the convolutions of Simonyan & Zisserman (2015) and one linear head."""

from torch import Tensor, nn

from gatewise.zoo.normalise import CIFAR10_MEAN, CIFAR10_STD, Normalise

_CONVOLUTIONS_PER_STAGE = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class Vgg(nn.Module):
    """VGG-11, -16 or -19 with batch norm for CIFAR-10.

    Input: (N, 3, 32, 32) RGB, pixels in [0, 1]; inside, minus (0.4914, 0.4822, 0.4465), divided by
    (0.2470, 0.2435, 0.2616). Output: logits (N, 10).
    Layers: five stages of Conv(kernel 3, padding 1), batch norm, ReLU with 64, 128, 256, 512, 512 channels, each stage
    ending in a max-pool 2; Linear(512, 10). Keys `features.<i>` (counting ReLUs and pools) and `classifier`.

    Args:
        depth: 11, 16 or 19, the number of layers with weights in the original.
    """

    input_shape = (3, 32, 32)

    def __init__(self, depth: int):
        super().__init__()
        self.normalise = Normalise(CIFAR10_MEAN, CIFAR10_STD)
        layers: list[nn.Module] = []
        before = 3
        for channels, convolutions in zip((64, 128, 256, 512, 512), _CONVOLUTIONS_PER_STAGE[depth], strict=True):
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 32, 32)."""
        return self.classifier(self.features(self.normalise(x)).flatten(1))
