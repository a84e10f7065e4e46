"""The authors' released ADR-GD, run where it lies, for one image: seconds per iteration.

The checkout's folder is named by the environment variable ADR_OFFICIAL; nothing of it is copied. It expects a GPU and
torchvision: while it runs, `.cuda()` and `device="cuda"` mean the CPU, and torchvision's two imported modules are
empty.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import torch

FOLDER = os.environ.get("ADR_OFFICIAL")


@contextlib.contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Let code written for a GPU run on the CPU, unchanged."""
    zeros, tensor, cuda, module_cuda = torch.zeros, torch.tensor, torch.Tensor.cuda, torch.nn.Module.cuda

    def on_cpu(make: Any) -> Any:
        return lambda *args, **options: make(*args, **(options | ({"device": "cpu"} if "device" in options else {})))

    torch.zeros, torch.tensor = on_cpu(zeros), on_cpu(tensor)
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    stand_ins = {
        name: types.ModuleType(name) for name in ("torchvision", "torchvision.datasets", "torchvision.transforms")
    }
    stand_ins["torchvision"].datasets = stand_ins["torchvision.datasets"]  # type: ignore[attr-defined]
    stand_ins["torchvision"].transforms = stand_ins["torchvision.transforms"]  # type: ignore[attr-defined]
    sys.modules.update(stand_ins)
    sys.path.insert(0, FOLDER or "")
    try:
        yield
    finally:
        sys.path.remove(FOLDER or "")
        for name in stand_ins:
            sys.modules.pop(name, None)
        torch.zeros, torch.tensor, torch.Tensor.cuda, torch.nn.Module.cuda = zeros, tensor, cuda, module_cuda


def seconds_per_iteration(
    network: torch.nn.Module, image: torch.Tensor, label: int, iterations: int = 3
) -> float | None:
    """Of the released MNIST attack on one image (1, 28, 28), by the difference of two runs; None without a checkout.

    `network` has the attributes of the authors' class: `ConvLayers` and `fc_layer`, as zoo:adr-mnist-cnn does.
    """
    if FOLDER is None:
        return None
    with _as_on_a_gpu():
        code = importlib.import_module("helpers")
        dense = code.convert_CNN_to_FC(network, (28, 28, 1))

        def run(steps: int) -> float:
            began = time.perf_counter()
            # A threshold of infinity makes every kick fire: without one the released code fails at its return.
            code.adversarial_attack_nonconvexOpt(
                image.flatten(), torch.tensor(label), dense, 0.2, steps, 1.0, 0.25, lr_c=1e-4, c=0.5,
                perturb_freq=0, noise_scale=1e-3, grad_threshold=float("inf"),
            )  # fmt: skip
            return time.perf_counter() - began

        run(1)
        return (run(1 + iterations) - run(1)) / iterations
