"""Architectures of published networks, with the key names of their files.

Every network takes pixels in [0, 1] (or latent vectors): flattening and normalisation are inside. `build(name,
weights)` is the way in; the classes stand here for those who want one without a name.
"""

from gatewise.zoo.adr_mnist_cnn import AdrMnistCnn
from gatewise.zoo.cnn_a import Cifar10CnnA, MnistCnnA
from gatewise.zoo.lenet5 import LeNet5
from gatewise.zoo.loading import load_into
from gatewise.zoo.mnist_dcgan import MnistDcgan
from gatewise.zoo.mnist_mlp import MnistMlp
from gatewise.zoo.mnist_vae import MnistVaeDecoder
from gatewise.zoo.procgen_impala import ProcgenImpala
from gatewise.zoo.registry import NAMES, build
from gatewise.zoo.resnet20 import Cifar10ResNet20
from gatewise.zoo.vgg import Vgg
from gatewise.zoo.wide_resnet import WideResNet50

__all__ = [
    "NAMES",
    "AdrMnistCnn",
    "Cifar10CnnA",
    "Cifar10ResNet20",
    "LeNet5",
    "MnistCnnA",
    "MnistDcgan",
    "MnistMlp",
    "MnistVaeDecoder",
    "ProcgenImpala",
    "Vgg",
    "WideResNet50",
    "build",
    "load_into",
]
