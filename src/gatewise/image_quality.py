"""How near images are to others: peak signal-to-noise ratio and structural similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_DEVIATION, _K1, _K2 = 1.5, 0.01, 0.03


def mean_squared_error(images: Tensor, truth: Tensor) -> Tensor:
    """(batch,) of images (batch, …)."""
    return (images - truth).flatten(1).square().mean(1)


def peak_signal_to_noise(images: Tensor, truth: Tensor) -> Tensor:
    """`-10 log10(mean squared error)` in dB, (batch,), for pixels in [0, 1]; infinite where the images are equal."""
    return -10 * mean_squared_error(images, truth).log10()


def structural_similarity(images: Tensor, truth: Tensor) -> Tensor:
    """The mean SSIM of images (batch, channels, height, width) with pixels in [0, 1], (batch,).

    Wang, Bovik, Sheikh & Simoncelli (2004), equation 13, with their constants (K1 = 0.01, K2 = 0.03) and their 11 x 11
    Gaussian window of deviation 1.5, over the places where it fits; in smaller images it is as large as an odd window
    can be. Channels are averaged.
    """
    side = min(11, *(length - (length + 1) % 2 for length in images.shape[-2:]))
    at = torch.arange(side, dtype=images.dtype, device=images.device) - side // 2
    weights = torch.exp(-0.5 * (at / _DEVIATION) ** 2)
    window = torch.outer(weights, weights)[None, None] / weights.sum() ** 2

    def local_mean(values: Tensor) -> Tensor:
        return F.conv2d(values.reshape(-1, 1, *values.shape[-2:]), window)

    of_x, of_y = local_mean(images), local_mean(truth)
    variance_x, variance_y = local_mean(images**2) - of_x**2, local_mean(truth**2) - of_y**2
    covariance = local_mean(images * truth) - of_x * of_y
    c1, c2 = _K1**2, _K2**2
    similarity = (2 * of_x * of_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((of_x**2 + of_y**2 + c1) * (variance_x + variance_y + c2))
    return similarity.reshape(len(images), -1).mean(1)
