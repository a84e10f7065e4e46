"""Which operations are gates, and how each is written with a switch or a choice.

A *switch* is `max(z, 0) + slope * min(z, 0)`: every elementwise gate is a few of them and affine maps. A *choice* is
a max-pool: the largest of each window. The table is keyed by the operation's bare name, so that one line covers the
module, the function, the method, the in-place form and an exported program's overload
(`nn.ReLU`, `F.relu`, `z.relu()`, `torch.relu_`, `aten.relu_.default`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Pool:
    """A max-pool with its windows fixed: what a choice gate needs to know."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    axes: int

    def maximum(self, z: Tensor) -> Tensor:
        """The largest entry of each window."""
        return self.function(z, **self.arguments)

    def winners(self, z: Tensor) -> Tensor:
        """The position of each window's largest entry, as PyTorch's `return_indices` gives it (int64)."""
        return self.function(z, **self.arguments, return_indices=True)[1]

    def windows(self, z: Tensor) -> Tensor | None:
        """The entries of each window, (entries, *output shape); padding repeats the smallest entry of its map. None for
        pools whose windows PyTorch does not list (adaptive, 3-d, rounded up).
        """
        if self.axes == 3 or "kernel_size" not in self.arguments or self.arguments["ceil_mode"]:
            return None
        names = ("kernel_size", "stride", "padding", "dilation")
        kernel, stride, padding, dilation = (self._per_axis(name) for name in names)
        flat = z.reshape(-1, 1, *(z.shape[-2:] if self.axes == 2 else (1, z.shape[-1])))
        if any(padding):
            least = flat.detach().amin((2, 3), keepdim=True)
            flat = F.pad(flat - least, (padding[1], padding[1], padding[0], padding[0])) + least
        listed = F.unfold(flat, kernel, dilation, 0, stride or kernel)
        return listed.transpose(0, 1).reshape(listed.shape[1], *self.maximum(z.detach()).shape)

    def entries(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Of each window of `z` (batch, …) the positions of its entries, as `winners` counts them, and which of them
        are padding: each (batch, entries, *pooled shape). For pools whose windows PyTorch lists.
        """
        ramp = torch.arange(z.flatten(-self.axes).shape[-1], dtype=torch.float64, device=z.device)
        ramp = ramp.view(z.shape[-self.axes :])
        up, down = self.windows(ramp.expand_as(z)), self.windows(-ramp.expand_as(z))
        assert up is not None
        assert down is not None
        # Padding repeats the smallest entry: it alone is the smallest of a ramp both up and down.
        padded = (up == ramp.min()) & (down == -ramp.max())
        return up.movedim(0, 1).long(), padded.movedim(0, 1)

    def _per_axis(self, name: str) -> tuple[int, ...]:
        """An argument as (rows, columns), where a pool along one axis has one row; empty where it is left out."""
        value = self.arguments[name]
        if value is None or value == []:
            return ()
        values = tuple(value) if isinstance(value, tuple | list) else (value,) * self.axes
        return values if self.axes == 2 else (0 if name == "padding" else 1, *values)

    def take(self, z: Tensor, winners: Tensor) -> Tensor:
        """The entry of each window that `winners` names: linear in `z`."""
        return z.flatten(-self.axes).gather(-1, winners.flatten(-self.axes)).view_as(winners)


class GateRunner(Protocol):
    """What an operation asks while it runs: the value of its next switch or choice."""

    def switch(self, z: Tensor, slope: float | Tensor = 0.0) -> Tensor:
        """The next switch, at pre-activation `z`."""
        ...

    def choice(self, z: Tensor, pool: Pool) -> Tensor:
        """The next choice, over the windows of `z`."""
        ...


# Each function below has the arguments of the PyTorch operation that it stands for, after the runner.


def _relu(run: GateRunner, z, inplace=False):
    return run.switch(z)


def _leaky_relu(run: GateRunner, z, negative_slope=0.01, inplace=False):
    return run.switch(z, negative_slope)


def _rrelu(run: GateRunner, z, lower=1 / 8, upper=1 / 3, training=False, inplace=False):
    return run.switch(z, (lower + upper) / 2)  # its form in evaluation mode


def _prelu(run: GateRunner, z, weight):
    channels = weight if weight.numel() == 1 or z.ndim < 2 else weight.reshape(-1, *[1] * (z.ndim - 2))
    return run.switch(z, channels.detach())


def _clamp(run: GateRunner, z, min=None, max=None):
    out = z if min is None else min + run.switch(z - min)
    return out if max is None else out - run.switch(z - max)


def _hardtanh(run: GateRunner, z, min_val=-1.0, max_val=1.0, inplace=False):
    return _clamp(run, z, min_val, max_val)


def _relu6(run: GateRunner, z, inplace=False):
    return _clamp(run, z, 0.0, 6.0)


def _hardsigmoid(run: GateRunner, z, inplace=False):
    return _clamp(run, z + 3, 0.0, 6.0) / 6


def _threshold(run: GateRunner, z, threshold, value, inplace=False):
    # Any other value makes a jump, which no continuous gate has: the superposition check will say so.
    return threshold + run.switch(z - threshold) if threshold == value else F.threshold(z, threshold, value)


def _abs(run: GateRunner, z):
    return run.switch(z, -1.0)


def _maximum(run: GateRunner, z, other):
    return z + run.switch(other - z)


def _minimum(run: GateRunner, z, other):
    return z - run.switch(z - other)


def _max_pool(axes: int, with_indices: bool = False):
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]

    def pool(
        run: GateRunner,
        z,
        kernel_size,
        stride=None,
        padding=0,
        dilation=1,
        ceil_mode=False,
        return_indices=with_indices,
    ):
        arguments = {"kernel_size": kernel_size, "stride": stride or None, "padding": padding}
        windows = Pool(function, arguments | {"dilation": dilation, "ceil_mode": ceil_mode}, axes)
        out = run.choice(z, windows)
        return (out, windows.winners(z)) if return_indices else out

    return pool


def _adaptive_max_pool(axes: int):
    function = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[axes - 1]

    # `F.adaptive_max_pool2d` always says whether it returns indices; the forms that do not say return a pair.
    def pool(run: GateRunner, z, output_size, return_indices=True):
        windows = Pool(function, {"output_size": output_size}, axes)
        out = run.choice(z, windows)
        return (out, windows.winners(z)) if return_indices else out

    return pool


GATES: dict[str, Callable[..., Any]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "rrelu": _rrelu,
    "prelu": _prelu,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda run, z, min: _clamp(run, z, min),
    "clamp_max": lambda run, z, max: _clamp(run, z, None, max),
    "hardtanh": _hardtanh,
    "relu6": _relu6,
    "hardsigmoid": _hardsigmoid,
    "threshold": _threshold,
    "_threshold": _threshold,
    "abs": _abs,
    **dict.fromkeys(("maximum", "max", "fmax"), _maximum),
    **dict.fromkeys(("minimum", "min", "fmin"), _minimum),
    **{f"max_pool{axes}d": _max_pool(axes) for axes in (1, 2, 3)},
    **{f"max_pool{axes}d_with_indices": _max_pool(axes, with_indices=True) for axes in (1, 2, 3)},
    **{f"adaptive_max_pool{axes}d": _adaptive_max_pool(axes) for axes in (1, 2, 3)},
    **{f"adaptive_max_pool{axes}d_with_indices": _adaptive_max_pool(axes) for axes in (1, 2, 3)},
}

# Functions that no choice of gates makes affine. Only named for a better sentence: the superposition check finds the
# rest.
SMOOTH = frozenset(
    "sigmoid tanh softmax log_softmax softmin gelu silu mish elu selu celu softplus softsign tanhshrink logsigmoid "
    "log_sigmoid hardswish erf exp expm1 log log1p sqrt rsqrt reciprocal sin cos tan atan square layer_norm group_norm "
    "instance_norm local_response_norm rms_norm normalize scaled_dot_product_attention logsumexp cumprod prod".split()
)


@functools.lru_cache(maxsize=1024)
def operation_name(function: Callable[..., Any]) -> tuple[str, bool]:
    """The bare name of a PyTorch operation, and whether it works in place (by a trailing underscore)."""
    name = getattr(function, "__name__", "").split(".")[0]
    if name.endswith("_") and not name.endswith("__"):
        return name[:-1], True
    return name, False


def is_gate_call(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether this call of a listed name is a gate: on a floating-point tensor (`max` and `min`: on two)."""
    if not arguments or not isinstance(arguments[0], Tensor):
        return False
    if name in ("max", "min") and not isinstance(options.get("other", arguments[1:2] and arguments[1]), Tensor):
        return False
    return arguments[0].is_floating_point()


def tensor_first(arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A gate call's arguments with its tensor in the first place, where it was named (`torch.relu(input=z)`)."""
    for keyword in ("input", "self"):
        if not arguments and keyword in options:
            return (options[keyword],), {key: value for key, value in options.items() if key != keyword}
    return arguments, options


def is_inplace(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether a gate call was asked, by its `inplace` argument, to overwrite its input."""
    if "inplace" in options:
        return bool(options["inplace"])
    names = _argument_names(name)
    return "inplace" in names and len(arguments) > (at := names.index("inplace")) and bool(arguments[at])


def _argument_names(name: str) -> tuple[str, ...]:
    code = GATES[name].__code__
    return code.co_varnames[1 : code.co_argcount]
