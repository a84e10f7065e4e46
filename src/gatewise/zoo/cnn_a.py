"""CNN-A, the small network of the SDP verification papers, for MNIST and for CIFAR-10."""

from torch import Tensor, nn

from gatewise.zoo.normalise import Normalise


def _layers(channels: int, flat: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


class MnistCnnA(nn.Sequential):
    """CNN-A for MNIST.

    Input: (N, 1, 28, 28), pixels in [0, 1], not normalised. Output: logits (N, 10).
    Layers: Conv(1, 16, kernel 4, stride 2, padding 1), ReLU, Conv(16, 32, 4, 2, 1), ReLU, flatten to 1568,
    Linear(1568, 100), ReLU, Linear(100, 10). Keys `0, 2, 5, 7` as in alpha-beta-CROWN's `mnist_cnn_a_adv.model`.
    """

    input_shape = (1, 28, 28)

    def __init__(self):
        super().__init__(*_layers(1, 1568))


class Cifar10CnnA(nn.Module):
    """CNN-A for CIFAR-10.

    Input: (N, 3, 32, 32) RGB, pixels in [0, 1]; inside, minus (0.4914, 0.4824, 0.4467), divided by
    (0.2471, 0.2435, 0.2616). Output: logits (N, 10).
    Layers as `MnistCnnA`, flattened to 2048. Keys `0, 2, 5, 7` as in alpha-beta-CROWN's `cifar_cnn_a_adv.model`.
    """

    input_shape = (3, 32, 32)

    def __init__(self):
        super().__init__()
        self.normalise = Normalise((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616))
        # Children named by number, not an nn.Sequential: the normalisation before them must not shift the file's keys.
        for position, layer in enumerate(_layers(3, 2048)):
            self.add_module(str(position), layer)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 32, 32)."""
        for layer in self.children():
            x = layer(x)
        return x
