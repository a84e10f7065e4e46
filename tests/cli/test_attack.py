"""`gatewise attack`: what it writes, and that it writes the same again."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from gatewise.cli import main


def attack(weights: str, *more: str) -> list[str]:
    base = ["attack", "--model", "little_networks:network", "--weights", weights, "--data", "digits"]
    return [*base, "--count", "30", "--radius", "0.2", "--budget", "12", "--device", "cpu", *more]


def summary(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_writes_summary_points_and_gallery(workplace, trained_weights, capsys):
    methods = ["--method", "pgd", "--method", "apgd", "--method", "adr-gd:step_size=0.5,gates=last"]
    assert main(attack(trained_weights, *methods, "--out", "found")) == 0
    assert sorted(path.name for path in (workplace / "found").iterdir()) == [
        "gallery.png",
        "points.safetensors",
        "summary.json",
    ]
    told = summary(workplace / "found")
    assert told["rows"] == 30
    assert list(told["methods"]) == ["pgd", "apgd", "adr-gd:step_size=0.5,gates=last"]
    assert told["warnings"] == []
    for measured in told["methods"].values():
        assert set(measured) == {
            "success", "mean_value", "forwards_per_row", "backwards_per_row", "seconds", "max_violation",
            "robust_accuracy", "warnings",
        }  # fmt: skip
        assert measured["warnings"] == []
        assert measured["max_violation"] == 0
        assert measured["backwards_per_row"] <= 12
    points = load_file(workplace / "found" / "points.safetensors")
    assert set(points) == {"index", "labels", "clean", *told["methods"]}
    assert points["pgd"].shape == points["clean"].shape == (30, 1, 8, 8)
    assert (workplace / "found" / "gallery.png").read_bytes().startswith(b"\x89PNG")
    assert "pgd" in capsys.readouterr().out


def test_success_is_reproduced_from_the_points_alone(workplace, trained_weights):
    assert main(attack(trained_weights, "--method", "pgd", "--out", "found")) == 0
    from little_networks import network

    module = network()
    module.load_state_dict(load_file(trained_weights))
    points = load_file("found/points.safetensors")
    right = module(points["clean"]).argmax(1) == points["labels"]
    fooled = module(points["pgd"]).argmax(1) != points["labels"]
    measured = summary(workplace / "found")["methods"]["pgd"]
    assert 0 < measured["success"] == pytest.approx((fooled & right).sum().item() / right.sum().item())
    assert measured["robust_accuracy"] == pytest.approx((right & ~fooled).double().mean().item())
    assert summary(workplace / "found")["clean_accuracy"] == pytest.approx(right.double().mean().item())
    assert (points["pgd"].double() - points["clean"].double()).abs().max() <= 0.2
    assert points["pgd"].min() >= 0
    assert points["pgd"].max() <= 1


def test_same_command_gives_the_same_bytes(workplace, trained_weights):
    methods = ["--method", "pgd:random_start=true", "--method", "adr-gd", "--restarts", "2", "--norm", "l2"]
    for folder in ("one", "two"):
        assert main(attack(trained_weights, *methods, "--out", folder)) == 0
    one, two = ((workplace / folder / "points.safetensors").read_bytes() for folder in ("one", "two"))
    assert one == two
    with safe_open("one/points.safetensors", "pt") as file:
        assert len(file.metadata() or {}) <= 1


def test_rows_draw_the_same_numbers_whatever_is_beside_them(workplace, trained_weights):
    flags = ["--method", "pgd:random_start=true", "--full-budget"]
    assert main(attack(trained_weights, *flags, "--out", "together")) == 0
    assert main(attack(trained_weights, *flags, "--batch", "7", "--out", "apart")) == 0
    together, apart = (
        load_file(f"{folder}/points.safetensors")["pgd:random_start=true"] for folder in ("together", "apart")
    )
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_radius_zero_returns_the_images_bit_for_bit(workplace, trained_weights):
    assert main(attack(trained_weights, "--method", "pgd", "--method", "apgd", "--radius", "0", "--out", "found")) == 0
    points = load_file("found/points.safetensors")
    assert torch.equal(points["pgd"], points["clean"])
    assert torch.equal(points["apgd"], points["clean"])
    assert summary(workplace / "found")["methods"]["pgd"]["success"] == 0


def test_full_budget_spends_it_and_raises_the_loss(workplace, trained_weights):
    assert main(attack(trained_weights, "--method", "pgd", "--radius", "0.4", "--out", "first")) == 0
    assert main(attack(trained_weights, "--method", "pgd", "--radius", "0.4", "--full-budget", "--out", "all")) == 0
    first, spent = (summary(workplace / folder)["methods"]["pgd"] for folder in ("first", "all"))
    assert spent["backwards_per_row"] == 12
    assert first["backwards_per_row"] <= 12
    assert spent["mean_value"] > first["mean_value"]
    assert spent["success"] >= first["success"]


@pytest.mark.parametrize("aim", [["--target", "3"], ["--targeted", "next"]])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_targeted_success_means_the_target(workplace, trained_weights, aim, loss):
    flags = ["--method", "pgd", "--loss", loss, "--radius", "0.5", *aim, "--out", "found"]
    assert main(attack(trained_weights, *flags)) == 0
    from little_networks import network

    module = network()
    module.load_state_dict(load_file(trained_weights))
    points = load_file("found/points.safetensors")
    labels = points["labels"]
    targets = torch.full_like(labels, 3) if aim[0] == "--target" else (labels + 1) % 10
    attacked = (module(points["clean"]).argmax(1) == labels) & (labels != targets)
    reached = attacked & (module(points["pgd"]).argmax(1) == targets)
    measured = summary(workplace / "found")["methods"]["pgd"]
    assert 0 < measured["success"] == pytest.approx(reached.sum().item() / attacked.sum().item())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_norm_stays_inside(workplace, trained_weights, norm):
    radius = {"linf": "8/255", "l2": "0.7", "l1": "3"}[norm]
    flags = ["--norm", norm, "--method", "pgd", "--method", "adr-gd", "--radius", radius, "--out", "found"]
    assert main(attack(trained_weights, *flags)) == 0
    assert all(m["max_violation"] == 0 for m in summary(workplace / "found")["methods"].values())


def test_seconds_without_a_budget_restart_until_the_time_is_spent(workplace, trained_weights):
    flags = [
        "--data",
        "digits",
        "--count",
        "5",
        "--radius",
        "0.02",
        "--seconds",
        "1.0",
        "--method",
        "pgd",
        "--out",
        "found",
    ]
    assert main(["attack", "--model", "little_networks:network", "--weights", trained_weights, *flags]) == 0
    measured = summary(workplace / "found")["methods"]["pgd"]
    assert 0.5 < measured["seconds"] < 3
    assert measured["backwards_per_row"] > 100


@pytest.mark.parametrize("kind", ["pt2 of any batch", "pt2 of four rows", "onnx"])
def test_exported_networks_give_the_same_points_as_the_module(workplace, trained_weights, kind):
    from little_networks import network

    module = network()
    module.load_state_dict(load_file(trained_weights))
    if kind == "onnx":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter that needs no further package
            torch.onnx.export(module, (torch.rand(1, 1, 8, 8),), "net.onnx", dynamo=False)
    else:
        dynamic = ({0: torch.export.Dim("batch")},) if kind == "pt2 of any batch" else None
        torch.export.save(torch.export.export(module, (torch.rand(4, 1, 8, 8),), dynamic_shapes=dynamic), "net.pt2")
    flags = ["--data", "digits", "--count", "30", "--radius", "0.2", "--budget", "12", "--method", "pgd"]
    flags += ["--method", "adr-gd", "--device", "cpu"]
    assert main(["attack", "--model", "net.onnx" if kind == "onnx" else "net.pt2", *flags, "--out", "exported"]) == 0
    assert main(attack(trained_weights, "--method", "pgd", "--method", "adr-gd", "--out", "module")) == 0
    exported, plain = (load_file(f"{folder}/points.safetensors") for folder in ("exported", "module"))
    for name in ("pgd", "adr-gd"):
        torch.testing.assert_close(exported[name], plain[name], rtol=0, atol=1e-4)


def colour_images(tmp_path) -> list[str]:
    """Channels last, as photographs come; flattened to 48 numbers by a network of its own."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "colour.npz", images=rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8), labels=np.arange(6))
    (tmp_path / "colour_network.py").write_text(
        "import torch\nfrom torch import nn\n\ndef network():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6)).eval()\n"
    )
    return ["--model", "colour_network:network", "--data", "colour.npz", "--budget", "5", "--device", "cpu"]


