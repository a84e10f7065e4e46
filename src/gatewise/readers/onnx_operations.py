"""What each ONNX operation does, in torch calls: the table that `onnx.py` interprets a graph with.

Files are often exported with a fixed batch size (usually 1) that their reshapes repeat. Here axis 0 of everything
computed from the input is the batch axis: shapes are worked out for the batch that the file states and then carried out
for the rows that there are. Operations that would mix or move rows are refused.
Gates are written as the calls that gatewise knows them by: `torch.relu`, `F.leaky_relu`, `F.prelu`, `torch.clamp`,
`F.max_pool2d`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.errors import InvalidInput


@dataclass(frozen=True)
class Node:
    """One node of the graph; `inputs` has "" where an optional input is left out."""

    operation: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.operation} node {self.name or ', '.join(self.outputs)!r}"


@dataclass(frozen=True)
class Call:
    """One run of a node.

    `values` are its inputs (None where left out) and `by_row` says which of them have the batch as axis 0. `stated` is
    the batch size that the file is written for, None where it is left open. `opset` is the file's version of the
    operations.
    """

    node: Node
    values: tuple[Tensor | None, ...]
    by_row: tuple[bool, ...]
    stated: int | None
    opset: int

    def refuse(self, why: str) -> NoReturn:
        """Raise InvalidInput with the node's name."""
        raise InvalidInput(f"The ONNX {self.node} {why}.")

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or the operation's default for it."""
        return self.node.attributes.get(name, default)

    def has(self, position: int) -> bool:
        """Whether the optional input is given."""
        return position < len(self.values) and self.values[position] is not None

    def value(self, position: int = 0) -> Tensor:
        """An input that has to be given."""
        value = self.values[position] if position < len(self.values) else None
        return self.refuse(f"lacks its input {position + 1}") if value is None else value

    def constant(self, position: int) -> Tensor:
        """An input that has to be given and must not depend on the network's input."""
        if position < len(self.by_row) and self.by_row[position]:
            self.refuse(f"computes its input {position + 1} from the network's input, which gatewise does not run")
        return self.value(position)

    def ints(self, position: int, attribute: str) -> list[int] | None:
        """A list that newer opsets take as an input and older ones as an attribute."""
        if self.has(position):
            return [int(entry) for entry in self.constant(position).flatten().tolist()]
        listed = self.attribute(attribute)
        return None if listed is None else list(listed)

    def number(self, position: int, attribute: str, default: float | None = None) -> float | None:
        """A number that newer opsets take as an input and older ones as an attribute."""
        if self.has(position):
            return self.constant(position).item()
        return self.attribute(attribute, default)

    def shape(self) -> list[int]:
        """The shape of input 0 in the batch that the file is written for."""
        x = self.value()
        rows = x.shape[:1] if self.stated is None or not self.by_row[0] else (self.stated,)
        return [*rows, *x.shape[1:]]

    def axis(self, axis: int, length: int) -> int:
        """`axis` counted from the front among `length` axes; never the batch axis."""
        axis = axis + length if axis < 0 else axis
        if axis == 0 and self.by_row[0]:
            self.refuse("works along the batch axis, so that rows would influence each other")
        return axis

    def reshaped(self, shape: Sequence[int]) -> Tensor:
        """Input 0 in a shape that is written for the stated batch."""
        x = self.value()
        if not self.by_row[0]:
            return x.reshape(tuple(shape))
        if not shape or shape[0] != self.shape()[0] or math.prod(shape) != math.prod(self.shape()):
            self.refuse(
                f"turns {tuple(self.shape())} into {tuple(shape)}, so that axis 0 is no longer the batch; "
                "export the network with a dynamic batch axis"
            )
        return x.reshape(len(x), *shape[1:])

    def aligned(self) -> list[Tensor]:
        """All inputs, ready for element by element arithmetic with the batch on axis 0."""
        values = [self.value(position) for position in range(len(self.values))]
        if not any(self.by_row):
            return values
        axes = max(value.ndim for value in values)
        return [self._align(value, by_row, axes) for value, by_row in zip(values, self.by_row, strict=True)]

    def _align(self, value: Tensor, by_row: bool, axes: int) -> Tensor:
        if by_row and value.ndim < axes:
            # Broadcasting adds axes in front: with one stated row they may as well come after the batch axis.
            if self.stated != 1:
                self.refuse("moves the batch axis by broadcasting; export the network with a fixed batch of 1")
            return value.reshape(len(value), *[1] * (axes - value.ndim), *value.shape[1:])
        if not by_row and value.ndim == axes and axes:
            self.require_row(value)
        return value

    def require_row(self, value: Tensor) -> None:
        """Refuse a constant that has entries of its own for each row of the file's batch."""
        rows = next(len(x) for x, by_row in zip(self.values, self.by_row, strict=True) if by_row and x is not None)
        # Where the batch is left open, constants made for as many rows as there are (zeros, say) are meant.
        if len(value) != 1 and not (self.stated is None and len(value) == rows):
            self.refuse("combines the rows with a constant that has its own entry for each of them")


