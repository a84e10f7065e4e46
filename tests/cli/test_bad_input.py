"""Bad input: one clear sentence, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gatewise.cli import main

PLAIN = {"--model": "little_networks:network", "--data": "digits", "--count": "5", "--radius": "0.1", "--out": "found"}


def images(**changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"images": rng.random((4, 1, 8, 8), dtype=np.float32), "labels": np.arange(4)} | changes


def saved(tmp_path, **arrays) -> str:
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "data.npz")


def nan_pixel(tmp_path):
    data = images()
    data["images"][0, 0, 0, 0] = np.nan
    return {"--data": saved(tmp_path, **data)}


def truncated_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(name, 1, [1, 64]) for name in ("x", "y")]
    content = onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:1], info[1:])).SerializeToString()
    (tmp_path / "net.onnx").write_bytes(content[: len(content) // 2])
    return {"--model": str(tmp_path / "net.onnx")}


def pickled_weights(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
    return {"--weights": str(tmp_path / "net.pt")}


CASES = {
    "unknown method": (lambda p: {"--method": "pdg"}, "did you mean 'pgd'"),
    "unknown setting": (lambda p: {"--method": "pgd:stepsize=1"}, "step_size"),
    "setting of the wrong kind": (lambda p: {"--method": "pgd:step_size=big"}, "a number"),
    "negative step": (lambda p: {"--method": "pgd:step_size=-1"}, "positive"),
    "setting that divides by zero": (lambda p: {"--method": "pgd:step_size=1/0"}, "a number"),
    "setting that is NaN": (lambda p: {"--method": "apgd:momentum=nan"}, "momentum"),
    "setting below zero": (lambda p: {"--method": "adr-gd-reference:reset=-1"}, "reset"),
    "nothing left to move": (lambda p: {"--method": "gate-reach:settle=1"}, "settle"),
    "negative seed": (lambda p: {"--seed": "-1"}, "seed"),
    "targets twice over": (lambda p: {"--method": "multi-targeted:member=pgd", "--target": "1"}, "--target"),
    "unknown preset": (lambda p: {"--method": "adr-gd:preset=cifar"}, "preset"),
    "negative radius": (lambda p: {"--radius": "-0.1"}, "radius"),
    "radius that is no number": (lambda p: {"--radius": "8/zero"}, "--radius"),
    "wrong norm": (lambda p: {"--norm": "l3"}, "--norm"),
    "wrong loss": (lambda p: {"--loss": "hinge"}, "--loss"),
    "missing model file": (lambda p: {"--model": "nowhere.onnx"}, "nowhere.onnx"),
    "unknown architecture": (lambda p: {"--model": "zoo:adr-mnist-cn"}, "adr-mnist-cnn"),
    "not a module": (lambda p: {"--model": "little_networks:not_a_module"}, "int"),
    "missing callable": (lambda p: {"--model": "little_networks:nothing"}, "nothing"),
    "truncated ONNX": (truncated_onnx, "net.onnx"),
    "pickle as weights": (pickled_weights, "net.pt"),
    "missing weights": (lambda p: {"--weights": "nowhere.safetensors"}, "nowhere.safetensors"),
    "missing data file": (lambda p: {"--data": "nowhere.npz"}, "nowhere.npz"),
    "unknown data": (lambda p: {"--data": "mnist:tset"}, "mnist"),
    "NaN pixel": (nan_pixel, "NaN"),
    "pixels outside bounds": (lambda p: {"--data": saved(p, **images(images=images()["images"] * 3))}, "bounds"),
    "wrong image shape": (lambda p: {"--data": saved(p, **images(images=images()["images"][..., :5]))}, "shape"),
    "wrong dtype": (lambda p: {"--data": saved(p, **images(images=images()["images"].astype("<U3")))}, "images"),
    "label without a class": (lambda p: {"--data": saved(p, **images(labels=np.full(4, 12)))}, "12"),
    "no rows": (lambda p: {"--count": "0"}, "count"),
    "batch of none": (lambda p: {"--batch": "0"}, "--batch"),
    "no budget": (lambda p: {"--budget": "0"}, "budget"),
    "no seconds": (lambda p: {"--seconds": "0"}, "--seconds"),
    "no restarts": (lambda p: {"--restarts": "0"}, "--restarts"),
    "target without a class": (lambda p: {"--target": "11"}, "--target"),
    "two targets": (lambda p: {"--target": "1", "--targeted": "next"}, "--target"),
    "no such device": (lambda p: {"--device": "abacus"}, "abacus"),
    "std of zero": (lambda p: {"--std": "0"}, "--std"),
    "upside-down bounds": (lambda p: {"--bounds": "1,0"}, "bounds"),
    "unknown flag": (lambda p: {"--methd": "pgd"}, "--methd"),
}


def reference(tmp_path, text: str = "net,index,true_label,optimal_l2\nn1,0,0,0.5\nn1,1,1,0.5\n", **more: str):
    (tmp_path / "proved.csv").write_text(text)
    return {"--reference": "proved.csv:n1"} | {f"--{name}": value for name, value in more.items()}


NEAREST = {
    "missing reference": (lambda p: {"--reference": "nowhere.csv:n1"}, "nowhere.csv"),
    "reference without a net": (lambda p: {"--reference": "proved.csv"}, "FILE.csv:NET"),
    "wrong net": (lambda p: reference(p, "net,index,optimal_l2\nn2,0,0.5\n"), "it has n2"),
    "reference in another norm": (lambda p: reference(p, norm="linf", method="fmn"), "optimal_linf"),
    "reference without positions": (lambda p: reference(p, "net,optimal_l2\nn1,0.5\n"), "index"),
    "reference of other rows": (lambda p: reference(p, "net,index,optimal_l2\nn1,9999,0.5\n"), "9999"),
    "reference of other classes": (lambda p: reference(p, "net,index,true_label,optimal_l2\nn1,0,5,1\n"), "class 5"),
    "reference that is broken": (lambda p: reference(p, "net,index,optimal_l2\nn1,0,far\n"), "far"),
    "reference and indices": (lambda p: reference(p, indices="rows.csv"), "--indices"),
    "reference and target": (lambda p: reference(p, target="3"), "--target"),
    "reference and targets": (lambda p: reference(p, targeted="next"), "--target"),
    "wrong norm": (lambda p: {"--norm": "l3"}, "--norm"),
    "wrong dtype": (lambda p: {"--dtype": "float16"}, "--dtype"),
    "unknown method": (lambda p: {"--method": "dnd"}, "did you mean 'ddn'"),
    "targets twice over": (lambda p: {"--method": "multi-targeted:member=ddn", "--target": "1"}, "--target"),
    "two targets": (lambda p: {"--target": "1", "--targeted": "next"}, "--target"),
    "target without a class": (lambda p: {"--target": "11"}, "--target"),
    "upside-down bounds": (lambda p: {"--bounds": "1,0"}, "bounds"),
    "pixels outside bounds": (lambda p: {"--bounds": "0,0.5"}, "bounds"),
    "no rows": (lambda p: {"--count": "0"}, "count"),
    "empty data": (
        lambda p: {"--data": saved(p, **images(images=images()["images"][:0], labels=np.arange(0)))},
        "no im",
    ),
    "no budget": (lambda p: {"--budget": "0"}, "budget"),
    "negative seed": (lambda p: {"--seed": "-1"}, "seed"),
    "wrong image shape": (lambda p: {"--data": saved(p, **images(images=images()["images"][..., :5]))}, "shape"),
    "NaN pixel": (nan_pixel, "NaN"),
    "radius, which there is none of": (lambda p: {"--radius": "0.1"}, "--radius"),
}
LANDSCAPES = {
    "unknown objective": (lambda p: {"--objective": "loss"}, "margin, cross-entropy"),
    "logit without a number": (lambda p: {"--objective": "logit:x"}, "logit:K"),
    "output that is not there": (lambda p: {"--objective": "output:10"}, "the model has 10"),
    "no window": (lambda p: {"--window": "0"}, "--window"),
    "endless window": (lambda p: {"--window": "inf"}, "--window"),
    "window that is no number": (lambda p: {"--window": "wide"}, "--window"),
    "center and data": (lambda p: {"--center": "0,0"}, "--data and --center"),
    "start outside the window": (lambda p: {"--start": "3,0"}, "outside the window"),
    "start of one number": (lambda p: {"--start": "3"}, "--start"),
    "plane through one row": (lambda p: {"--through": "1"}, "--through"),
    "plane through the row itself": (lambda p: {"--through": "0,1"}, "one line"),
    "plane through a row that is not there": (lambda p: {"--through": "1,99999"}, "99999"),
    "unknown method": (lambda p: {"--method": "pdg"}, "did you mean 'pgd'"),
    "negative radius": (lambda p: {"--radius": "-0.1"}, "radius"),
    "norm without a ball": (lambda p: {"--norm": "l1"}, "--norm"),
    "no budget": (lambda p: {"--budget": "0"}, "--budget"),
    "negative seed": (lambda p: {"--seed": "-1"}, "--seed"),
    "no rows": (lambda p: {"--count": "0"}, "--count"),
    "missing weights": (lambda p: {"--weights": "nowhere.safetensors"}, "nowhere.safetensors"),
    "wrong image shape": (lambda p: {"--data": saved(p, **images(images=images()["images"][..., :5]))}, "shape"),
    "NaN pixel": (nan_pixel, "NaN"),
    "label without a class": (lambda p: {"--data": saved(p, **images(labels=np.full(4, 12)))}, "12"),
    "no affine pieces": (lambda p: {"--model": "little_networks:smooth"}, "tanh"),
}
SENTENCES = {("attack", name): case for name, case in CASES.items()}
SENTENCES |= {("nearest", name): case for name, case in NEAREST.items()}
SENTENCES |= {("landscape", name): case for name, case in LANDSCAPES.items()}


@pytest.mark.parametrize(("command", "case"), SENTENCES)
def test_one_sentence_and_exit_code_2(command, case, workplace, capsys):
    change, names = SENTENCES[command, case]
    flags = {flag: value for flag, value in PLAIN.items() if command == "attack" or flag != "--radius"}
    flags |= change(workplace)
    before = sorted(path.name for path in workplace.rglob("*"))
    code = main([command, *(entry for pair in flags.items() for entry in pair)])
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("gatewise: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert names in said
    assert sorted(path.name for path in workplace.rglob("*") if "__pycache__" not in str(path)) == before


def test_output_that_is_a_file_is_refused(workplace, trained_weights, capsys):
    (workplace / "found").write_text("here already")
    flags = PLAIN | {"--weights": trained_weights}
    assert main(["attack", *(entry for pair in flags.items() for entry in pair)]) == 2
    assert "found" in capsys.readouterr().err
    assert (workplace / "found").read_text() == "here already"


def test_missing_flags_are_named(capsys):
    assert main(["attack"]) == 2
    assert "--model" in capsys.readouterr().err
