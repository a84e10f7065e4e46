"""The decoder of a variational autoencoder of MNIST digits."""

import torch
from torch import Tensor, nn


class MnistVaeDecoder(nn.Module):
    """Decoder of digits.

    Input: latent vectors (N, 20), standard normal. Output: images (N, 1, 28, 28), pixels in [0, 1] (it ends in a
    sigmoid). Layers: Linear(20, 400) `fc3`, ReLU, Linear(400, 784) `fc4`, sigmoid. Keys as in
    csinva/gan-vae-pretrained-pytorch, whose file also holds the encoder (`fc1, fc21, fc22`): those are left out.
    """

    input_shape = (20,)
    encoder_keys = frozenset(f"{layer}.{part}" for layer in ("fc1", "fc21", "fc22") for part in ("weight", "bias"))

    def __init__(self):
        super().__init__()
        self.fc3 = nn.Linear(20, 400)
        self.fc4 = nn.Linear(400, 784)

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) from latent vectors (N, 20)."""
        return torch.sigmoid(self.fc4(torch.relu(self.fc3(z)))).unflatten(1, (1, 28, 28))
