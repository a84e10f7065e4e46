"""Small networks that the tests of this folder look at through a view."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

torch.manual_seed(0)  # for the networks that test modules build while they are imported


class Lambda(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x):
        return self.function(x)


def mlp(*sizes: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs).to(dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(outputs, inputs, generator=generator, dtype=dtype) / inputs**0.5)
            linear.bias.copy_(torch.randn(outputs, generator=generator, dtype=dtype) / 2)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def matrices(network: nn.Sequential) -> tuple[list[Tensor], list[Tensor]]:
    """Weights (out, in) and biases of an `mlp`."""
    linear = [part for part in network if isinstance(part, nn.Linear)]
    return [part.weight.detach() for part in linear], [part.bias.detach() for part in linear]


def pooled(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A convolution, a leaky gate, a max-pool, a gate, a linear layer: for inputs (batch, 1, 6, 6)."""
    torch.manual_seed(0)
    front = [nn.Conv2d(1, 3, 3), nn.LeakyReLU(0.2), nn.MaxPool2d(2)]
    return nn.Sequential(*front, nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype).eval()


class Everything(nn.Module):
    """What passes between gates: residual sum, concatenation, padding, batch norm, transposed convolution, average
    pooling, reshape, dropout, a constant normalisation; for inputs (batch, 2, 6, 6), outputs (batch, 4).
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("mean", torch.tensor([0.3, -0.2])[:, None, None])
        self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.shortcut, self.wider = nn.Conv2d(2, 3, 1), nn.ConvTranspose2d(6, 2, 2, stride=2)
        self.act, self.drop, self.head = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(18, 4)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = (x - self.mean) / 0.7
        h = self.act(self.norm(self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1])))
        h = self.act(h + self.shortcut(x))
        h = self.wider(torch.cat([h, -h], dim=1))
        h = F.avg_pool2d(self.act(h), 4)
        h = self.drop(torch.stack([h, 2 * h], dim=1)).permute(0, 2, 1, 3, 4).reshape(len(x), -1)
        return self.head(h.narrow(1, 0, 18))
