"""`gatewise train`: what it writes, that `gatewise attack` reads it, that it writes the same again, and bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gatewise.cli import main

MORE = """
import torch
from torch import nn
from little_networks import network

def with_norm():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

def tied():
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(64, 10))

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        logits = self.layer(x.flatten(1))
        return (logits, logits) if self.training else logits

def fixed():
    return network().requires_grad_(False)
"""


@pytest.fixture
def place(workplace):
    (workplace / "more_networks.py").write_text(MORE)
    return workplace


def flags(**changes) -> list[str]:
    plain = {
        "model": "little_networks:network", "data": "digits", "count": "200", "epochs": "2", "batch": "50",
        "optimiser": "adam", "device": "cpu", "out": "found",
    }  # fmt: skip
    given = plain | {name.replace("_", "-"): value for name, value in changes.items()}
    return ["train", *(entry for name, value in given.items() for entry in (f"--{name}", value) if value is not None)]


def summary(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_writes_weights_and_summary_that_the_attack_agrees_with(place, capsys):
    robust = {"mode": "adversarial", "radius": "0.1", "method": "pgd", "attack_budget": "6", "share": "1/2"}
    assert main(flags(validation="digits", validation_count="40", **robust)) == 0
    assert sorted(path.name for path in (place / "found").iterdir()) == ["summary.json", "weights.safetensors"]
    told = summary(place / "found")
    assert told["rows"] == 200
    assert len(told["train_loss"]) == len(told["train_accuracy"]) == 2
    assert told["backwards_per_image"] == 2 * (1 + 6 / 2)
    assert told["validation_rows"] == 40
    assert told["settings"]["share"] == 0.5
    assert told["settings"]["rate"] == 1e-3
    assert 0 < told["training_seconds"] <= told["seconds"]
    assert "clean accuracy" in capsys.readouterr().out
    attack = "attack --model little_networks:network --weights found/weights.safetensors --data digits --count 40"
    again = "--radius 0.1 --method pgd --loss ce --budget 6 --device cpu --out attacked"
    assert main([*attack.split(), *again.split()]) == 0
    seen = summary(place / "attacked")
    assert seen["clean_accuracy"] == pytest.approx(told["clean_accuracy"])
    assert seen["methods"]["pgd"]["robust_accuracy"] == pytest.approx(told["adversarial_accuracy"])


@pytest.mark.parametrize("mode", ["normal", "adversarial", "free"])
def test_same_command_gives_the_same_bytes_of_weights(place, mode):
    for out in ("one", "two"):
        torch.rand(3)
        assert main(flags(model="more_networks:with_norm", mode=mode, radius="0.1", attack_budget="2", out=out)) == 0
    one, two = ((place / out / "weights.safetensors").read_bytes() for out in ("one", "two"))
    assert one == two
    assert main(flags(model="more_networks:with_norm", mode=mode, radius="0.1", seed="1", out="other")) == 0
    assert (place / "other" / "weights.safetensors").read_bytes() != one


def test_radius_zero_is_normal_training_bit_for_bit(place):
    assert main(flags(mode="adversarial", radius="0", out="zero")) == 0
    assert main(flags(out="normal")) == 0
    assert (place / "zero/weights.safetensors").read_bytes() == (place / "normal/weights.safetensors").read_bytes()
    told = summary(place / "normal")
    assert told["validation_rows"] is told["clean_accuracy"] is told["adversarial_accuracy"] is None


def test_the_seed_draws_the_zoo_network_too(place):
    np.savez("images.npz", images=np.random.default_rng(0).random((4, 1, 28, 28), np.float32), labels=np.arange(4))
    for seed in ("0", "1"):
        zoo = {"model": "zoo:adr-mnist-cnn", "data": "images.npz", "epochs": "1", "rate": "1e-30"}
        assert main(flags(seed=seed, out=seed, **zoo)) == 0
    zero, one = (load_file(f"{seed}/weights.safetensors")["ConvLayers.0.weight"] for seed in ("0", "1"))
    assert not torch.equal(zero, one)


def test_training_goes_on_from_weights(place, trained_weights):
    assert main(flags(weights=trained_weights, rate="1e-30")) == 0
    before, after = load_file(trained_weights), load_file("found/weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_normalisation_is_no_part_of_the_weights(place):
    assert main([*flags(), "--mean", "0.3", "--std", "0.5"]) == 0
    assert set(load_file("found/weights.safetensors")) == {"1.weight", "1.bias", "3.weight", "3.bias"}
    told = summary(place / "found")
    attack = "attack --model little_networks:network --weights found/weights.safetensors --data digits --count 200"
    assert main([*attack.split(), *"--mean 0.3 --std 0.5 --radius 0 --method fgsm --out attacked".split()]) == 0
    assert summary(place / "attacked")["clean_accuracy"] == pytest.approx(told["train_accuracy"][-1], abs=0.15)


def test_tied_weights_are_written(place):
    assert main(flags(model="more_networks:tied")) == 0
    weights = load_file("found/weights.safetensors")
    assert torch.equal(weights["1.weight"], weights["3.weight"])


def finished_network(place):
    (place / "net.onnx").write_bytes(b"")
    return {"model": "net.onnx"}


CASES = {
    "no radius": ({"mode": "adversarial"}, "--radius"),
    "negative radius": ({"mode": "free", "radius": "-0.1"}, "radius"),
    "unknown mode": ({"mode": "fast"}, "--mode"),
    "unknown method": ({"radius": "0.1", "method": "pdg"}, "did you mean 'pgd'"),
    "no attack budget": ({"radius": "0.1", "attack_budget": "0"}, "--attack-budget"),
    "share of none": ({"mode": "adversarial", "radius": "0.1", "share": "0"}, "--share"),
    "share of normal training": ({"share": "0.5"}, "--share"),
    "replays of normal training": ({"replays": "2"}, "--replays"),
    "no replays": ({"mode": "free", "radius": "0.1", "replays": "0"}, "--replays"),
    "unknown optimiser": ({"optimiser": "lbfgs"}, "--optimiser"),
    "momentum of adam": ({"momentum": "0.5"}, "--momentum"),
    "momentum of one": ({"optimiser": "sgd", "momentum": "1"}, "momentum"),
    "negative rate": ({"rate": "-1"}, "--rate"),
    "negative decay": ({"weight_decay": "-1"}, "weight decay"),
    "rate too large": ({"rate": "1e30"}, "lower the rate"),
    "no epochs": ({"epochs": "0"}, "--epochs"),
    "batch of none": ({"batch": "0"}, "--batch"),
    "no rows": ({"count": "0"}, "--count"),
    "negative seed": ({"seed": "-1"}, "--seed"),
    "validation count alone": ({"validation_count": "3"}, "--validation-count"),
    "unknown validation": ({"validation": "mnist:tset"}, "mnist"),
    "unknown data": ({"data": "mnist:trian"}, "mnist"),
    "a finished network": (finished_network, "net.onnx"),
    "nothing to train": ({"model": "more_networks:fixed"}, "nothing to train"),
    "other output in training mode": ({"model": "more_networks:Odd"}, "training mode"),
    "one row and batch norm": ({"model": "more_networks:with_norm", "count": "1"}, "training mode"),
    "no such device": ({"device": "abacus"}, "abacus"),
    "upside-down bounds": ({"bounds": "1,0"}, "bounds"),
    "std of zero": ({"std": "0"}, "--std"),
    "unknown flag": ({"methd": "pgd"}, "--methd"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_sentence_and_exit_code_2(case, place, capsys):
    change, names = CASES[case]
    asked = flags(**(change(place) if callable(change) else change))
    before = sorted(path.name for path in place.rglob("*"))
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert said.startswith("gatewise: ")
    assert said.count("\n") == 1
    assert names in said
    assert sorted(path.name for path in place.rglob("*") if "__pycache__" not in str(path)) == before


def test_augmentation_needs_colour_images(place, capsys):
    assert main([*flags(), "--augment"]) == 2
    assert "32 x 32 colour" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["found", "found/deeper"])
def test_an_output_that_is_a_file_is_refused_before_training(place, capsys, monkeypatch, out):
    (place / "found").write_text("here already")
    monkeypatch.setattr("gatewise.applications.adversarial_training.train", lambda *_, **__: pytest.fail("trained"))
    assert main(flags(out=out)) == 2
    assert "found is a file" in capsys.readouterr().err
    assert (place / "found").read_text() == "here already"


def test_what_was_there_stays_when_writing_fails(place, capsys, monkeypatch):
    assert main(flags()) == 0
    before = (place / "found/weights.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gatewise.applications.adversarial_training.save_file", full)
    assert main(flags(seed="5")) == 2
    assert "No space left" in capsys.readouterr().err
    assert sorted(path.name for path in (place / "found").iterdir()) == ["summary.json", "weights.safetensors"]
    assert (place / "found/weights.safetensors").read_bytes() == before
