"""What stands between two affine blocks: a switch, a max-pool, both at once, or nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from gatewise.errors import UnsupportedNetwork
from gatewise.network.blocks.graph_projection import nearest_on_graph
from gatewise.network.operations import Pool
from gatewise.network.rules import leaky


@dataclass(frozen=True, eq=False)
class Activation:
    """`t = phi(max of the window)`; `slope` is phi's below zero (1: the identity), `window` the sizes of the pool's
    windows along the last axes, which do not overlap (empty: no pool).
    """

    slope: float | Tensor = 1.0
    window: tuple[int, ...] = ()

    def __call__(self, s: Tensor) -> Tensor:
        """The output at pre-activations `s` (batch, …)."""
        m = self._entries(s).amax(0) if self.window else s
        return leaky(m.clamp_min(0), m, self.slope)

    def project(self, p: Tensor, q: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The nearest pre-activations and outputs that belong together, shaped as `p` and `q`; with `before`, the
        pre-activations of an earlier pair, the nearest on its piece of the graph (`nearest_on_graph`).
        """
        if not self.window:
            s, t = nearest_on_graph(p[None], q, self.slope, None if before is None else before[None])
            return s[0], t
        earlier = None if before is None else self._entries(before)
        s, t = nearest_on_graph(self._entries(p), q, self.slope, earlier)
        return self._map(s, p), t

    def _entries(self, s: Tensor) -> Tensor:
        """The windows' entries, (entries, batch, …, *pooled)."""
        axes = len(self.window)
        pooled = [n // k for n, k in zip(s.shape[-axes:], self.window, strict=True)]
        covered = s[(..., *(slice(n * k) for n, k in zip(pooled, self.window, strict=True)))]
        lead = s.shape[:-axes]
        parted = covered.reshape(*lead, *(x for pair in zip(pooled, self.window, strict=True) for x in pair))
        inner = [len(lead) + 2 * axis + 1 for axis in range(axes)]
        return parted.movedim(inner, list(range(axes))).reshape(-1, *lead, *pooled)

    def _map(self, entries: Tensor, like: Tensor) -> Tensor:
        """The way back; what no window covers is as in `like`."""
        axes = len(self.window)
        lead, pooled = like.shape[:-axes], entries.shape[-axes:]
        inner = [len(lead) + 2 * axis + 1 for axis in range(axes)]
        parted = entries.view(*self.window, *entries.shape[1:]).movedim(list(range(axes)), inner)
        covered = parted.reshape(*lead, *(n * k for n, k in zip(pooled, self.window, strict=True)))
        if covered.shape == like.shape:
            return covered
        whole = like.clone()
        whole[(..., *(slice(n) for n in covered.shape[-axes:]))] = covered
        return whole


def windows_of(pool: Pool, z: Tensor, gate: str) -> tuple[int, ...]:
    """The sizes of a max-pool's windows at `z` (batch, …), along its last axes.

    Raises:
        UnsupportedNetwork: windows that overlap, leave gaps or reach beyond the map: they have no closed form.
    """

    def each(name: str, default: int) -> tuple[int, ...]:
        value = pool.arguments.get(name, default)
        return tuple(value) if isinstance(value, tuple | list) else (default if value is None else value,) * pool.axes

    shape, pooled = z.shape[-pool.axes :], pool.maximum(z[:1]).shape[-pool.axes :]
    window = each("kernel_size", 0)
    if "kernel_size" not in pool.arguments:
        window = tuple(n // m for n, m in zip(shape, pooled, strict=True))
        apart = all(n % m == 0 for n, m in zip(shape, pooled, strict=True))
    else:
        stride = each("stride", 0) if pool.arguments.get("stride") else window
        apart = stride == window and set(each("padding", 0)) == {0} and set(each("dilation", 1)) == {1}
        apart = apart and all(n * k <= size for n, k, size in zip(pooled, window, shape, strict=True))
    if not apart or math.prod(window) == 0:
        raise UnsupportedNetwork(
            f"{gate} is a max-pool whose windows overlap, have gaps or reach beyond the map, and onto their graph "
            "there is no projection in closed form; use pools with stride equal to the kernel and no padding, or "
            "another method (adam, pgd)."
        )
    return window
