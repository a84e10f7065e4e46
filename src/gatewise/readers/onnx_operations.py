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
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.readers.onnx_call import Call
from gatewise.readers.onnx_windows import (
    average_pool,
    conv,
    conv_transpose,
    global_average_pool,
    global_max_pool,
    max_pool,
    torch_pad,
)


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
        return F.pad(x, torch_pad(before, after), value=call.number(2, "value", 0.0) or 0.0)
    if any(before[:2]) or any(after[:2]):
        call.refuse(f"pads the batch or the channels in mode {mode}, which gatewise does not run")
    return F.pad(x, torch_pad(before[2:], after[2:]), mode={"edge": "replicate"}.get(mode, mode))


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
    "AveragePool": average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Div": _elementwise(_divide),
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "Identity": lambda call: call.value(),
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": _matmul,
    "Max": _elementwise(torch.maximum),
    "MaxPool": max_pool,
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
