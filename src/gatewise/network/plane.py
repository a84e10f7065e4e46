"""A plane through input space, and the network on it: two numbers in, the same output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gatewise.errors import InvalidInput
from gatewise.network.view import NetworkView
from gatewise.streams import RowStreams


@dataclass(frozen=True, eq=False)
class Plane:
    """The points `origin + a u + b v` of an input space: `origin` (…), `directions` (2, …) orthonormal, so that
    distances in the plane are distances in the input (2-norm). `axes` name the two directions in pictures.
    """

    origin: Tensor
    directions: Tensor
    axes: tuple[str, str] = ("first direction", "second direction")

    @classmethod
    def through(cls, origin: Tensor, one: Tensor, other: Tensor) -> Plane:
        """The plane through three points (…): the first axis leads from `origin` to `one`.

        Raises:
            InvalidInput: points of several shapes, or on one line.
        """
        if not origin.shape == one.shape == other.shape:
            raise InvalidInput(
                f"The points of a plane must have one shape, got {tuple(origin.shape)}, {tuple(one.shape)} and "
                f"{tuple(other.shape)}."
            )
        return cls(origin, _orthonormal(torch.stack([one - origin, other - origin])))

    @classmethod
    def drawn(cls, origin: Tensor, seed: int = 0) -> Plane:
        """The plane through an input (…), of two entries or more, along two directions drawn uniformly at random.

        Raises:
            InvalidInput: an input of one entry.
        """
        if origin.numel() < 2:
            raise InvalidInput(f"A plane needs inputs of two entries or more, got shape {tuple(origin.shape)}.")
        return cls(origin, _orthonormal(RowStreams(seed, [0, 1]).normal(origin.expand(2, *origin.shape))))

    @classmethod
    def inputs(cls, like: Tensor) -> Plane:
        """All inputs of a network of two: coordinates are the inputs themselves, shaped as `like` (…).

        Raises:
            InvalidInput: `like` has not two entries.
        """
        if like.numel() != 2:
            raise InvalidInput(f"The inputs of a network are a plane where there are two, not {like.numel()}.")
        directions = torch.eye(2).to(like).view(2, *like.shape)
        return cls(torch.zeros_like(like), directions, ("first input", "second input"))

    def at(self, coordinates: Tensor) -> Tensor:
        """The inputs (k, …) at `coordinates` (k, 2)."""
        flat = coordinates @ self.directions.flatten(1) + self.origin.flatten()
        return flat.view(len(coordinates), *self.origin.shape)

    def coordinates(self, x: Tensor) -> Tensor:
        """Where the nearest points of the plane to `x` (k, …) are: (k, 2)."""
        return (x - self.origin).flatten(1) @ self.directions.flatten(1).T

    def of(self, network: NetworkView) -> NetworkView:
        """The network on the plane: its input (k, 2) are coordinates."""
        return NetworkView(_OnPlane(self, network.module), rows_per_run=network._rows_per_run)


class _OnPlane(nn.Module):
    def __init__(self, plane: Plane, module: nn.Module):
        super().__init__()
        self.plane, self.module = plane, module
        self.training = module.training

    def forward(self, coordinates: Tensor) -> Tensor:
        return self.module(self.plane.at(coordinates))


def _orthonormal(spans: Tensor) -> Tensor:
    """Two directions (2, …) with the same plane: the first its own, the second upright on it."""
    flat = spans.flatten(1).double()
    first = flat[0] / flat[0].norm()
    rest = flat[1] - (flat[1] @ first) * first
    rest = rest - (rest @ first) * first  # again, for what rounding left
    if not rest.norm() > 1e-12 * flat.norm():
        raise InvalidInput("The points of a plane must not lie on one line; give others.")
    return torch.stack([first, rest / rest.norm()]).to(spans).view_as(spans)
