"""Parts of a module as modules: up to a layer, and up to the smooth function that it ends in.

The module itself is run, whole or until the layer is reached; nothing is copied or rewritten.
"""

from __future__ import annotations

import contextlib
import difflib
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gatewise.errors import InvalidInput
from gatewise.network.operations import operation_name

End = Literal["none", "tanh", "sigmoid"]
_ENDS: dict[str, Any] = {"tanh": torch.tanh, "sigmoid": torch.sigmoid}


class UpToLayer(nn.Module):
    """`module` up to the output of its submodule called `layer` (`module.named_modules()`), at its first call.

    Raises:
        InvalidInput: there is no such submodule (the sentence has the nearest name), or it was not reached, or returned
            no tensor.
    """

    def __init__(self, module: nn.Module, layer: str):
        super().__init__()
        names = [name for name, _ in module.named_modules() if name]
        if layer not in names:
            near = difflib.get_close_matches(layer, names, n=1, cutoff=0.0)
            said = f"did you mean {near[0]!r} (it has {', '.join(names)})?" if near else "it has none."
            raise InvalidInput(f"The model has no layer {layer!r}; {said}")
        self.module, self.layer, self.training = module, layer, module.training
        self.rows_per_run = getattr(module, "rows_per_run", None)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (batch, …); the rest of the module is not run."""
        found: list[Any] = []

        def stop(_layer: nn.Module, _given: object, output: Any) -> None:
            found.append(output)
            raise _Reached

        hook = self.module.get_submodule(self.layer).register_forward_hook(stop)
        try:
            with contextlib.suppress(_Reached):
                self.module(x)
        finally:
            hook.remove()
        if not found or not isinstance(found[0], Tensor):
            raise InvalidInput(
                f"The layer {self.layer!r} gives no tensor when the model runs; name a layer that does, such as a "
                "convolution or a ReLU."
            )
        return found[0]


class WithoutEnd(nn.Module):
    """`module` without the tanh or sigmoid that it ends in: `end_of` says whether it does, at which call."""

    def __init__(self, module: nn.Module, call: int):
        super().__init__()
        self.module, self.call, self.training = module, call, module.training
        self.rows_per_run = getattr(module, "rows_per_run", None)

    def forward(self, x: Tensor) -> Tensor:
        """The module's output before its end, (batch, …)."""
        with _Calls(left_out=self.call):
            return self.module(x)


def without_end(module: nn.Module, x: Tensor) -> tuple[nn.Module, End]:
    """The module up to the tanh or sigmoid that it ends in, and which of them; the module itself where it ends in none.

    What comes after the function may only move entries (a reshape), which is checked at the inputs `x` (batch, …).
    """
    with torch.no_grad():
        with _Calls() as met:
            output = module(x)
        if not met.names:
            return module, "none"
        shorter, end = WithoutEnd(module, len(met.names) - 1), met.names[-1]
        before = shorter(x)
    if before.shape == output.shape and torch.equal(_ENDS[end](before), output):
        return shorter, end
    return module, "none"


class _Reached(Exception):
    """The layer has given its output."""


class _Calls(TorchFunctionMode):
    """Notes the calls of tanh and sigmoid; one of them may be left out, so that it gives what it was given."""

    def __init__(self, left_out: int | None = None):
        super().__init__()
        self.left_out = left_out
        self.names: list[Any] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, _ = operation_name(func)
        if name in _ENDS and args:
            self.names.append(name)
            if len(self.names) - 1 == self.left_out:
                return args[0]
        return func(*args, **(kwargs or {}))
