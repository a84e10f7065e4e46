"""`gatewise invert`: what it writes, that its figures are those of the points, generators, features and classes."""

from __future__ import annotations

import json
import statistics
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gatewise.applications.inversion import Config
from gatewise.cli import main
from gatewise.errors import InvalidInput

GENERATORS = """
import torch
from torch import nn

def decoder(end):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 64), end, nn.Unflatten(1, (1, 8, 8))).eval()

def by_tanh():
    return decoder(nn.Tanh())

def by_sigmoid():
    return decoder(nn.Sigmoid())

def plain():
    return decoder(nn.Identity())

def smooth():
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 64), nn.Unflatten(1, (1, 8, 8))).eval()
"""


@pytest.fixture(autouse=True)
def _small_gallery(monkeypatch):
    """Drawing takes longer than searching: one line of pictures will do."""
    monkeypatch.setattr("gatewise.applications.inversion._SHOWN", 1)


@pytest.fixture
def generators(workplace):
    (workplace / "generators.py").write_text(GENERATORS)
    return workplace


def decoder(end: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 64), end, nn.Unflatten(1, (1, 8, 8))).eval()


def invert(model: str, *more: str) -> list[str]:
    shape = [] if "--input-shape" in more or not model.startswith("generators") else ["--input-shape", "6"]
    base = ["invert", "--model", model, "--count", "4", "--budget", "44", "--device", "cpu", "--out", "found"]
    return [*base, *shape, *more]


def told(folder) -> dict:
    return json.loads((folder / "found" / "summary.json").read_text())


def on_digits(model: str, *more: str) -> list[str]:
    return invert(model, "--data", "digits", *more)


def test_writes_summary_points_and_gallery_and_the_figures_are_those_of_the_points(generators, capsys):
    assert main(on_digits("generators:by_tanh", "--restarts", "2")) == 0
    assert sorted(path.name for path in (generators / "found").iterdir()) == [
        "gallery.png",
        "points.safetensors",
        "summary.json",
    ]
    summary, points = told(generators), load_file("found/points.safetensors")
    assert (summary["end"], summary["output_range"], summary["rows"]) == ("tanh", [-1.0, 1.0], 4)
    assert list(summary["methods"]) == ["adam", "gauss-newton"]
    for name, figures in summary["methods"].items():
        images = (decoder(nn.Tanh())(points[name]) + 1) / 2
        torch.testing.assert_close(images, points[f"{name} image"])
        apart = (images - points["original"]).flatten(1).square().mean(1)
        assert figures["mse_median"] == pytest.approx(statistics.median(apart.tolist()), rel=1e-4)
        assert figures["psnr_mean"] == pytest.approx((-10 * apart.log10()).mean().item(), rel=1e-4)
        assert figures["measured_error_median"] == figures["mse_median"]
        assert 0 < figures["ssim_mean"] < 1
        assert figures["max_violation"] == 0
        assert 0 < figures["backwards_per_row"] <= 44
        before = (decoder(nn.Tanh())(points["start"]) + 1) / 2
        assert figures["mse_mean"] < (before - points["original"]).square().mean().item()
    assert "PSNR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "end", "low"), [("by_sigmoid", "sigmoid", 0.0), ("plain", "none", 0.0), ("by_tanh", "tanh", -1.0)]
)
def test_the_end_of_the_generator_is_found_and_taken_off(generators, model, end, low):
    # A method that needs a piecewise-linear network runs: the end is part of the objective.
    assert main(on_digits(f"generators:{model}", "--method", "gauss-newton")) == 0
    assert (told(generators)["end"], told(generators)["output_range"][0]) == (end, low)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_generator_of_ones_own_from_a_file(generators, kind):
    module = decoder(nn.Sigmoid())
    if kind == "onnx":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter that needs no further package
            torch.onnx.export(module, (torch.rand(1, 6),), "net.onnx", dynamo=False)
    else:
        axes = ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(module, (torch.rand(4, 6),), dynamic_shapes=axes), "net.pt2")
    assert main(on_digits(f"net.{kind}", "--method", "gauss-newton")) == 0
    assert told(generators)["end"] == "sigmoid"


@pytest.mark.parametrize("measure", ["mask:box=4", "mask:keep=0.3", "blur:sigma=1", "downsample:factor=2"])
def test_images_seen_in_part(generators, measure):
    assert main(on_digits("generators:by_sigmoid", "--measure", measure, "--noise", "0.05", "--l2", "0.001")) == 0
    for figures in told(generators)["methods"].values():
        assert figures["measured_error_median"] != figures["mse_median"]
        assert figures["value_median"] > figures["measured_error_median"]


