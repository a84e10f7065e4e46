"""A DCGAN generator of MNIST digits."""

from torch import Tensor, nn


def _up(channels_in: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels_in, channels, kernel, stride),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class MnistDcgan(nn.Module):
    """Generator of digits from noise.

    Input: latent vectors (N, 64, 1, 1), standard normal ((N, 64) is taken as well). Output: images (N, 1, 28, 28) in
    [-1, 1], as trained (it ends in tanh): pixels in [0, 1] are `(g + 1) / 2`.
    Layers: ConvTranspose(64, 256, kernel 3, stride 2), (256, 128, 4, 1), (128, 64, 3, 2), each with batch norm and
    ReLU; ConvTranspose(64, 1, 4, 2), tanh. Keys `gen.<i>.0` (convolution) and `gen.<i>.1` (batch norm) as in
    Ryhan9834/DigitDCGAN-Digit-Generation-with-DCGAN.
    """

    input_shape = (64, 1, 1)

    def __init__(self):
        super().__init__()
        self.gen = nn.Sequential(
            _up(64, 256, 3, 2),
            _up(256, 128, 4, 1),
            _up(128, 64, 3, 2),
            nn.Sequential(nn.ConvTranspose2d(64, 1, 4, 2), nn.Tanh()),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) in [-1, 1] from latent vectors (N, 64, 1, 1)."""
        return self.gen(z.reshape(-1, 64, 1, 1))