def test_colour_images_with_channels_last(workplace):
    flags = [*colour_images(workplace), "--radius", "8/255", "--method", "pgd", "--out", "found"]
    assert main(["attack", *flags]) == 0
    assert load_file("found/points.safetensors")["pgd"].shape == (6, 3, 4, 4)


@pytest.mark.parametrize("bounds", ["none", "-1,1"])
def test_bounds_are_those_given(workplace, bounds):
    flags = [*colour_images(workplace), "--radius", "0.5", "--method", "pgd", "--bounds", bounds, "--full-budget"]
    assert main(["attack", *flags, "--out", "found"]) == 0
    found = load_file("found/points.safetensors")
    attacked = (found["pgd"] != found["clean"]).flatten(1).any(1)
    assert attacked.any()
    assert found["pgd"].min() < 0


def test_the_time_is_kept_however_many_pieces_there_are(workplace, trained_weights):
    (workplace / "slow_network.py").write_text(
        "import time\nfrom torch import nn\n\nclass Slow(nn.Flatten):\n"
        "    def forward(self, x):\n        time.sleep(0.02)\n        return super().forward(x)\n\n"
        "def network():\n    return nn.Sequential(Slow(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).eval()\n"
    )
    flags = ["--data", "digits", "--count", "30", "--radius", "0.02", "--seconds", "0.3", "--batch", "1"]
    told = ["--model", "slow_network:network", "--weights", trained_weights, "--method", "pgd", "--out", "found"]
    assert main(["attack", *flags, *told]) == 0
    measured = summary(workplace / "found")["methods"]["pgd"]
    assert measured["seconds"] < 0.6
    assert measured["success"] < 1


