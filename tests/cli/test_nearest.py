"""`gatewise nearest`: what it writes, that its points hold, and how it compares with proved distances."""

from __future__ import annotations

import csv
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gatewise.applications.nearest_points import Config
from gatewise.cli import main
from gatewise.errors import InvalidInput
from gatewise.nearest import DEFAULT_METHOD

REFERENCE = Path(__file__).parents[1] / "reference" / "mnist_exact_l2.csv"
KEYS = {
    "success", "distance_mean", "distance_median", "ratio_mean", "ratio_max", "ratio_min", "proved", "below_bound",
    "forwards_per_row", "backwards_per_row", "cpu_seconds_per_row", "seconds", "median_seconds", "max_violation",
    "boundary",
}  # fmt: skip
AGAINST_REFERENCE = ("ratio_mean", "ratio_max", "ratio_min", "proved", "below_bound")


@pytest.fixture(autouse=True)
def _small_gallery(monkeypatch):
    """Drawing takes longer than searching: one line of pictures will do."""
    monkeypatch.setattr("gatewise.classifier_run._SHOWN", 1)


def nearest(weights: str, *more: str) -> list[str]:
    base = ["nearest", "--model", "little_networks:network", "--weights", weights, "--data", "digits"]
    method = [] if "--method" in more else ["--method", "ddn"]
    return [*base, "--count", "30", "--budget", "40", "--device", "cpu", *method, *more]


