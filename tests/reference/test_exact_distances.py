"""Searches from region to region come to proved distances, and never below them.

The optima in l2: branch and bound over the gates (`mnist_exact_l2.csv`). Those in linf and l1: mixed-integer programs
(`experiments/exact_small_networks.py`), written by `experiments/nearest_exact.py --table`.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gatewise as gw
from gatewise.readers import read_images, read_model

HERE = Path(__file__).parent
L2 = HERE / "mnist_exact_l2.csv"
OTHERS = HERE / "mnist_exact_linf_l1.csv"
EXPONENT = {"l2": 2.0, "linf": float("inf"), "l1": 1.0}


def optima(norm: str, rows: int) -> tuple[list[int], Tensor, Tensor]:
    """Positions of the first rows of network n1 in the data set, proved distances and lower bounds."""
    with (L2 if norm == "l2" else OTHERS).open(newline="") as file:
        told = [row for row in csv.DictReader(file) if row["net"] == "n1" and row.get("norm", "l2") == norm][:rows]
    best = torch.tensor([float(row["optimal_l2" if norm == "l2" else "optimal"]) for row in told], dtype=torch.float64)
    if norm == "l2":
        bounds = torch.tensor([float(row["lower_bound"]) for row in told], dtype=torch.float64)
    else:
        bounds = best * (1 - 1e-6)
    return [int(row["index"]) for row in told], best, bounds


def ratios(data_folder: Path, norm: str, method: str, rows: int) -> Tensor:
    """Distance found over the proved one; each point is checked on the module itself, in float64."""
    index, best, bounds = optima(norm, rows)
    module = read_model("zoo:mnist-mlp", data_folder / "models" / "mnist_mlp" / "n1.safetensors").double()
    data = read_images("mnist:test", indices=index)
    images = data.images.double()
    found = gw.nearest(module, images, data.labels, norm=norm, method=method, progress=False)
    assert found.x.dtype == torch.float64
    assert (found.x >= 0).all()
    assert (found.x <= 1).all()
    with torch.no_grad():
        assert (module(found.x).argmax(1) != data.labels).all()
    distance = (found.x - images).flatten(1).norm(p=EXPONENT[norm], dim=1)
    torch.testing.assert_close(distance, found.value, rtol=1e-12, atol=0)
    assert (distance >= bounds).all()
    return distance / best


def test_rlr_qp_comes_to_the_proved_optimum_in_l2(data_folder):
    found = ratios(data_folder, "l2", "rlr-qp", 5)
    assert found.mean() <= 1.0003
    assert found.max() <= 1.01


def test_face_walk_comes_near_the_proved_optimum_in_l2(data_folder):
    assert ratios(data_folder, "l2", "face-walk:steps=10", 5).mean() <= 1.01


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_a_short_run_comes_near_the_proved_optimum_in_other_norms(data_folder, norm):
    assert ratios(data_folder, norm, "rlr-qp:exploring=1,phases=1,points=3,kept=3,rivals=3", 3).max() <= 1.02


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_the_table_is_of_proved_rows(norm):
    with OTHERS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["norm"] == norm]
    assert len(rows) >= 10
    assert all(0 <= float(row["gap"]) <= 1.1e-6 for row in rows)