def test_time_alone_is_spent_whatever_the_restarts(workplace, trained_weights):
    flags = ["--data", "digits", "--count", "3", "--radius", "0.01", "--seconds", "0.8", "--restarts", "2"]
    told = ["--model", "little_networks:network", "--weights", trained_weights, "--method", "pgd", "--out", "found"]
    assert main(["attack", *flags, *told]) == 0
    assert summary(workplace / "found")["methods"]["pgd"]["seconds"] > 0.5


def test_a_method_tells_its_settings_and_presets(capsys):
    assert main(["methods", "adr-gd"]) == 0
    told = capsys.readouterr().out
    assert "kick_size" in told
    assert "mnist-targeted" in told
    assert main(["methods", "adrgd"]) == 2
    assert "adr-gd" in capsys.readouterr().err


def test_a_member_has_settings_of_its_own(workplace, trained_weights):
    nested = "restarts:member=(pgd:step_size=0.5,schedule=constant),times=3"
    assert main(attack(trained_weights, "--method", nested, "--out", "found")) == 0
    assert list(summary(workplace / "found")["methods"]) == [nested]


def test_the_summary_says_which_member_of_a_portfolio_broke_how_many(workplace, trained_weights):
    flags = ["--data", "digits", "--count", "12", "--radius", "0.1", "--seconds", "2", "--device", "cpu"]
    named = ["--model", "little_networks:network", "--weights", trained_weights, "--out", "found"]
    assert main(["attack", *named, *flags, "--method", "strongest", "--method", "pgd"]) == 0
    told = summary(workplace / "found")
    strongest, pgd = told["methods"]["strongest"], told["methods"]["pgd"]
    assert set(strongest["broken_by"]) <= {"apgd", "gate-annealing", "gate-annealing, narrow", "local-milp"}
    attacked = told["rows"] * told["clean_accuracy"]
    assert sum(strongest["broken_by"].values()) == pytest.approx(strongest["success"] * attacked)
    assert strongest["success"] >= pgd["success"] > 0
    assert strongest["max_violation"] == 0
    assert "broken_by" not in pgd


def test_random_weights_are_warned_of(workplace):
    flags = ["--model", "zoo:mnist-cnn-a", "--data", "images.npz", "--radius", "0.1", "--budget", "1", "--out", "found"]
    np.savez("images.npz", images=np.zeros((2, 1, 28, 28), dtype=np.float32), labels=np.arange(2))
    with pytest.warns(UserWarning, match="random weights"):
        assert main(["attack", *flags]) == 0


def test_normalisation_goes_inside(workplace, trained_weights):
    flags = ["--method", "pgd", "--mean", "0", "--std", "1", "--out", "found"]
    assert main(attack(trained_weights, *flags)) == 0
    assert main(attack(trained_weights, "--method", "pgd", "--out", "plain")) == 0
    assert torch.equal(load_file("found/points.safetensors")["pgd"], load_file("plain/points.safetensors")["pgd"])


def test_training_mode_is_warned_of_and_does_not_matter(workplace, trained_weights):
    flags = ["--weights", trained_weights, "--data", "digits", "--count", "5", "--radius", "0.1", "--out", "found"]
    with pytest.warns(UserWarning, match="training mode"):
        assert main(["attack", "--model", "little_networks:in_training_mode", *flags]) == 0


def test_methods_are_listed_with_a_line_each(capsys):
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("pgd", "apgd", "adr-gd", "adr-gd-reference", "restarts"))


ROUNDED = """
import torch
from torch import nn

class Rounded(nn.Flatten):
    def forward(self, x):
        return (8 * super().forward(x)).round() / 8

def network():
    return nn.Sequential(Rounded(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).eval()

class Noisy(nn.Flatten):
    def forward(self, x):
        return super().forward(x) + 0.01 * torch.randn(len(x), 64)

def noisy():
    return nn.Sequential(Noisy(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).eval()
"""


