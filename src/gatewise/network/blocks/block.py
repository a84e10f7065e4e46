"""The affine maps that one copy feeds, with the best way to solve `I + W'W` for them.

dense       the matrix, written out once, and a Cholesky factor      few inputs or few outputs
torus       Fourier space                                            convolutions of stride 1
neither     conjugate gradients, products by running the block       strides, skip connections, the rest
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.network.blocks.conjugate_gradients import conjugate_gradients
from gatewise.network.blocks.dense import Dense
from gatewise.network.blocks.linear_map import LinearMap
from gatewise.network.blocks.torus import Torus

_SMALL = 256  # sides up to which a matrix is as cheap as anything else
_DENSE = 2048  # the smaller side up to which a Cholesky factor is
_ENTRIES = 2**24  # of a matrix that is written out
_SAME = {torch.float32: 1e-4, torch.float64: 1e-9}


class Block:
    """What copy z feeds: `p_a = W_a z + …` for each a of `feeds`.

    Args:
        feeds: which pre-activations, in order.
        alone: whether they depend on no other copy.
        linear: the map.
        copied: whether z copies an activation's output, so that it may live on a torus; the input does not.
    """

    def __init__(self, feeds: tuple[int, ...], alone: bool, linear: LinearMap, copied: bool):
        self.feeds, self.alone, self.linear, self.copied = feeds, alone, linear, copied
        inputs, outputs = linear.input_shape.numel(), sum(shape.numel() for shape in linear.output_shapes)
        smaller = min(inputs, outputs)
        self.torus: Torus | None = None
        self.dense: Dense | None = None
        self.pad = (0, 0)
        if alone and len(feeds) == 1 and smaller > _SMALL:
            self.torus, self.pad = torus_of(linear)
        if self.torus is None and smaller <= _DENSE and inputs * outputs <= _ENTRIES:
            dense = Dense(linear.matrix())
            self.dense = dense if _acts_as(lambda d: d.flatten(1) @ dense.matrix.mT, linear) else None

    @property
    def stored(self) -> bool:
        """Whether `solve` takes no products that run the network's calls."""
        return self.dense is not None or (self.torus is not None and self.copied)

    # Where the copy lives.

    @property
    def lifted(self) -> bool:
        """Whether the copy lives on a torus larger than the map."""
        return self.copied and self.torus is not None and self.pad != (0, 0)

    def lift(self, v: Tensor) -> Tensor:
        """An activation's output (batch, …) as the copy's target: on a torus, padded with zeros."""
        height, width = self.pad
        return F.pad(v, (width, width, height, height)) if self.lifted else v

    def crop(self, z: Tensor) -> Tensor:
        """What of a copy its activation sees."""
        height, width = self.pad
        return z[..., height : z.shape[-2] - height, width : z.shape[-1] - width] if self.lifted else z

    # The map.

    def affine(self, z: Tensor) -> tuple[Tensor, ...]:
        """`W z + b`, where no other copy plays a part."""
        return tuple(y + b for y, b in zip(self.product(z), self.linear.offset, strict=True))

    def product(self, d: Tensor) -> tuple[Tensor, ...]:
        """`W d`."""
        if self.torus is not None and self.copied:
            return (self.torus.product(d),)
        if self.dense is None:
            return self.linear.product(d)
        parts = (d.flatten(1) @ self.dense.matrix.mT).split([s.numel() for s in self.linear.output_shapes], 1)
        return tuple(part.view(-1, *shape) for part, shape in zip(parts, self.linear.output_shapes, strict=True))

    def transposed(self, outputs: Sequence[Tensor]) -> Tensor:
        """`W' outputs`."""
        if self.torus is not None and self.copied:
            return self.torus.transposed(outputs[0])
        if self.dense is None:
            return self.linear.transposed(outputs)
        flat = torch.cat([y.flatten(1) for y in outputs], 1)
        return (flat @ self.dense.matrix).view(-1, *self.linear.input_shape)

    def gram(self, d: Tensor) -> Tensor:
        """`W'W d`."""
        return self.transposed(self.product(d)) if self.feeds else torch.zeros_like(d)

    # The solves.

    def solve(self, right: Tensor, *, tolerance: float, most: int | Tensor) -> tuple[Tensor, Tensor]:
        """`(I + W'W)^{-1} right`, and the products that ran the network, (batch,) int64.

        On a torus the outputs that wrap around count in W; by conjugate gradients up to `tolerance` of `right` and in
        at most `most` products.
        """
        none = torch.zeros(len(right), dtype=torch.int64, device=right.device)
        if not self.feeds:
            return right, none
        if self.torus is not None and self.copied:
            return self.torus.solve(right), none
        if self.dense is not None:
            return self.dense.solve(right.flatten(1)).view_as(right), none
        solved = conjugate_gradients(lambda d: d + self.gram(d), right, tolerance=tolerance, most=most)
        return solved.solution, solved.steps

    @property
    def majorised(self) -> bool:
        """Whether what `nearly` solves with is at least `shift I + W'W`: rows of the torus that wrap around add to it,
        where there is no padding to leave out.
        """
        return self.dense is not None or (self.torus is not None and self.pad == (0, 0))

    def nearly(self, shift: Tensor) -> Callable[[Tensor], Tensor]:
        """An approximate solve with `shift I + W'W`, a shift for each row, (batch,): a preconditioner."""
        if self.dense is not None:
            dense = self.dense
            return lambda r: dense.solve_shifted(r.flatten(1), shift).view_as(r)
        if self.torus is not None:
            torus, (height, width) = self.torus, self.pad
            around = (width, width, height, height)

            def near(r: Tensor) -> Tensor:
                whole = torus.solve_shifted(F.pad(r, around), shift)
                return whole[..., height : whole.shape[-2] - height, width : whole.shape[-1] - width]

            return near
        return lambda r: r

    @cached_property
    def largest(self) -> float:
        """W'W's largest eigenvalue, or a little more: a hundred power steps, a twentieth added."""
        like = self.linear.offset[0] if self.feeds else torch.zeros(1, 1)
        d = like.new_ones(self.linear.rows, *self.linear.input_shape)
        value = 0.0
        for _ in range(100):
            d = d / d.norm().clamp_min(torch.finfo(d.dtype).tiny)
            d = self.gram(d)
            value = float(d.norm())
        return 1.05 * value


