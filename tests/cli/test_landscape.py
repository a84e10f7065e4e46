"""`gatewise landscape`: what it writes, and that its figures hold."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.numpy import load_file

from gatewise.cli import main

METHOD = {"steps", "best", "last", "backwards", "seconds", "gates_switched", "regions_entered", "agreement"}
LANDSCAPE = {"index", "label", "regions", "corners", "slivers", "seconds", "area_error", "methods"}


@pytest.fixture
def _no_pictures(monkeypatch):
    """Drawing takes longer than all the rest: empty files will do."""
    monkeypatch.setattr("gatewise.applications.landscape.draw_landscape", lambda paths, _: [p.touch() for p in paths])


def landscape(*more: str) -> int:
    return main(["landscape", "--model", "little_networks:network", "--device", "cpu", "--out", "found", *more])


def summary(folder) -> dict:
    return json.loads((folder / "found" / "summary.json").read_text())


def test_writes_pictures_page_regions_and_summary(workplace, trained_weights, capsys):
    methods = ["--method", "gd:step_size=0.1", "--method", "adr-gd:step_size=0.1", "--budget", "8"]
    given = ["--weights", trained_weights, "--data", "digits", "--window", "2", "--radius", "1/4", *methods]
    assert landscape(*given) == 0
    assert "linear regions" in capsys.readouterr().out
    written = sorted(path.name for path in (workplace / "found").iterdir())
    assert written == [
        "curves.png", "landscape.html", "landscape.png", "landscape.svg", "regions.safetensors", "summary.json",
    ]  # fmt: skip
    told = summary(workplace)
    assert list(told) == ["rows", "regions", "slivers", "seconds", "area_error", "window", "landscapes"]
    (one,) = told["landscapes"]
    assert set(one) == LANDSCAPE
    assert (one["index"], one["label"]) == (0, 0)
    assert told["regions"] == one["regions"] > 10
    assert told["area_error"] <= 1e-12
    arrays = load_file(workplace / "found" / "regions.safetensors")
    assert len(arrays["first"]) == told["regions"] + 1
    assert arrays["outputs"].shape == (one["corners"], 10)
    for name, walked in one["methods"].items():
        assert set(walked) == METHOD
        assert len(walked["gates_switched"]) == walked["steps"]
        assert (walked["agreement"] is None) == name.startswith("gd")
        assert walked["backwards"] <= 8


@pytest.mark.usefixtures("_no_pictures")
def test_the_same_seed_draws_the_same_plane_and_several_rows_are_told_apart(workplace, trained_weights):
    given = ["--weights", trained_weights, "--data", "digits", "--method", "none", "--objective", "cross-entropy"]
    assert landscape(*given, "--count", "2") == 0
    first = summary(workplace)
    assert [one["index"] for one in first["landscapes"]] == [0, 1]
    assert first["regions"] == sum(one["regions"] for one in first["landscapes"])
    assert {"landscape_0.html", "landscape_1.png", "regions_1.safetensors"} <= {
        path.name for path in (workplace / "found").iterdir()
    }
    assert not (workplace / "found" / "curves.png").exists()
    assert landscape(*given) == 0
    assert summary(workplace)["regions"] == first["landscapes"][0]["regions"]
    assert landscape(*given, "--seed", "1") == 0
    assert summary(workplace)["regions"] != first["landscapes"][0]["regions"]


@pytest.mark.usefixtures("_no_pictures")
def test_a_network_of_two_inputs_is_drawn_over_its_inputs(workplace):
    (workplace / "two_inputs.py").write_text(
        "import torch\nfrom torch import nn\n\ndef network():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1)).eval()\n"
    )
    given = ["--model", "two_inputs:network", "--center", "1,-2", "--window", "3", "--objective", "output:0"]
    assert main(["landscape", *given, "--maximise", "--method", "gd", "--budget", "5", "--out", "found"]) == 0
    points = load_file(workplace / "found" / "regions.safetensors")["points"]
    assert (points.min(0).tolist(), points.max(0).tolist()) == ([-0.5, -3.5], [2.5, -0.5])
    (walked,) = summary(workplace)["landscapes"][0]["methods"].values()
    assert walked["best"] >= walked["last"] - 1e-12


@pytest.mark.usefixtures("_no_pictures")
def test_a_plane_goes_through_the_rows_that_are_named(workplace, trained_weights):
    from gatewise.network import Plane
    from gatewise.readers import read_images

    given = ["--weights", trained_weights, "--data", "digits", "--method", "none", "--window", "12"]
    assert landscape(*given, "--through", "3,5") == 0
    images = read_images("digits", indices=[0, 3, 5]).images.double()
    plane = Plane.through(*images)
    torch.testing.assert_close(plane.at(plane.coordinates(images)), images)
    assert summary(workplace)["regions"] > 10


@pytest.mark.usefixtures("data_folder")
@pytest.mark.slow
def test_ten_thousand_polygons_of_the_published_network_within_a_minute(tmp_path, data_folder):
    weights = data_folder / "models" / "adr_gd_mnist" / "mnist_pgd.pt"
    given = ["--model", "zoo:adr-mnist-cnn", "--weights", str(weights), "--data", "mnist:test", "--method", "none"]
    assert main(["landscape", *given, "--count", "1", "--window", "1.0", "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["regions"] >= 10_000
    assert told["area_error"] <= 1e-6
    assert told["seconds"] < 60
