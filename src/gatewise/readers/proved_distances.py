"""Proved distances to the nearest adversarial points, from a `.csv` file of what an exact solver found."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.readers.table import read_table


@dataclass(frozen=True, eq=False)
class ProvedDistances:
    """What is known of one network's images, a row an image.

    `index` (N,) int64, the position of the image in its data set; `optimum` (N,) float64, the distance to the nearest
    adversarial point, NaN where it is not proved; `lower_bound` (N,) float64, NaN where there is none, or None where
    the file has no such column; `labels` (N,) int64 as the file states them, or None where it does not.
    """

    index: Tensor
    optimum: Tensor
    lower_bound: Tensor | None
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | list[int]) -> "ProvedDistances":
        """Some of the rows."""
        bound, labels = (None if held is None else held[rows] for held in (self.lower_bound, self.labels))
        return ProvedDistances(self.index[rows], self.optimum[rows], bound, labels)


def read_proved_distances(name: str, norm: str) -> ProvedDistances:
    """The proved distances that `name` means, in the file's order.

    Args:
        name: `FILE.csv:NET`: the rows whose column `net` is NET. The file needs the columns `net`, `index` and
            `optimal_<norm>`; it may have `status` (only rows with `optimal` are proved; without it all are),
            `lower_bound` and `true_label`.
        norm: l2, linf or l1.

    Raises:
        InvalidInput: a missing or broken file, one without these columns or without rows of NET, or a name without NET.
    """
    path, colon, net = name.rpartition(":")
    if not colon or not path or not net:
        raise InvalidInput(f"A reference is named FILE.csv:NET, got {name!r}.")
    table = read_table(path, "reference file", integers_in=0)
    nets = table.column(table.place("net"))
    chosen = [row for row, entry in enumerate(nets) if entry == net]
    if not chosen:
        raise InvalidInput(
            f"The reference file {path} has no row of the net {net!r}; it has {', '.join(sorted(set(nets)))}."
        )
    there = table.header or ()
    index = torch.tensor(table.integers(table.place("index")))
    optimum = torch.tensor(table.numbers(table.place(f"optimal_{norm}")), dtype=torch.float64)
    if "status" in there:
        proved = torch.tensor([entry == "optimal" for entry in table.column(table.place("status"))])
        optimum = optimum.where(proved, torch.nan)
    bound = (
        torch.tensor(table.numbers(table.place("lower_bound")), dtype=torch.float64) if "lower_bound" in there else None
    )
    labels = torch.tensor(table.integers(table.place("true_label"))) if "true_label" in there else None
    everything = ProvedDistances(index, optimum, bound, labels)
    return everything[chosen]
