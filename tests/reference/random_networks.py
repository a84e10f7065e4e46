"""The random networks of Yu & Gao (ICML 2024), Section 6.4: several of them solved as the rows of one batch.

Each network is drawn with numpy's legacy generator, seeded by its number: for each layer [in, out] in order, first the
weight (in, out), then the bias (out,), each as `p = uniform(0, 1, shape)`, then `w = uniform(0, 1, shape)`, negated
where p > 0.5. A layer is `h @ W + b`, with ReLU between layers.
"""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

LAYERS = {
    "A": [(10, 64), (64, 64), (64, 1)],
    "B": [(10, 500), (500, 500), (500, 500), (500, 1)],
    "C": [(128, 500), (500, 500), (500, 500), (500, 1)],
}
TABLE = Path(__file__).with_name("adr_gd_random_nets.csv")


def drawn(model: str, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight (in, out) and bias (out,) of each layer, in float64."""
    random = np.random.RandomState(seed)

    def draw(shape):
        negative, size = random.uniform(0, 1, shape) > 0.5, random.uniform(0, 1, shape)
        return np.where(negative, -size, size)

    return [(draw(layer), draw(layer[1:])) for layer in LAYERS[model]]


class RandomNetworks(nn.Module):
    """Row i of a batch goes through network i modulo their number, so the batch is a multiple of that number."""

    def __init__(self, model: str, seeds, dtype: torch.dtype = torch.float32):
        super().__init__()
        networks = [drawn(model, seed) for seed in seeds]
        for layer in range(len(LAYERS[model])):
            for kind, name in enumerate(("weight", "bias")):
                stacked = torch.tensor(np.stack([network[layer][kind] for network in networks])).to(dtype)
                self.register_buffer(f"{name}{layer}", stacked)
        self.count, self.layers = len(networks), len(LAYERS[model])
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n) to (batch, 1)."""
        h = x
        for layer in range(self.layers):
            weight, bias = getattr(self, f"weight{layer}"), getattr(self, f"bias{layer}")
            by_network = h.view(-1, self.count, h.shape[-1]).transpose(0, 1)
            h = torch.baddbmm(bias[:, None], by_network, weight).transpose(0, 1).reshape(len(x), -1)
            h = h.relu() if layer < self.layers - 1 else h
        return h


def published(model: str, column: str, seeds) -> list[float]:
    """What the authors' released code reached (shared/reference, T = 3000)."""
    with TABLE.open(newline="") as file:
        rows = {int(row["seed"]): float(row[column]) for row in csv.DictReader(file) if row["model"] == model}
    return [rows[seed] for seed in seeds]