def _relu(call: Call) -> Tensor:
    return torch.relu(call.value())


def _leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call.value(), call.attribute("alpha", 0.01))


def _prelu(call: Call) -> Tensor:
    x, slope = call.value(), call.constant(1)
    if slope.numel() == 1:
        return F.prelu(x, slope.flatten())
    channels = slope.reshape(*[1] * (x.ndim - slope.ndim), *slope.shape)
    if channels.ndim == x.ndim and channels.shape[1] == channels.numel() == x.shape[1]:
        return F.prelu(x, channels.flatten())
    return torch.relu(x) - slope * torch.relu(-x)


def _clip(call: Call) -> Tensor:
    # Old exports write "no bound" as the largest float; as a gate at 3e38 it would swamp every check of scale.
    bounds = (call.number(1, "min"), call.number(2, "max"))
    low, high = (None if bound is None or abs(bound) > 3e38 else bound for bound in bounds)
    return call.value() if low is None and high is None else torch.clamp(call.value(), min=low, max=high)


def _elementwise(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: functools.reduce(function, call.aligned())


def _divide(a: Tensor, b: Tensor) -> Tensor:
    floating = a.is_floating_point() or b.is_floating_point()
    return a / b if floating else torch.div(a, b, rounding_mode="trunc")


def _matmul(call: Call) -> Tensor:
    a, b = call.value(0), call.value(1)
    left, right = call.by_row
    if left and right and not (a.ndim == b.ndim >= 3):
        call.refuse("multiplies rows with each other")
    if left != right:
        row, other, least = (a, b, 2) if left else (b, a, 3)
        stacked = other.ndim > 2 and other.ndim >= row.ndim and (other.ndim > row.ndim or len(other) != 1)
        if row.ndim < least or stacked:
            call.refuse("multiplies along the batch axis, so that rows would influence each other")
    return a @ b


def _gemm(call: Call) -> Tensor:
    a, weight = call.value(), call.constant(1)
    if call.attribute("transA", 0):
        if call.by_row[0]:
            call.refuse("transposes the batch axis away")
        a = a.T
    weight = weight if call.attribute("transB", 0) else weight.T
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    bias = call.constant(2) if call.has(2) else None
    if alpha == beta == 1 and (bias is None or bias.shape == weight.shape[:1]):
        return F.linear(a, weight, bias)
    product = alpha * F.linear(a, weight)
    if bias is None:
        return product
    if call.by_row[0] and bias.ndim == 2:
        call.require_row(bias)
    return product + beta * bias


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


def _torch_pad(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Paddings in the order of `F.pad`: last axis first."""
    return [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]


def _conv(call: Call) -> Tensor:
    x, weight = call.value(), call.constant(1)
    bias = call.constant(2) if call.has(2) else None
    strides, dilations, before, after = _paddings(call, x, weight.shape[2:])
    if before != after:
        x, before = F.pad(x, _torch_pad(before, after)), [0] * len(before)
    function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
    return function(x, weight, bias, strides, before, dilations, call.attribute("group", 1))


def _conv_transpose(call: Call) -> Tensor:
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
    return F.pad(whole, [-amount for amount in _torch_pad(before, after)])


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


def _max_pool(call: Call) -> Tensor:
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
    return _first(function(F.pad(x, _torch_pad(before, after), mode="replicate"), kernel, strides), counts)


def _average_pool(call: Call) -> Tensor:
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
    beyond = _torch_pad([0] * len(over), over)

    def sums(image: Tensor) -> Tensor:
        return _first(function(F.pad(image, beyond), kernel, strides), counts)

    padding = _torch_pad(before, after)
    counted = F.pad(torch.ones_like(x[:1, :1]), padding, value=float(counts_padding))
    return sums(F.pad(x, padding)) / sums(counted)


def _global_average_pool(call: Call) -> Tensor:
    x = call.value()
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _global_max_pool(call: Call) -> Tensor:
    x = call.value()
    function: Callable[..., Tensor] = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[x.ndim - 3]
    return function(x, 1)


def _batch_norm(call: Call) -> Tensor:
    if call.attribute("training_mode", 0) or not call.attribute("spatial", 1):
        call.refuse("is in training mode or not by channel; export the network in evaluation mode")
    weight, bias, mean, variance = (call.constant(position) for position in range(1, 5))
    return F.batch_norm(call.value(), mean, variance, weight, bias, training=False, eps=call.attribute("epsilon", 1e-5))


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Callable[[Call], Tensor]:
    def run(call: Call) -> Tensor:
        x = call.value()
        if call.opset >= 13:
            return function(x, call.axis(call.attribute("axis", -1), x.ndim))
        # Until opset 12 it runs over all axes from the named one on.
        axis = call.axis(call.attribute("axis", 1), x.ndim)
        return function(x.flatten(axis), axis).reshape(x.shape)

    return run


def _pad(call: Call) -> Tensor:
    x = call.value()
    amounts = call.ints(1, "pads") or call.refuse("lacks its paddings")
    axes = call.ints(3, "axes") or list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for axis, first, last in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        before[axis], after[axis] = first, last
    if call.by_row[0] and (before[0] or after[0]):
        call.refuse("adds or drops rows of the batch")
    mode: str = call.attribute("mode", "constant")
    if mode == "constant":
        return F.pad(x, _torch_pad(before, after), value=call.number(2, "value", 0.0) or 0.0)
    if any(before[:2]) or any(after[:2]):
        call.refuse(f"pads the batch or the channels in mode {mode}, which gatewise does not run")
    return F.pad(x, _torch_pad(before[2:], after[2:]), mode={"edge": "replicate"}.get(mode, mode))


def _reshape(call: Call) -> Tensor:
    have = call.shape()
    wanted = call.ints(1, "shape")
    if wanted is None:
        call.refuse("lacks its shape")
    if not call.attribute("allowzero", 0):
        wanted = [have[axis] if length == 0 else length for axis, length in enumerate(wanted)]
    if -1 in wanted:
        known = math.prod(length for length in wanted if length != -1)
        wanted[wanted.index(-1)] = math.prod(have) // max(known, 1)
    return call.reshaped(wanted)


def _flatten(call: Call) -> Tensor:
    have = call.shape()
    axis = call.attribute("axis", 1)
    axis = axis + len(have) if axis < 0 else axis
    return call.reshaped([math.prod(have[:axis]), math.prod(have[axis:])])


def _squeeze(call: Call) -> Tensor:
    have = call.shape()
    axes = call.ints(1, "axes")
    if axes is None:
        # Where the batch is left open, one row is still a batch.
        kept = call.by_row[0] and call.stated is None
        axes = [axis for axis, length in enumerate(have) if length == 1 and not (axis == 0 and kept)]
    dropped = {axis % len(have) for axis in axes}
    return call.reshaped([length for axis, length in enumerate(have) if axis not in dropped])


def _unsqueeze(call: Call) -> Tensor:
    wanted = call.shape()
    axes = call.ints(1, "axes") or call.refuse("lacks its axes")
    for axis in sorted(axis % (len(wanted) + len(axes)) for axis in axes):
        wanted.insert(axis, 1)
    return call.reshaped(wanted)


def _expand(call: Call) -> Tensor:
    have = call.shape()
    wanted = torch.broadcast_shapes(have, call.ints(1, "shape") or [])
    if not call.by_row[0]:
        return call.value().expand(wanted)
    if len(wanted) != len(have) or wanted[0] != have[0]:
        call.refuse("repeats along the batch axis")
    return call.value().expand(-1, *wanted[1:])


def _transpose(call: Call) -> Tensor:
    x = call.value()
    order = call.attribute("perm") or list(reversed(range(x.ndim)))
    if call.by_row[0] and order[0] != 0:
        call.refuse("moves the batch away from axis 0")
    return x.permute(*order)


def _concat(call: Call) -> Tensor:
    values = [call.value(position) for position in range(len(call.values))]
    axis = call.attribute("axis", 1) % values[0].ndim
    if not any(call.by_row):
        return torch.cat(values, axis)
    if axis == 0:
        call.refuse("joins along the batch axis")
    for value, by_row in zip(values, call.by_row, strict=True):
        if not by_row:
            call.require_row(value)
    rows = next(len(value) for value, by_row in zip(values, call.by_row, strict=True) if by_row)
    return torch.cat([value.expand(rows, *value.shape[1:]) for value in values], axis)


def _slice(call: Call) -> Tensor:
    x = call.value()
    starts, ends = call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes = call.ints(3, "axes") or list(range(len(starts)))
    steps = call.ints(4, "steps") or [1] * len(starts)
    have = call.shape()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= x.ndim
        taken = range(*slice(start, end, step).indices(have[axis]))
        if axis == 0 and call.by_row[0]:
            if taken != range(have[0]):
                call.refuse("takes some rows of the batch")
        elif step > 0:
            x = x[(slice(None),) * axis + (slice(taken.start, taken.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(taken), dtype=torch.int64, device=x.device))
    return x


def _gather(call: Call) -> Tensor:
    x, indices = call.value(), call.constant(1)
    axis = call.axis(call.attribute("axis", 0), x.ndim)
    positions = torch.where(indices < 0, indices + x.shape[axis], indices).to(x.device)
    taken = x.index_select(axis, positions.flatten())
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _reduction(function: Callable[..., Tensor]) -> Callable[[Call], Tensor]:
    def run(call: Call) -> Tensor:
        x = call.value()
        axes = call.ints(1, "axes")
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return x
        axes = [call.axis(axis, x.ndim) for axis in axes or range(x.ndim)]
        return function(x, axes, bool(call.attribute("keepdims", 1)))

    return run


def _shape(call: Call) -> Tensor:
    first, last = call.attribute("start", 0), call.attribute("end")
    return torch.tensor(call.shape()[first:last], dtype=torch.int64)


def _constant_of_shape(call: Call) -> Tensor:
    value = call.attribute("value", torch.zeros(1))
    return value.reshape(()).expand(tuple(call.constant(0).tolist())).clone()


def _constant(call: Call) -> Tensor:
    for name, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        for listed in (name, f"{name}s"):
            if (value := call.attribute(listed)) is not None:
                return torch.tensor(value, dtype=dtype)
    value = call.attribute("value")
    return value if isinstance(value, Tensor) else call.refuse("holds something besides numbers")


_CASTS = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}


def _cast(call: Call) -> Tensor:
    x, code = call.value(), call.attribute("to")
    if code not in _CASTS:
        call.refuse(f"casts to ONNX type {code}; gatewise runs float32 and float64 networks")
    # The rows keep the dtype that the caller chose for the network, so that `.double()` reaches through.
    if call.by_row[0]:
        return x if _CASTS[code].is_floating_point else call.refuse("rounds the rows to whole numbers")
    return x.to(_CASTS[code])


def _dropout(call: Call) -> Tensor:
    if call.has(2) and call.constant(2).item():
        call.refuse("is in training mode; export the network in evaluation mode")
    return call.value()


OPERATIONS: dict[str, Callable[[Call], Tensor]] = {
    "Abs": lambda call: torch.abs(call.value()),
    "Add": _elementwise(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _elementwise(_divide),
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "Identity": lambda call: call.value(),
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": _matmul,
    "Max": _elementwise(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _elementwise(torch.minimum),
    "Mod": _elementwise(torch.remainder),
    "Mul": _elementwise(torch.mul),
    "Neg": lambda call: -call.value(),
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "Relu": _relu,
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": lambda call: torch.sigmoid(call.value()),
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Squeeze": _squeeze,
    "Sub": _elementwise(torch.sub),
    "Sum": _elementwise(torch.add),
    "Tanh": lambda call: torch.tanh(call.value()),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Every operation that gatewise runs, by its ONNX name."""
