"""What a classifier is trained to withstand, and measured against: an attack without its images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gatewise.attack import Loss, attack, ball_in_box
from gatewise.catalogue import method_named
from gatewise.classification import Norm
from gatewise.domains import Domain
from gatewise.errors import InvalidInput
from gatewise.methods.base import Method
from gatewise.network import NetworkView
from gatewise.result import Result


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """What training is to withstand: `gatewise.attack`'s settings, without the images.

    Raises:
        InvalidInput: a radius, norm, method, loss or budget that cannot be used.
    """

    radius: float
    """Of the ball around each image, in units of pixels, at least 0."""
    norm: Norm = "linf"
    method: Method | str = "pgd:random_start=true"
    """A method or its name with settings; `fgsm` gives FGSM training. Free training does not use it."""
    loss: Loss = "ce"
    """What the attack raises: ce (cross-entropy, as in the papers), margin or dlr."""
    budget: int = 10
    """Backward passes a row at each minibatch."""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    """Smallest and largest value of a pixel, or None."""

    def __post_init__(self):
        if isinstance(self.method, str):
            method_named(self.method)
        if self.loss not in ("ce", "margin", "dlr"):
            raise InvalidInput(f"There is no loss {self.loss!r}; choose ce, margin or dlr.")
        if self.budget < 1:
            raise InvalidInput(f"The attack's budget must be at least 1 backward pass a row, got {self.budget}.")
        self.around(torch.full((1, 1), 0.0 if self.bounds is None else self.bounds[0]))

    def around(self, images: Tensor) -> Domain:
        """The set of points that the attack may reach from each of `images` (batch, …)."""
        return ball_in_box(images, self.norm, self.radius, self.bounds)

    def attack(
        self, network: NetworkView, images: Tensor, labels: Tensor, names: list[int], seed: int, full_budget: bool
    ) -> Result:
        """`gatewise.attack` on `images` (batch, …) with `labels` (batch,), whose random streams are called `names`."""
        return attack(
            network,
            images,
            labels,
            radius=self.radius,
            norm=self.norm,
            method=self.method,
            loss=self.loss,
            bounds=self.bounds,
            budget=self.budget,
            full_budget=full_budget,
            seed=seed,
            rows=names,
            progress=False,
        )
