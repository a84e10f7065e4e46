"""ONNX convolutions and pools, with their many ways to pad, in torch calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.readers.onnx_call import Call


def _paddings(call: Call, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, and the padding before and after each spatial axis."""
    axes = len(kernel)
    strides, dilations = (list(call.attribute(name) or [1] * axes) for name in ("strides", "dilations"))
    automatic = call.attribute("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for length, size, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
            missing = max((math.ceil(length / stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
            halves = missing // 2, missing - missing // 2
            before.append(halves[automatic == "SAME_LOWER"])
            after.append(halves[automatic == "SAME_UPPER"])
        return strides, dilations, before, after
    pads = list(call.attribute("pads") or [0] * 2 * axes) if automatic == "NOTSET" else [0] * 2 * axes
    return strides, dilations, pads[:axes], pads[axes:]


def torch_pad(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Paddings in the order of `F.pad`: last axis first."""
    return [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]


def conv(call: Call) -> Tensor:
    """Convolution; padding that differs before and after is put in first."""
    x, weight = call.value(), call.constant(1)
    bias = call.constant(2) if call.has(2) else None
    strides, dilations, before, after = _paddings(call, x, weight.shape[2:])
    if before != after:
        x, before = F.pad(x, torch_pad(before, after)), [0] * len(before)
    function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
    return function(x, weight, bias, strides, before, dilations, call.attribute("group", 1))


def conv_transpose(call: Call) -> Tensor:
    """Transposed convolution; uneven padding is cut off afterwards."""
    x, weight = call.value(), call.constant(1)
    bias = call.constant(2) if call.has(2) else None
    if call.attribute("output_shape") is not None or call.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        call.refuse(
            "leaves its padding to be worked out (output_shape or auto_pad); export it with pads and output_padding"
        )
    strides, dilations, before, after = _paddings(call, x, weight.shape[2:])
    extra = list(call.attribute("output_padding") or [0] * len(before))
    function: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.ndim - 3]
    group = call.attribute("group", 1)
    if before == after:
        return function(x, weight, bias, strides, before, extra, group, dilations)
    whole = function(x, weight, bias, strides, 0, extra, group, dilations)
    return F.pad(whole, [-amount for amount in torch_pad(before, after)])


def _is_plain(before: Sequence[int], after: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether PyTorch's pools take this padding themselves."""
    return list(before) == list(after) and all(2 * pad <= size for pad, size in zip(before, kernel, strict=True))


def _windows(
    call: Call,
    lengths: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    before: list[int],
    after: list[int],
) -> tuple[list[int], list[int]]:
    """For pools padded beforehand: each axis's number of windows, and how far the last reaches over its padding."""
    counts, over = [], []
    for length, size, stride, first, last in zip(lengths, kernel, strides, before, after, strict=True):
        room = length + first + last - size
        count = room // stride + 1
        if call.attribute("ceil_mode", 0):
            count = -(-room // stride) + 1
            if (count - 1) * stride >= length + first:
                count -= 1  # a window must begin on the image or on the padding before it
        counts.append(count)
        over.append(max((count - 1) * stride - room, 0))
    return counts, over


def _first(x: Tensor, counts: Sequence[int]) -> Tensor:
    """The first so many entries of each spatial axis."""
    return x[(slice(None), slice(None), *(slice(count) for count in counts))]


def max_pool(call: Call) -> Tensor:
    """Maximum by window."""
    x = call.value()
    kernel = list(call.attribute("kernel_shape"))
    strides, dilations, before, after = _paddings(call, x, kernel)
    function: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    if _is_plain(before, after, kernel):
        return function(x, kernel, strides, before, dilations, bool(call.attribute("ceil_mode", 0)))
    # A window that reaches over the edge holds the edge itself, so repeating the edge leaves every maximum as it is,
    # and, unlike minus infinity, every value finite.
    if max(dilations) > 1:
        call.refuse("pads unevenly and dilates, which gatewise does not run")
    counts, over = _windows(call, x.shape[2:], kernel, strides, before, after)
    after = [last + more for last, more in zip(after, over, strict=True)]
    return _first(function(F.pad(x, torch_pad(before, after), mode="replicate"), kernel, strides), counts)


def average_pool(call: Call) -> Tensor:
    """Mean by window."""
    x = call.value()
    kernel = list(call.attribute("kernel_shape"))
    strides, dilations, before, after = _paddings(call, x, kernel)
    if max(dilations) > 1:
        call.refuse("dilates, which gatewise does not run")
    function: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    ceil_mode, counts_padding = bool(call.attribute("ceil_mode", 0)), bool(call.attribute("count_include_pad", 0))
    if _is_plain(before, after, kernel):
        return function(x, kernel, strides, before, ceil_mode, counts_padding)
    counts, over = _windows(call, x.shape[2:], kernel, strides, before, after)
    beyond = torch_pad([0] * len(over), over)

    def sums(image: Tensor) -> Tensor:
        return _first(function(F.pad(image, beyond), kernel, strides), counts)

    padding = torch_pad(before, after)
    counted = F.pad(torch.ones_like(x[:1, :1]), padding, value=float(counts_padding))
    return sums(F.pad(x, padding)) / sums(counted)


def global_average_pool(call: Call) -> Tensor:
    """Mean over all spatial axes."""
    x = call.value()
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max_pool(call: Call) -> Tensor:
    """Maximum over all spatial axes."""
    x = call.value()
    function: Callable[..., Tensor] = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[x.ndim - 3]
    return function(x, 1)