def summary(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


def trained(weights: str) -> nn.Module:
    from little_networks import network

    module = network()
    module.load_state_dict(load_file(weights))
    return module.double()


def test_writes_summary_points_and_gallery(workplace, trained_weights, capsys):
    assert main(nearest(trained_weights, "--method", "ddn", "--method", "fab", "--out", "found")) == 0
    written = sorted(path.name for path in (workplace / "found").iterdir())
    assert written == ["gallery.png", "points.safetensors", "summary.json"]
    told = summary(workplace / "found")
    assert list(told) == ["rows", "clean_accuracy", "attacked", "methods"]
    assert told["rows"] == 30
    assert list(told["methods"]) == ["ddn", "fab"]
    for measured in told["methods"].values():
        assert set(measured) == KEYS
        assert all(measured[key] is None for key in AGAINST_REFERENCE)
        assert measured["success"] == 1
        assert measured["max_violation"] == 0
        assert 0 < measured["boundary"] <= 1e-6
        assert 0 < measured["backwards_per_row"] <= 40
        assert measured["forwards_per_row"] > 20
        assert measured["median_seconds"] == pytest.approx(measured["seconds"] / told["attacked"])
        assert measured["cpu_seconds_per_row"] > 0
    assert (workplace / "found" / "gallery.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "fab" in printed
    assert "ratio" not in printed


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_everything_told_is_reproduced_from_the_points_alone(workplace, trained_weights, norm):
    assert main(nearest(trained_weights, "--norm", norm, "--method", "fmn", "--out", "found")) == 0
    points, told = load_file("found/points.safetensors"), summary(workplace / "found")
    module, clean, x = trained(trained_weights), points["clean"], points["fmn"]
    assert clean.dtype == x.dtype == torch.float64
    right = module(clean).argmax(1) == points["labels"]
    assert 0 < right.sum() < 30
    assert told["attacked"] == right.sum()
    assert told["clean_accuracy"] == pytest.approx(right.double().mean().item())
    assert torch.equal(x[~right], clean[~right])
    assert (module(x).argmax(1) != points["labels"]).all()
    assert x.min() >= 0
    assert x.max() <= 1
    p = {"l2": 2, "linf": math.inf, "l1": 1}[norm]
    distance = (x - clean)[right].flatten(1).norm(p=p, dim=1)
    measured = told["methods"]["fmn"]
    assert measured["distance_mean"] == pytest.approx(distance.mean().item(), rel=1e-12)
    assert measured["distance_median"] == pytest.approx(np.median(distance.numpy()), rel=1e-12)
    back = clean + (1 - 1e-6) * (x - clean)
    assert (module(back).argmax(1) == points["labels"])[right].all()


@pytest.mark.parametrize("aim", [["--target", "3"], ["--targeted", "next"]])
def test_targets_are_reached(workplace, trained_weights, aim):
    assert main(nearest(trained_weights, *aim, "--budget", "150", "--out", "found")) == 0
    points, told = load_file("found/points.safetensors"), summary(workplace / "found")
    labels, module = points["labels"], trained(trained_weights)
    targets = torch.full_like(labels, 3) if aim[0] == "--target" else (labels + 1) % 10
    attacked = (module(points["clean"]).argmax(1) == labels) & (labels != targets)
    assert told["attacked"] == attacked.sum() > 0
    assert told["methods"]["ddn"]["success"] == 1
    assert (module(points["ddn"]).argmax(1) == targets)[attacked].all()


def test_same_command_gives_the_same_bytes(workplace, trained_weights):
    methods = ["--method", "restarts:member=(pgd:random_start=true),times=2", "--method", "fab", "--seed", "4"]
    for folder in ("one", "two"):
        assert main(nearest(trained_weights, *methods, "--out", folder)) == 0
    one, two = ((workplace / folder / "points.safetensors").read_bytes() for folder in ("one", "two"))
    assert one == two


def test_it_is_the_same_in_batches(workplace, trained_weights):
    assert main(nearest(trained_weights, "--method", "fmn", "--out", "together")) == 0
    assert main(nearest(trained_weights, "--method", "fmn", "--batch", "7", "--out", "apart")) == 0
    together, apart = (summary(workplace / folder)["methods"]["fmn"] for folder in ("together", "apart"))
    assert apart["success"] == together["success"] == 1
    assert apart["distance_mean"] == pytest.approx(together["distance_mean"], rel=1e-5)
    assert apart["backwards_per_row"] == together["backwards_per_row"]


def test_single_precision(workplace, trained_weights):
    assert main(nearest(trained_weights, "--dtype", "float32", "--out", "single")) == 0
    assert main(nearest(trained_weights, "--out", "double")) == 0
    points = load_file("single/points.safetensors")
    assert points["ddn"].dtype == points["clean"].dtype == torch.float32
    single, double = (summary(workplace / folder)["methods"]["ddn"] for folder in ("single", "double"))
    assert single["success"] == 1
    assert single["max_violation"] == 0
    assert single["boundary"] < 1e-3
    assert single["distance_mean"] == pytest.approx(double["distance_mean"], rel=1e-2)


def test_bounds_of_its_own_and_none(workplace, trained_weights):
    for bounds in ("none", "-1,2"):
        assert main(nearest(trained_weights, "--bounds", bounds, "--out", bounds)) == 0
        assert summary(workplace / bounds)["methods"]["ddn"]["success"] == 1
        assert load_file(f"{bounds}/points.safetensors")["ddn"].min() < 0


def test_pixels_on_a_bound_that_single_precision_rounds_outward(workplace, trained_weights):
    pixels = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32) / 10
    pixels[:, :, 0] = 0.1
    labels = trained(trained_weights)(torch.from_numpy(pixels).double()).argmax(1)
    np.savez("dark.npz", images=pixels, labels=labels.numpy())
    assert main(nearest(trained_weights, "--data", "dark.npz", "--bounds", "0,0.1", "--out", "found")) == 0
    assert summary(workplace / "found")["methods"]["ddn"]["max_violation"] == 0
    assert load_file("found/points.safetensors")["ddn"].max() <= 0.1


def test_time_that_is_spent_leaves_rows_without_a_point(workplace, trained_weights):
    (workplace / "slow_network.py").write_text(
        "import time\nfrom torch import nn\n\nclass Slow(nn.Flatten):\n"
        "    def forward(self, x):\n        time.sleep(0.02)\n        return super().forward(x)\n\n"
        "def network():\n    return nn.Sequential(Slow(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).eval()\n"
    )
    flags = ["--model", "slow_network:network", "--seconds", "0.2", "--batch", "1", "--count", "20"]
    assert main(nearest(trained_weights, *flags, "--out", "found")) == 0
    told, points = summary(workplace / "found"), load_file("found/points.safetensors")
    measured = told["methods"]["ddn"]
    assert measured["success"] < 1
    assert measured["seconds"] < 2
    assert torch.equal(points["ddn"][-1], points["clean"][-1])


def test_a_network_that_is_wrong_everywhere_has_nothing_to_attack(workplace, trained_weights):
    np.savez("wrong.npz", images=np.zeros((3, 1, 8, 8), dtype=np.float32), labels=np.zeros(3, dtype=np.int64))
    module = trained(trained_weights).float()
    with torch.no_grad():
        module[3].bias[0] = -100.0
    from safetensors.torch import save_file

    save_file(module.state_dict(), "never_zero.safetensors")
    assert main(nearest("never_zero.safetensors", "--data", "wrong.npz", "--out", "found")) == 0
    told = summary(workplace / "found")
    assert told["attacked"] == told["clean_accuracy"] == 0
    measured = told["methods"]["ddn"]
    assert measured["max_violation"] == measured["seconds"] == 0
    assert all(measured[key] is None for key in KEYS - {"max_violation", "seconds"})


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_exported_networks_in_single_precision_and_in_double(workplace, trained_weights, kind):
    module = trained(trained_weights).float()
    if kind == "onnx":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter that needs no further package
            torch.onnx.export(module, (torch.rand(1, 1, 8, 8),), "net.onnx", dynamo=False)
    else:
        exported = torch.export.export(
            module, (torch.rand(4, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        torch.export.save(exported, "net.pt2")
    flags = [
        "nearest",
        "--model",
        f"net.{kind}",
        "--data",
        "digits",
        "--count",
        "20",
        "--budget",
        "30",
        "--method",
        "ddn",
    ]
    assert main([*flags, "--device", "cpu", "--dtype", "float32", "--out", "single"]) == 0
    assert summary(workplace / "single")["methods"]["ddn"]["success"] == 1
    assert main([*flags, "--device", "cpu", "--out", "double"]) == 0
    points = load_file("double/points.safetensors")
    assert points["ddn"].dtype == torch.float64
    assert (trained(trained_weights)(points["ddn"]).argmax(1) != points["labels"]).all()


SINGLE = """
import torch
from torch import nn

class Single(nn.Flatten):
    def forward(self, x):
        return super().forward(x).float()

def inside():
    return nn.Sequential(Single(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).eval()

def at_the_end():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10), Single()).eval()
"""


@pytest.mark.parametrize("place", ["inside", "at_the_end"])
def test_a_network_that_is_single_inside_is_told_of_the_flag(workplace, trained_weights, capsys, place):
    (workplace / "single_networks.py").write_text(SINGLE)
    assert main(nearest(trained_weights, "--model", f"single_networks:{place}", "--out", "found")) == 2
    said = capsys.readouterr().err
    assert "--dtype float32" in said
    assert said.count("\n") == 1
    flags = ["--model", f"single_networks:{place}", "--dtype", "float32", "--out", "found"]
    assert main(nearest(trained_weights, *flags)) == 0
    assert summary(workplace / "found")["methods"]["ddn"]["success"] == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--norm", "linf", "--method", "ddn"], "fmn"), (["--bounds", "none", "--method", "carlini-wagner"], "bounds")],
)
def test_a_method_that_cannot_says_so(workplace, trained_weights, capsys, flags, said):
    assert main(nearest(trained_weights, *flags, "--out", "found")) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (workplace / "found").exists()


# Proved distances


def written(folder: Path, optimum: dict[int, float], **changes: dict[int, str]) -> str:
    """A reference file, under the net `little`; with rows of another net between them."""
    lines = ["net,index,optimal_l2,status,lower_bound"]
    for index, distance in optimum.items():
        bound = changes.get("bounds", {}).get(index, str(distance * (1 - 1e-5)))
        lines += [f"other,{index},9.0,optimal,9.0"]
        lines += [f"little,{index},{distance},{changes.get('status', {}).get(index, 'optimal')},{bound}"]
    (folder / "proved.csv").write_text("\n".join(lines) + "\n")
    return "proved.csv:little"


def test_a_reference_says_which_rows_and_how_near(workplace, trained_weights):
    order = [17, 3, 11, 6, 8]
    plain = ["nearest", "--model", "little_networks:network", "--weights", trained_weights, "--data", "digits"]
    plain += ["--budget", "40", "--device", "cpu", "--method", "ddn"]
    reference = written(workplace, dict.fromkeys(order, 1.0))
    assert main([*plain, "--reference", reference, "--out", "first"]) == 0
    points = load_file("first/points.safetensors")
    assert points["index"].tolist() == order
    distance = (points["ddn"] - points["clean"]).flatten(1).norm(dim=1).tolist()
    by_row = dict(zip(order, distance, strict=True))
    assert all(value > 0 for value in distance)
    optimum = by_row | {3: by_row[3] / 1.25, 11: by_row[11] / (1 + 2e-4), 6: 9.0}
    reference = written(workplace, optimum, status={6: "time"}, bounds={6: "", 8: str(by_row[8] * 1.001)})
    assert main([*plain, "--reference", reference, "--out", "second"]) == 0
    measured = summary(workplace / "second")["methods"]["ddn"]
    assert measured["ratio_max"] == pytest.approx(1.25, rel=1e-6)
    assert measured["ratio_min"] == pytest.approx(1, rel=1e-6)
    assert measured["ratio_mean"] == pytest.approx((3 + 0.25 + 1 + 2e-4) / 4, rel=1e-6)
    assert measured["proved"] == 2
    assert measured["below_bound"] == 1
    assert main([*plain, "--reference", reference, "--count", "2", "--out", "third"]) == 0
    assert load_file("third/points.safetensors")["index"].tolist() == order[:2]
    assert summary(workplace / "third")["rows"] == 2


def test_a_reference_without_bounds_counts_none_below(workplace, trained_weights, capsys):
    (workplace / "proved.csv").write_text("net,index,optimal_linf\nlittle,3,0.05\n")
    flags = ["--norm", "linf", "--method", "fmn", "--reference", "proved.csv:little", "--out", "found"]
    assert main(nearest(trained_weights, *flags)) == 0
    measured = summary(workplace / "found")["methods"]["fmn"]
    assert measured["below_bound"] is None
    assert measured["ratio_mean"] is not None
    assert "ratio" in capsys.readouterr().out


def test_a_reference_for_other_images_is_refused(workplace, trained_weights, capsys):
    (workplace / "proved.csv").write_text("net,index,true_label,optimal_l2\nlittle,3,7,0.05\n")
    assert main(nearest(trained_weights, "--reference", "proved.csv:little", "--out", "found")) == 2
    assert "class 7" in capsys.readouterr().err


def test_the_method_that_is_taken_where_none_is_named(workplace, trained_weights):
    asked = ["nearest", "--model", "little_networks:network", "--weights", trained_weights, "--data", "digits"]
    assert main([*asked, "--count", "2", "--device", "cpu", "--out", "found"]) == 0
    assert list(summary(workplace / "found")["methods"]) == [DEFAULT_METHOD]


def test_a_config_from_python_is_checked_like_the_flags():
    with pytest.raises(InvalidInput, match="float16"):
        Config(model="zoo:mnist-mlp", data="digits", dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="l3"):
        Config(model="zoo:mnist-mlp", data="digits", norm="l3")  # type: ignore[arg-type]


def test_published_networks_against_their_proved_distances(tmp_path, monkeypatch, data_folder):
    """The first 20 images of n1: DDN is within 2% of the optima on average, at some of them, and below none."""
    monkeypatch.chdir(tmp_path)
    weights = str(data_folder / "models/mnist_mlp/n1.safetensors")
    flags = ["--data", "mnist:test", "--reference", f"{REFERENCE}:n1", "--count", "20", "--device", "cpu"]
    methods = ["--method", "ddn", "--method", "fab", "--out", "found"]
    assert main(["nearest", "--model", "zoo:mnist-mlp", "--weights", weights, *flags, *methods]) == 0
    told = summary(tmp_path / "found")
    with REFERENCE.open() as lines:
        first = [int(row["index"]) for row in csv.DictReader(lines) if row["net"] == "n1"][:20]
    assert load_file("found/points.safetensors")["index"].tolist() == first
    assert told["attacked"] == told["rows"] == 20
    for measured in told["methods"].values():
        assert measured["success"] == 1
        assert measured["below_bound"] == 0
        assert measured["ratio_min"] >= 1 - 1e-5
        assert measured["max_violation"] == 0
        assert measured["boundary"] <= 1e-6
        assert measured["proved"] > 0
    assert told["methods"]["ddn"]["ratio_mean"] < 1.02