def test_an_image_of_the_generator_is_found_again(generators):
    """Whatever is measured: 6 latents, 30 products of each image."""
    images = decoder(nn.Sigmoid())(torch.randn(4, 6, generator=torch.Generator().manual_seed(9))).detach()
    import numpy as np

    np.savez("made.npz", images=images.numpy(), labels=np.zeros(4, dtype=np.int64))
    flags = ["--data", "made.npz", "--measure", "projection:count=30", "--method", "gauss-newton", "--budget", "330"]
    assert main(invert("generators:by_sigmoid", *flags)) == 0
    assert told(generators)["methods"]["gauss-newton"]["mse_median"] < 1e-8


def test_the_same_seed_gives_the_same_points_in_any_batch(generators):
    flags = ["--measure", "projection:count=20", "--noise", "0.1", "--restarts", "2", "--seed", "5"]
    assert main(on_digits("generators:by_tanh", *flags)) == 0
    first = load_file("found/points.safetensors")
    assert main(on_digits("generators:by_tanh", *flags, "--batch", "3")) == 0
    for name, tensor in load_file("found/points.safetensors").items():
        torch.testing.assert_close(tensor, first[name], rtol=1e-3, atol=1e-3)
    assert main(on_digits("generators:by_tanh", *flags[:-1], "6")) == 0
    assert not torch.equal(load_file("found/points.safetensors")["start"], first["start"])


def test_a_restart_begins_somewhere_else(generators):
    """The first start is not drawn a second time."""
    starts: list[Tensor] = []
    from gatewise.domains import Latents

    usual = Latents.sample

    def watched(self, streams, like):
        starts.append(usual(self, streams, like))
        return starts[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Latents, "sample", watched)
        assert main(on_digits("generators:by_tanh", "--method", "adam", "--restarts", "2")) == 0
    assert len(starts) == 2
    assert not torch.isclose(*starts).any()


def test_latents_stay_within_their_radius(generators):
    assert main(on_digits("generators:plain", "--latent-radius", "0.5", "--start", "middle")) == 0
    points = load_file("found/points.safetensors")
    assert (points["start"] == 0).all()
    assert points["gauss-newton"].abs().max() <= 0.5


def test_features_of_a_layer_are_matched(workplace, trained_weights):
    flags = ["--weights", trained_weights, "--data", "digits", "--layer", "2", "--method", "gauss-newton"]
    flags += ["--budget", "110", "--total-variation", "1e-5"]
    assert main(invert("little_networks:network", *flags)) == 0
    summary, points = told(workplace), load_file("found/points.safetensors")
    figures = summary["methods"]["gauss-newton"]
    assert (summary["task"], summary["layer"]) == ("features", "2")
    assert figures["feature_error_median"] < 0.02
    assert figures["mse_median"] > 0
    assert 0 <= points["gauss-newton"].min()
    assert points["gauss-newton"].max() <= 1
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    module.load_state_dict(load_file(trained_weights))
    target, reached = (module[:3](points[name]).detach() for name in ("original", "gauss-newton"))
    errors = (reached - target).square().mean(1) / target.square().mean(1)
    assert figures["feature_error_median"] == pytest.approx(statistics.median(errors.tolist()), rel=1e-3)
    assert figures["feature_error_mean"] == pytest.approx(errors.mean().item(), rel=1e-3)


def test_the_whole_output_may_be_matched(workplace, trained_weights):
    flags = ["--weights", trained_weights, "--data", "digits", "--layer", "output", "--method", "adam"]
    assert main(invert("little_networks:network", *flags)) == 0
    assert told(workplace)["methods"]["adam"]["feature_error_median"] < 0.1


@pytest.mark.parametrize("score", ["logit", "ce"])
def test_images_of_a_class(workplace, trained_weights, score):
    flags = ["--weights", trained_weights, "--class", "3", "--input-shape", "1,8,8", "--score", score]
    flags += ["--total-variation", "0.5", "--l2", "0.01", "--method", "adam"]
    assert main(invert("little_networks:network", *flags)) == 0
    figures = told(workplace)["methods"]["adam"]
    assert figures["success"] == 1
    assert figures["probability_mean"] > 0.9
    assert figures["mse_median"] is None


def test_a_config_from_python_is_checked_like_the_flags():
    with pytest.raises(InvalidInput, match="nothing to match"):
        Config(model="zoo:mnist-vae-decoder")


def test_the_published_decoder_reconstructs_digits(tmp_path, monkeypatch, data_folder):
    monkeypatch.chdir(tmp_path)
    weights = str(data_folder / "models/mnist_vae/vae.pt")
    flags = ["--weights", weights, "--data", "mnist:test", "--budget", "110", "--method", "gauss-newton"]
    assert main(invert("zoo:mnist-vae-decoder", *flags)) == 0
    assert told(tmp_path)["end"] == "sigmoid"
    assert told(tmp_path)["methods"]["gauss-newton"]["mse_median"] < 0.02


