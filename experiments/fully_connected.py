"""Train the fully connected networks of Croce & Hein (GCPR 2018, Table 2) that no one hands out.

`10x1024` for MNIST, and one hidden layer of 1,024 for GTSRB and CIFAR-10 (`gtsrb-1x1024`, `cifar10-1x1024`) on the
parts of the training sets in GATEWISE_DATA; layers of the paper's sizes, pixels in [0, 1], Adam, cosine schedule,
weights drawn as by He et al. (2015). `nearest_large.py` reads them from the folder.

Run by: .venv/bin/python experiments/fully_connected.py --out out/fully_connected [--only 10x1024] [--quick]
The last line printed is one JSON object: accuracy by network.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from gatewise.readers import Images, read_images, read_weights
from gatewise.training import train
from gatewise.zoo.mnist_mlp import MnistMlp

# Data set, layer widths, epochs.
NETWORKS = {
    "gtsrb-1x1024": ("gtsrb", (3072, 1024, 43), 30),
    "cifar10-1x1024": ("cifar10", (3072, 1024, 10), 20),
    "10x1024": ("mnist", (784, *[1024] * 10, 10), 4),
}


def trained(name: str, *, quick: bool = False) -> tuple[MnistMlp, float]:
    """The network, trained from seed 0, and its accuracy on the test images."""
    data, sizes, epochs = NETWORKS[name]
    learn, test = (read_images(f"{data}:{part}", count=64 if quick else None) for part in ("train", "test"))
    torch.manual_seed(0)
    module = MnistMlp(sizes)
    for layer in module:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    assert learn.labels is not None
    train(
        module, learn.images, learn.labels, epochs=1 if quick else epochs, batch=128, optimiser="adam",
        rate=3e-4, weight_decay=1e-4, progress=not quick,
    )  # fmt: skip
    return module.eval().requires_grad_(False), accuracy(module, test)


def reopened(name: str, folder: Path) -> MnistMlp:
    """The network as it was saved in the folder; ends the program with one sentence where it was not."""
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        sys.exit(f"There is no {file}; train it by: python experiments/fully_connected.py --only {name} --out {folder}")
    module = MnistMlp(NETWORKS[name][1])
    module.load_state_dict(read_weights(file))
    return module.eval().requires_grad_(False)


def accuracy(module: nn.Module, test: Images) -> float:
    """Share of the images that are classified right."""
    assert test.labels is not None
    with torch.no_grad():
        return (module(test.images).argmax(1) == test.labels).double().mean().item()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/fully_connected"))
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a few images, for CI")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    told = {}
    for name in [given.only] if given.only else NETWORKS:
        module, told[name] = trained(name, quick=given.quick)
        save_file(
            {key: value.contiguous() for key, value in module.state_dict().items()}, given.out / f"{name}.safetensors"
        )
        print(name, told[name], file=sys.stderr, flush=True)
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