def torus_of(linear: LinearMap) -> tuple[Torus | None, tuple[int, int]]:
    """The block as a convolution of stride 1, and its padding; None where it is none.

    Scales before and after it (normalisation, batch norm) are part of the kernel. It is read off the layer or off the
    block's responses, and held against the block on random inputs.
    """
    none = None, (0, 0)
    weights = [w for call in linear.calls if "conv" in call.name for w in call.tensors() if w.ndim == 4]
    (shape_out,), shape_in = linear.output_shapes, linear.input_shape
    if len(weights) != 1 or len(shape_in) != 3 or len(shape_out) != 3:
        return none
    sizes = list(zip(shape_in[1:], shape_out[1:], weights[0].shape[2:], strict=True))
    twice = [n_out - n_in + k - 1 for n_in, n_out, k in sizes]
    if any(t < 0 or t % 2 for t in twice):
        return none
    pad = twice[0] // 2, twice[1] // 2
    for read in (_weight_by_channel, _responses):
        kernel = read(linear, weights[0], pad)
        if kernel is not None and _acts_as(lambda d, k=kernel: F.conv2d(d, k, padding=pad).flatten(1), linear):
            return Torus(kernel, (shape_in[1] + 2 * pad[0], shape_in[2] + 2 * pad[1])), pad
    return none


def _weight_by_channel(linear: LinearMap, weight: Tensor, pad: tuple[int, int]) -> Tensor | None:
    """The layer's own kernel, each output channel scaled as one product shows: right where a batch norm follows it."""
    if weight.shape[:2] != (linear.output_shapes[0][0], linear.input_shape[0]):
        return None
    d = _random(linear)
    plain, seen = F.conv2d(d, weight, padding=pad), linear.product(d)[0]
    scale = (plain * seen).sum((0, 2, 3)) / plain.square().sum((0, 2, 3)).clamp_min(torch.finfo(d.dtype).tiny)
    return weight.detach() * scale[:, None, None, None]


def _responses(linear: LinearMap, weight: Tensor, pad: tuple[int, int]) -> Tensor | None:
    """The kernel read off the responses to an impulse in the middle of each channel, where all of them fit in."""
    channels, *size = linear.input_shape
    last = [n // 2 + p for n, p in zip(size, pad, strict=True)]  # output that the first tap carries the impulse to
    whole = zip(last, linear.output_shapes[0][1:], weight.shape[2:], strict=True)
    if any(n < k - 1 or n >= n_out for n, n_out, k in whole):
        return None
    impulses = linear.offset[0].new_zeros(channels, *linear.input_shape)
    impulses[torch.arange(channels), torch.arange(channels), size[0] // 2, size[1] // 2] = 1
    answers = linear.columns(impulses).view(-1, *linear.output_shapes[0])
    rows, columns = (slice(n - k + 1, n + 1) for n, k in zip(last, weight.shape[2:], strict=True))
    return answers[..., rows, columns].flip(-2, -1).transpose(0, 1).contiguous()


def _acts_as(stored: Callable[[Tensor], Tensor], linear: LinearMap) -> bool:
    """Whether what was read off the block does the same as the block, in every row: some networks treat rows
    differently, and no stored matrix serves them.
    """
    d = _random(linear)
    expected = torch.cat([y.flatten(1) for y in linear.product(d)], 1)
    error = (stored(d) - expected).abs().amax()
    return bool(error <= _SAME.get(d.dtype, 1e-4) * expected.abs().amax())


def _random(linear: LinearMap) -> Tensor:
    like = linear.offset[0]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(linear.rows, *linear.input_shape, generator=generator, dtype=like.dtype).to(like.device)