def test_signs_of_failure_are_told_in_the_summary_and_under_the_table(workplace, trained_weights, capsys):
    (workplace / "rounded_networks.py").write_text(ROUNDED)
    flags = ["--model", "rounded_networks:network", "--method", "pgd", "--method", "square", "--radius", "0.3"]
    flags += ["--budget", "200", "--batch", "7", "--out", "found"]
    assert main([*attack(trained_weights), *flags]) == 0
    told, points = summary(workplace / "found"), load_file("found/points.safetensors")
    still, beaten = told["warnings"]
    assert set(still) == {"name", "rows", "sentence"}
    assert (still["name"], beaten["name"]) == ("zero gradient", "black box beats white box")
    moved = (points["square"] != points["clean"]).flatten(1).any(1)
    assert set(beaten["rows"]) <= set(moved.nonzero().flatten().tolist())
    assert len(beaten["rows"]) == round(told["methods"]["square"]["success"] * len(still["rows"])) > 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    first = ", ".join(map(str, still["rows"][:5]))
    assert lines[0] == f"zero gradient, rows {first}, … {len(still['rows'])} in all: {still['sentence']}"
    assert lines[1].startswith("black box beats white box, row")


def test_a_random_network_is_told_of_as_a_whole(workplace, trained_weights, capsys):
    (workplace / "rounded_networks.py").write_text(ROUNDED)
    flags = ["--model", "rounded_networks:noisy", "--method", "pgd", "--out", "found"]
    assert main([*attack(trained_weights), *flags]) == 0
    (found,) = summary(workplace / "found")["warnings"]
    assert (found["name"], found["rows"]) == ("random network", [])
    assert capsys.readouterr().out.splitlines()[-1] == f"random network: {found['sentence']}"


def test_steps_too_long_are_told_of_by_method(workplace, capsys):
    np.savez("flat.npz", images=np.random.default_rng(0).random((4, 2, 2)).astype(np.float32), labels=np.zeros(4, int))
    (workplace / "valley.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Valley(nn.Module):\n    def forward(self, x):\n"
        "        height = (x - 0.52).abs().flatten(1).sum(1)\n"
        "        return torch.stack([1 + height, torch.zeros_like(height)], 1)\n\n"
        "def network():\n    return Valley().eval()\n"
    )
    flags = ["--model", "valley:network", "--data", "flat.npz", "--radius", "0.5", "--budget", "41", "--device", "cpu"]
    methods = ["--method", "gd:step_size=2", "--method", "pgd", "--method", "restarts:member=gd,times=2"]
    assert main(["attack", *flags, *methods, "--out", "found"]) == 0
    told = summary(workplace / "found")
    assert told["warnings"] == told["methods"]["pgd"]["warnings"] == []
    assert told["methods"]["restarts:member=gd,times=2"]["warnings"] == []
    (found,) = told["methods"]["gd:step_size=2"]["warnings"]
    assert found["name"] == "last far from best"
    assert found["rows"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("last far from best (gd:step_size=2), row")


def test_the_installed_command_runs():
    done = subprocess.run(
        [sys.executable, "-m", "gatewise.cli", "methods"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "adr-gd" in done.stdout


def test_attack_runs_as_a_program(workplace, trained_weights):
    asked = [sys.executable, "-m", "gatewise.cli", *attack(trained_weights, "--method", "pgd", "--out", "found")]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (workplace / "found" / "summary.json").exists()
    done = subprocess.run([*asked, "--radius", "-1"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("gatewise: ")
    assert done.stderr.count("\n") == 1


def test_robust_mnist_network_as_measured(tmp_path, monkeypatch, data_folder):
    """The robust network of Yu & Gao at linf 0.2: PGD succeeds on at least 20 of 100 images, APGD on at least 19."""
    weights = str(data_folder / "models/adr_gd_mnist/mnist_pgd.pt")
    monkeypatch.chdir(tmp_path)
    flags = (
        "--model zoo:adr-mnist-cnn --data mnist:test --count 100 --norm linf --radius 0.2 --loss margin --budget 100"
    )
    methods = "--method pgd --method apgd --method adr-gd --seed 0 --out found"
    assert main(["attack", "--weights", weights, *flags.split(), *methods.split()]) == 0
    measured = summary(tmp_path / "found")["methods"]
    assert measured["pgd"]["success"] >= 0.20
    assert measured["apgd"]["success"] >= 0.19
    assert all(entry["max_violation"] == 0 for entry in measured.values())
