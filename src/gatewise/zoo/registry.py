"""The zoo's names, and how each network is built."""

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gatewise.errors import InvalidInput
from gatewise.zoo.adr_mnist_cnn import AdrMnistCnn
from gatewise.zoo.cnn_a import Cifar10CnnA, MnistCnnA
from gatewise.zoo.lenet5 import LeNet5
from gatewise.zoo.loading import load_into
from gatewise.zoo.mnist_dcgan import MnistDcgan
from gatewise.zoo.mnist_mlp import MnistMlp, sizes_in
from gatewise.zoo.mnist_vae import MnistVaeDecoder
from gatewise.zoo.procgen_impala import ProcgenImpala
from gatewise.zoo.resnet20 import Cifar10ResNet20
from gatewise.zoo.vgg import Vgg
from gatewise.zoo.wide_resnet import WideResNet50


@dataclass(frozen=True)
class _Architecture:
    """`make` builds the module (the weights are there for those that read their sizes from them)."""

    make: Callable[[Mapping[str, Tensor] | None], nn.Module]
    ignored: Collection[str] = ()


_ARCHITECTURES: dict[str, _Architecture] = {
    "adr-mnist-cnn": _Architecture(lambda _: AdrMnistCnn()),
    "mnist-cnn-a": _Architecture(lambda _: MnistCnnA()),
    "mnist-mlp": _Architecture(lambda weights: MnistMlp(sizes_in(weights))),
    "mnist-dcgan": _Architecture(lambda _: MnistDcgan()),
    "mnist-vae-decoder": _Architecture(lambda _: MnistVaeDecoder(), ignored=MnistVaeDecoder.encoder_keys),
    "cifar10-cnn-a": _Architecture(lambda _: Cifar10CnnA()),
    "cifar10-resnet20": _Architecture(lambda _: Cifar10ResNet20()),
    "lenet-5": _Architecture(lambda _: LeNet5()),
    "procgen-impala": _Architecture(lambda _: ProcgenImpala()),
    "vgg-11": _Architecture(lambda _: Vgg(11)),
    "vgg-16": _Architecture(lambda _: Vgg(16)),
    "vgg-19": _Architecture(lambda _: Vgg(19)),
    "wide-resnet-50-2": _Architecture(lambda _: WideResNet50()),
}

NAMES: tuple[str, ...] = tuple(_ARCHITECTURES)
"""The networks that `build` knows."""


def build(name: str, weights: Mapping[str, Tensor] | None = None, seed: int = 0) -> nn.Module:
    """A network by name, in evaluation mode, on the CPU, in float32.

    Args:
        name: one of `NAMES`.
        weights: its state dict, keys as in the published file (the class says which). Without it the network is drawn
            at random, the same for the same seed: convolutions and linear layers He normal (deviation
            `sqrt(2 / fan_in)`), biases as PyTorch draws them, batch norm the identity (a quarter of it at the end of
            residual branches). PyTorch's global random state is left as it was.
        seed: of that draw, at least 0.

    Raises:
        InvalidInput: an unknown name (the sentence has the nearest one), weights that do not fit, or no weights for
            `mnist-mlp`, which reads its sizes from them.
    """
    if name not in _ARCHITECTURES:
        nearest = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
        raise InvalidInput(f"The zoo has no {name!r}; did you mean {nearest!r} (it has {', '.join(NAMES)})?")
    if weights is not None and not isinstance(weights, Mapping):
        raise InvalidInput(
            f"The weights of zoo:{name} must be a state dict (names to tensors), got {type(weights).__name__}."
        )
    architecture = _ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reach the accelerators' states
        module = architecture.make(weights)
        if weights is None:
            _draw(module)
    if weights is not None:
        load_into(module, weights, f"zoo:{name}", architecture.ignored)
    return module.eval()


def _draw(module: nn.Module) -> None:
    # PyTorch's own draw shrinks the signal at every layer, so that a deep network without weights would be a constant.
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.weight[0].numel()))
        elif isinstance(layer, nn.ConvTranspose2d):
            fan_in = layer.weight[:, 0].numel() / math.prod(layer.stride)  # an output sees each stride-th tap
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
