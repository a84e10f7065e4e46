"""LeNet-5 for CIFAR-10, in today's form: ReLU and max-pool."""

import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.zoo.normalise import CIFAR10_MEAN, CIFAR10_STD, Normalise


class LeNet5(nn.Module):
    """LeNet-5 for 32 x 32 colour images.

    Input: (N, 3, 32, 32) RGB, pixels in [0, 1]; inside, minus (0.4914, 0.4822, 0.4465), divided by
    (0.2470, 0.2435, 0.2616). Output: logits (N, 10).
    Layers: Conv(3, 6, kernel 5), ReLU, max-pool 2, Conv(6, 16, 5), ReLU, max-pool 2, flatten to 400, Linear(400, 120),
    ReLU, Linear(120, 84), ReLU, Linear(84, 10). Keys `conv1, conv2, fc1, fc2, fc3`.
    """

    input_shape = (3, 32, 32)

    def __init__(self):
        super().__init__()
        self.normalise = Normalise(CIFAR10_MEAN, CIFAR10_STD)
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 32, 32)."""
        h = F.max_pool2d(F.relu(self.conv1(self.normalise(x))), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        h = F.relu(self.fc2(F.relu(self.fc1(h.flatten(1)))))
        return self.fc3(h)