# Bad input: one sentence, exit code 2, nothing written.


def _truncated(folder) -> str:
    save_file(decoder(nn.Tanh()).state_dict(), folder / "whole.safetensors")
    content = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[: len(content) // 2])
    return "cut.safetensors"


def _saved(folder, nan: bool = False, scale: float = 1.0, side: int = 8) -> str:
    import numpy as np

    images = scale * np.random.default_rng(0).random((4, 1, side, side), dtype=np.float32)
    if nan:
        images[0, 0, 0, 0] = np.nan
    np.savez(folder / "data.npz", images=images, labels=np.zeros(4, dtype=np.int64))
    return "data.npz"


BAD = {
    "nothing to match": (lambda p: ["--model", "generators:plain"], "--data"),
    "class and data": (lambda p: ["--class", "1", "--data", "digits"], "--class"),
    "class and layer": (lambda p: ["--class", "1", "--layer", "0"], "--layer"),
    "images of another size": (lambda p: ["--data", _saved(p, side=6)], "(1, 6, 6)"),
    "NaN pixel": (lambda p: ["--data", _saved(p, nan=True)], "NaN"),
    "pixels outside [0, 1]": (lambda p: ["--data", _saved(p, scale=3)], "outside"),
    "unknown measurement": (lambda p: ["--data", "digits", "--measure", "musk:box=3"], "mask:box"),
    "measurement that does not fit": (lambda p: ["--data", "digits", "--measure", "downsample:factor=3"], "8 x 8"),
    "mask that hides all": (lambda p: ["--data", "digits", "--measure", "mask:box=8"], "smaller"),
    "negative noise": (lambda p: ["--data", "digits", "--noise", "-1"], "--noise"),
    "negative weight": (lambda p: ["--data", "digits", "--l2", "-1"], "--l2"),
    "weight that is NaN": (lambda p: ["--data", "digits", "--l2", "nan"], "--l2"),
    "total variation of a latent": (lambda p: ["--data", "digits", "--total-variation", "1"], "--l2"),
    "layer that is not there": (lambda p: ["--data", "digits", "--layer", "5"], "did you mean"),
    "measurement of features": (lambda p: ["--data", "digits", "--layer", "0", "--measure", "mask:box=2"], "--measure"),
    "latents of another shape": (lambda p: ["--data", "digits", "--input-shape", "7"], "--input-shape"),
    "shape of nothing": (lambda p: ["--data", "digits", "--input-shape", "0.5"], "--input-shape"),
    "no radius": (lambda p: ["--data", "digits", "--latent-radius", "0"], "--latent-radius"),
    "upside-down range": (lambda p: ["--data", "digits", "--output-range", "1,-1"], "--output-range"),
    "no restarts": (lambda p: ["--data", "digits", "--restarts", "0"], "--restarts"),
    "no budget": (lambda p: ["--data", "digits", "--budget", "0"], "--budget"),
    "negative seed": (lambda p: ["--data", "digits", "--seed", "-1"], "--seed"),
    "unknown method": (lambda p: ["--data", "digits", "--method", "gaus-newton"], "gauss-newton"),
    "method twice": (lambda p: ["--data", "digits", "--method", "adam", "--method", "adam"], "twice"),
    "truncated weights": (lambda p: ["--data", "digits", "--weights", _truncated(p)], "truncated"),
    "missing weights": (lambda p: ["--data", "digits", "--weights", "nowhere.pt"], "nowhere.pt"),
    "unbounded images": (lambda p: ["--data", "digits", "--layer", "0", "--bounds", "none"], "--bounds"),
    "wrong start": (lambda p: ["--data", "digits", "--start", "edge"], "--start"),
    "class without a classifier": (lambda p: ["--class", "1"], "--class 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_one_sentence_and_exit_code_2(case, generators, capsys):
    change, names = BAD[case]
    flags = change(generators)
    model = [] if "--model" in flags else ["--model", "generators:plain"]
    shape = [] if "--input-shape" in flags else ["--input-shape", "6"]
    before = sorted(path.name for path in generators.rglob("*"))
    assert main(["invert", *model, *shape, "--budget", "5", "--out", "found", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gatewise: ")
    assert said.count("\n") == 1
    assert names in said
    assert sorted(path.name for path in generators.rglob("*") if "__pycache__" not in str(path)) == before


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        ("little_networks:network", ["--data", "digits"], "--input-shape"),
        ("generators:smooth", ["--data", "digits", "--input-shape", "6", "--method", "gauss-newton"], "tanh"),
        ("little_networks:network", ["--class", "11", "--input-shape", "1,8,8"], "--class 11"),
    ],
)
def test_models_that_cannot_are_refused(generators, capsys, model, flags, said):
    assert main(["invert", "--model", model, *flags, "--budget", "20", "--out", "found"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (generators / "found").exists()
