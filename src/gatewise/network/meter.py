"""Counting passes where they happen, so that no method counts and none can forget."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Meter:
    """Passes through one network: rows sent forward, rows whose gradient came back, and which of those were zero.

    `forwards` and `backwards` count rows, so that a batch of 8 is 8 passes; a gradient through two runs of the network
    (surrogate and true) counts both. `moved` says for each row of the last batch whether any gradient since
    `forget_gradients` was other than exactly zero; None where no gradient was taken.
    """

    def __init__(self):
        self.forwards = 0
        self.backwards = 0
        self.moved: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Count a forward pass of the rows of `x`, and return `x` as a new tensor whose gradient will be counted."""
        self.forwards += len(x)
        return _told_of(x.clone(), self._entered)

    def go_on(self, z: Tensor) -> Tensor:
        """`z`, where a run goes on after another one, as a new tensor whose gradient will be counted as a pass."""
        return _told_of(z.clone(), self._count)

    def count(self, passes: int) -> None:
        """Count so many passes forward and as many backward, of all rows together, by a method that runs the network
        block by block.
        """
        self.forwards += passes
        self.backwards += passes

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

    def _entered(self, gradient: Tensor) -> None:
        self._count(gradient)
        moved = (gradient != 0).flatten(1).any(1)
        self.moved = moved if self.moved is None or self.moved.shape != moved.shape else self.moved | moved

    def tell(self, moved: Tensor) -> None:
        """`moved` (batch,) bool of this step's rows, from a method that differentiates copies of rows."""
        self.moved = moved.clone()

    def forget_gradients(self) -> None:
        """Begin a new step: no gradient seen yet."""
        self.moved = None


def _told_of(copy: Tensor, tell: Callable[[Tensor], None]) -> Tensor:
    """A copy (the module may overwrite its input) that tells of its gradient where it will have one."""
    if copy.requires_grad:
        copy.register_hook(tell)
    return copy
