"""Train a small convolutional network on scikit-learn's digits, then attack it by four methods at equal budget.

Run by `make demo`; also importable, so that the command line can name the network: from this folder,
`gatewise attack --model digits:network --data digits --radius 0.15`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from gatewise.applications import classifier_attack
from gatewise.readers import read_images

OUT = Path("out/demo")


def network() -> nn.Module:
    """Images (N, 1, 8, 8) in [0, 1] to ten logits: two convolutions, max-pool, a leaky gate."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.LeakyReLU(0.05),
        nn.Linear(64, 10),
    ).eval()


def train(epochs: int = 25, noise: float = 0.1) -> nn.Module:
    """The network, trained on the first 1,500 digits with a little noise."""
    torch.manual_seed(0)
    data = read_images("digits", count=1500)
    module = network().train()
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.labels)).split(100):
            images = (data.images[rows] + noise * torch.randn_like(data.images[rows])).clamp(0, 1)
            loss = nn.functional.cross_entropy(module(images), data.labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return module.eval()


def main() -> None:
    """Train, save, attack the digits that were not trained on."""
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(train().state_dict(), OUT / "digits.safetensors")
    rows = OUT / "rows.csv"
    rows.write_text("index\n" + "\n".join(str(row) for row in range(1500, 1700)) + "\n")
    classifier_attack.run(
        classifier_attack.Config(
            model="examples.digits:network",
            weights=str(OUT / "digits.safetensors"),
            data="digits",
            indices=str(rows),
            radius=0.15,
            method=("pgd:preset=fgsm", "pgd", "apgd", "adr-gd:step_size=0.2"),
            budget=60,
            full_budget=True,
            out=str(OUT),
        )
    )
    print(f"\nPictures: {OUT / 'gallery.png'}   points: {OUT / 'points.safetensors'}   numbers: {OUT / 'summary.json'}")


if __name__ == "__main__":
    main()
