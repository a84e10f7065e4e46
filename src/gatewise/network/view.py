"""The lens: run the user's own module and choose what each gate does.

The calls that the module makes are intercepted (`torch.overrides.TorchFunctionMode`): nothing is traced, copied or
rewritten, so any Python forward works, functional gates and reused modules included.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gatewise.errors import InvalidInput, TrainingModeWarning, UnsupportedNetwork
from gatewise.network.meter import Meter
from gatewise.network.operations import GATES, SMOOTH, Pool, is_gate_call, is_inplace, operation_name, tensor_first
from gatewise.network.prefix import Prefix
from gatewise.network.region import LinearRegion
from gatewise.network.rules import GateRule, Network


@dataclass(frozen=True)
class Gate:
    """One gate as the network met it: a switch with its slope below zero, or a choice (max-pool) with its windows."""

    slope: float | Tensor = 0.0
    pool: Pool | None = None

    def pattern(self, z: Tensor) -> Tensor:
        """What this gate does at pre-activation `z`: bool (on where `z > 0`), or the winners of a max-pool (int64)."""
        return z > 0 if self.pool is None else self.pool.winners(z)


@dataclass(frozen=True, eq=False)
class Trace:
    """One run of a network.

    `input` (batch, …); `output` (batch, …); `gates` and `preactivations`, one for each gate in the order met, each
    pre-activation (batch, …), or none where the run was asked not to keep them. `smooth` names the known smooth
    functions met where a gradient was asked for, each with the number of gates before it.
    """

    input: Tensor
    output: Tensor
    gates: tuple[Gate, ...]
    preactivations: tuple[Tensor, ...]
    smooth: tuple[tuple[str, int], ...] = ()
    prefix: Prefix | None = None

    def pattern(self) -> tuple[Tensor, ...]:
        """The activation pattern, by gate: bool for switches, winners (int64) for max-pools."""
        return tuple(g.pattern(z.detach()) for g, z in zip(self.gates, self.preactivations, strict=True))

    def require_rows(self) -> Trace:
        """This trace, if every gate holds one row an input row: what per-gate methods need.

        Raises:
            UnsupportedNetwork: naming the first gate that does not, and the remedy.
        """
        for i, z in enumerate(self.preactivations):
            if z.shape[:1] != self.input.shape[:1]:
                raise UnsupportedNetwork(
                    f"Gate {i + 1} of {len(self.gates)} works on shape {tuple(z.shape)} for {len(self.input)} input "
                    "rows, so its neurons belong to no row; keep the batch axis first, or use a method without gate "
                    "rules (pgd, apgd)."
                )
        return self

    @property
    def switches(self) -> tuple[int, ...]:
        """Positions of the elementwise gates among all gates."""
        return tuple(i for i, gate in enumerate(self.gates) if gate.pool is None)


class NetworkView:
    """A module seen through its gates.

    Args:
        module: any `nn.Module` mapping (batch, …) to (batch, …), each row by itself. It is never changed: while it
            runs it is in evaluation mode with parameters that ask for no gradient, and afterwards it is as it was.
        rows_per_run: where the module takes only one batch size (some exported programs), that size. Larger batches
            are run in pieces and smaller ones filled up.
    """

    def __init__(self, module: nn.Module, *, rows_per_run: int | None = None):
        if not isinstance(module, nn.Module):
            raise InvalidInput(
                f"gatewise.view needs a torch.nn.Module, got {type(module).__name__}; "
                "wrap a function in a module whose forward calls it."
            )
        self.module = module
        self.meter = Meter()
        self._rows_per_run = rows_per_run if rows_per_run is not None else getattr(module, "rows_per_run", None)
        self._borrowed = False

    def __call__(self, x: Tensor) -> Tensor:
        """The network's output at `x` (batch, …), gates untouched; counted as one forward pass a row."""
        return self.plain(self.meter.forward(x))

    def plain(self, x: Tensor) -> Tensor:
        """The same, uncounted: for checking what a run claims."""
        with self.borrowed():
            if self._rows_per_run is None:
                return self.module(x)
            return torch.cat([self.module(piece) for _, piece in self._pieces(x)])[: len(x)]

    def trace(
        self,
        x: Tensor,
        rule: GateRule | None = None,
        *,
        keep: bool = True,
        remember: int = 0,
        after: Trace | None = None,
    ) -> Trace:
        """Run the network at `x` (batch, …) with every gate replaced by `rule` (None: the network itself). Counted as
        one forward pass a row, and one backward pass where a gradient comes.

        Args:
            x: (batch, …).
            rule: what each gate does.
            keep: keep what each gate was given; False saves the memory. A run in pieces keeps it anyway.
            remember: keep what is computed before this gate, for a run that goes on from there.
            after: an earlier run at the same `x`, under a rule that agrees with this one before the gate that it
                remembered: nothing before that gate is computed, or differentiated, twice. It keeps as this one does.
        """
        rule = Network() if rule is None else rule
        entered = self.meter.forward(x)
        with self.borrowed():
            if self._rows_per_run is None:
                if after is not None and after.prefix is not None:
                    with contextlib.suppress(_AnotherWay):
                        return self._intercepted(entered, rule, keep, onward=after)
                return self._intercepted(entered, rule, keep, Prefix(remember) if remember else None)
            pieces = [
                self._intercepted(piece, rule.each(lambda held, rows=rows: held[rows]))
                for rows, piece in self._pieces(entered)
            ]
        gates = zip(*(piece.preactivations for piece in pieces), strict=True)
        return replace(
            pieces[0],
            input=x,
            output=torch.cat([piece.output for piece in pieces])[: len(x)],
            preactivations=tuple(torch.cat(parts)[: len(x)] for parts in gates),
        )

    def pattern(self, x: Tensor) -> tuple[Tensor, ...]:
        """The activation pattern at `x`, by gate: bool tensors for switches, winners (int64) for max-pools."""
        with torch.no_grad():
            return self.trace(x).pattern()

    def region(self, x: Tensor) -> LinearRegion:
        """The linear region of each row of `x` (batch, …), float64 for choice: affine map, polytope, neighbours.

        Raises:
            UnsupportedNetwork: gates that belong to no row, or a max-pool whose windows are not known.
        """
        with torch.no_grad():
            here = self.trace(x).require_rows()
        return LinearRegion(self, here.input.detach(), here.gates, here.pattern())

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[None]:
        """Hold the module in evaluation mode with frozen parameters; give it back as it was, whatever happens."""
        if self._borrowed:
            yield
            return
        training = [(part, part.training) for part in self.module.modules()]
        wanting = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        if self.module.training and not _is_exported(self.module):
            warnings.warn(
                "The module is in training mode: it runs in evaluation mode here and is put back afterwards; "
                "call .eval() first to silence this.",
                TrainingModeWarning,
                stacklevel=3,
            )
        self._borrowed = True
        try:
            # The flags are set one by one: exported modules refuse .eval(), and users override it.
            for part, _ in training:
                part.training = False
            for parameter in wanting:
                parameter.requires_grad_(False)
            yield
        finally:
            for part, mode in training:
                part.training = mode
            for parameter in wanting:
                parameter.requires_grad_(True)
            self._borrowed = False

    def _intercepted(
        self, x: Tensor, rule: GateRule, keep: bool = True, prefix: Prefix | None = None, onward: Trace | None = None
    ) -> Trace:
        with _Interception(rule, self.meter, keep, prefix, onward) as met:
            output = self.module(x)
        return Trace(x, output, tuple(met.gates), tuple(met.preactivations), tuple(met.smooth), prefix)

    def _pieces(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Row numbers and rows of each piece; the last is filled up with copies of its last row."""
        assert self._rows_per_run is not None
        for first in range(0, len(x), self._rows_per_run):
            rows = torch.arange(first, first + self._rows_per_run, device=x.device).clamp_max(len(x) - 1)
            yield rows, x[rows]


def view(module: nn.Module) -> NetworkView:
    """See `module` through its gates: the first step of every use of gatewise."""
    return NetworkView(module)


class _AnotherWay(Exception):
    """A run that was to go on after another one makes other calls: it has to be run from the start."""


class _Interception(TorchFunctionMode):
    """While active, hands every gate call to a rule and keeps its pre-activation; remembers a prefix, or goes on
    after one.
    """

    def __init__(
        self, rule: GateRule, meter: Meter, keep: bool, prefix: Prefix | None = None, onward: Trace | None = None
    ):
        super().__init__()
        self.rule, self.meter, self.keep = rule, meter, keep
        self.gates: list[Gate] = []
        self.preactivations: list[Tensor] = []
        self.smooth: list[tuple[str, int]] = []
        self.prefix = prefix
        self.onward = onward
        calls = [] if onward is None or onward.prefix is None else onward.prefix.calls()
        self.done_before = iter(calls)
        self.counts_at = onward.prefix.gate if calls and onward is not None and onward.prefix is not None else None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, overwrites = operation_name(func)
        if self.onward is not None and (done := next(self.done_before, None)) is not None:
            known, result, gates_met = done
            if known != name:
                raise _AnotherWay
            new = slice(len(self.gates), gates_met)
            self.gates += self.onward.gates[new]
            self.preactivations += self.onward.preactivations[new]
            return result
        result = self.run(name, overwrites, func, args, kwargs or {})
        if self.prefix is not None and self.prefix.is_open:
            self.prefix.remember(name, result, len(self.gates))
        return result

    def run(
        self, name: str, overwrites: bool, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One call of the module: as it is, or through the rule."""
        if name not in GATES:
            if name in SMOOTH and any(isinstance(entry, Tensor) and entry.requires_grad for entry in args):
                self.smooth.append((name, len(self.gates)))
            return func(*args, **kwargs)
        args, options = tensor_first(args, kwargs)
        if not is_gate_call(name, args, options):
            return func(*args, **options)
        if not (overwrites or is_inplace(name, args, options)):
            return GATES[name](self, *args, **options)
        # The caller may go on with the overwritten tensor and ignore the return value, so both are the same tensor.
        before = args[0].clone()
        if self.prefix is not None and self.prefix.is_open:
            self.prefix.about_to_overwrite(args[0], before)
        return args[0].copy_(GATES[name](self, before, *args[1:], **options))

    def switch(self, z: Tensor, slope: float | Tensor = 0.0) -> Tensor:
        z = self._counted(z)
        self._meet(Gate(slope=slope), z)
        return self.rule.switch(len(self.gates) - 1, z, slope)

    def choice(self, z: Tensor, pool: Pool) -> Tensor:
        z = self._counted(z)
        self._meet(Gate(pool=pool), z)
        return self.rule.choice(len(self.gates) - 1, z, pool)

    def _meet(self, gate: Gate, z: Tensor) -> None:
        if self.prefix is not None and self.prefix.is_open and len(self.gates) == self.prefix.gate:
            self.prefix.close()
        self.gates.append(gate)
        if self.keep:
            self.preactivations.append(z)

    def _counted(self, z: Tensor) -> Tensor:
        """A run that goes on after another does not touch the input: its gradients are counted where it begins."""
        return self.meter.go_on(z) if len(self.gates) == self.counts_at else z


def _is_exported(module: nn.Module) -> bool:
    """Exported programs keep no mode: they count as in evaluation mode whatever their flag says."""
    return isinstance(module, torch.fx.GraphModule) and "eval" in module.__dict__
