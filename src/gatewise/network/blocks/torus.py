"""Convolutions of stride 1 as circular ones: `I + C'C` falls apart into one small system for each frequency.

A convolution of an image padded with zeros is a circular convolution C on the torus of the padded size, read off where
it does not wrap around. The copy of the block's input lives on that torus: its pad entries are drawn to 0 like the
others to their activation, and the outputs that wrap around are free, which adds `||M (z - z_before)||^2` to the copy's
step, M being C's rows that wrap: a proximal term that vanishes at a fixed point.

Source: Wong & Kolter, "Neural network inversion beyond gradient descent" (OPT 2017), "Convolutional layers".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Torus:
    """The circular convolution with `kernel` (outputs, inputs, height, width), as PyTorch counts (a cross-correlation),
    on maps of `size` (height, width), at least the kernel's.
    """

    def __init__(self, kernel: Tensor, size: tuple[int, int]):
        self.kernel, self.size = kernel, size
        spectrum = torch.fft.rfft2(kernel.double(), s=size).conj()  # (outputs, inputs, height, width // 2 + 1)
        by_frequency = spectrum.flatten(2).permute(2, 0, 1)
        self.gram = by_frequency.mH @ by_frequency  # (frequencies, inputs, inputs)
        self._inverse: Tensor | None = None
        self._modes: tuple[Tensor, Tensor] | None = None

    def product(self, z: Tensor) -> Tensor:
        """The outputs that do not wrap around, (batch, outputs, …), at `z` (batch, inputs, *size)."""
        return F.conv2d(z, self.kernel)

    def transposed(self, outputs: Tensor) -> Tensor:
        """Its transpose, (batch, inputs, *size)."""
        return F.conv_transpose2d(outputs, self.kernel)

    def solve(self, right: Tensor) -> Tensor:
        """`(I + C'C)^{-1} right`, (batch, inputs, *size)."""
        if self._inverse is None:
            # One matrix a frequency, no larger than the channels: inverted once, by Cholesky in float64.
            eye = torch.eye(self.gram.shape[-1], dtype=self.gram.dtype, device=self.gram.device)
            factor = torch.linalg.cholesky(eye + self.gram)
            self._inverse = torch.cholesky_inverse(factor).to(right.dtype.to_complex())
        return self._back(self._inverse @ self._spectrum(right))

    def solve_shifted(self, right: Tensor, shift: Tensor) -> Tensor:
        """`(shift I + C'C)^{-1} right` with a shift of each row's own, (batch,) at least 0; what C'C and the shift
        leave singular to rounding is held at a ten-thousandth of C'C's largest eigenvalue.
        """
        if self._modes is None:
            values, vectors = torch.linalg.eigh(self.gram)
            self._modes = values.to(right.dtype)[..., None], vectors.to(right.dtype.to_complex())
        values, vectors = self._modes
        curvature = (values + shift).clamp_min(1e-4 * float(values.max()))
        return self._back(vectors @ ((vectors.mH @ self._spectrum(right)) / curvature))

    def _spectrum(self, z: Tensor) -> Tensor:
        """(frequencies, inputs, batch)."""
        return torch.fft.rfft2(z).flatten(2).permute(2, 1, 0)

    def _back(self, spectrum: Tensor) -> Tensor:
        height, width = self.size
        maps = spectrum.permute(2, 1, 0).unflatten(2, (height, width // 2 + 1))
        return torch.fft.irfft2(maps, s=self.size)
