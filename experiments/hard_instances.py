"""`strongest` on instances that an exact solver broke and AutoAttack does not: MNIST CNN-A, linf 0.3, 20 images.

The images are those of class `mip_unsafe` in the hard list of BaB-attack (Zhang et al. 2022; GATEWISE_DATA, from
alpha-beta-CROWN). The attack is the command's, `gatewise attack --method strongest --seconds 1800`; every success is
then checked again by the network in float64 and by ONNX Runtime on the exported network, and its distance in float64.

Run by: .venv/bin/python experiments/hard_instances.py --seconds 1800 --out out/hard --record FILE.json
(`--points out/hard` checks a finished run alone.) The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from expectations import check, verdict
from safetensors.torch import load_file
from torch import Tensor, nn

from gatewise.applications import classifier_attack
from gatewise.readers import read_model

RADIUS, METHOD = 0.3, "strongest"


def files() -> tuple[Path, Path]:
    """Weights and list of the hard instances."""
    folder = Path(os.environ.get("GATEWISE_DATA", "")) / "models" / "mnist_cnn_a_adv"
    return folder / "mnist_cnn_a_adv.pt", folder / "hard_attack_index.csv"


def by_onnx_runtime(module: nn.Module, points: Tensor) -> Tensor:
    """The classes that ONNX Runtime gives the points."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without dynamo says that it is old
        file = str(Path(folder) / "network.onnx")
        torch.onnx.export(
            module, (points[:1],), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
        )
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"x": points.numpy()})[0]).argmax(1)


def verified(folder: Path) -> dict[str, object]:
    """How many points of a finished run hold: by the plain network, in float64, by ONNX Runtime, and inside the set."""
    found = load_file(folder / "points.safetensors")
    points, clean, labels = found[METHOD], found["clean"], found["labels"]
    module = read_model("zoo:mnist-cnn-a", str(files()[0])).eval()
    with torch.no_grad():
        plain = module(points).argmax(1) != labels
        double = copy.deepcopy(module).double()(points.double()).argmax(1) != labels
    onnx = by_onnx_runtime(module, points) != labels
    distance = (points.double() - clean.double()).abs().flatten(1).amax(1)
    inside = (distance <= RADIUS) & (points.flatten(1).amin(1) >= 0) & (points.flatten(1).amax(1) <= 1)
    return {
        "rows": len(labels),
        "broken": int(plain.sum()),
        "broken_in_float64": int((plain & double).sum()),
        "broken_by_onnx_runtime": int((plain & onnx).sum()),
        "inside": bool(inside.all()),
        "index": found["index"][plain & double & onnx & inside].tolist(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--count", type=int, help="of the 20 images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/hard"))
    parser.add_argument("--points", type=Path, help="check this finished run")
    parser.add_argument("--record", type=Path, help="JSON file for the figures")
    parser.add_argument("--quick", action="store_true", help="two images and a few seconds, for CI")
    given = parser.parse_args(arguments)
    weights, listed = files()
    folder = given.points or given.out
    if given.points is None:
        config = classifier_attack.Config(
            model="zoo:mnist-cnn-a",
            weights=str(weights),
            data="mnist:test",
            indices=f"{listed}:mip_unsafe",
            count=2 if given.quick else given.count,
            norm="linf",
            radius=RADIUS,
            method=(METHOD,),
            seconds=3.0 if given.quick else given.seconds,
            seed=given.seed,
            out=str(given.out),
        )
        classifier_attack.run(config)
    summary = json.loads((folder / "summary.json").read_text())["methods"][METHOD]
    told = verified(folder) | {key: summary[key] for key in ("seconds", "backwards_per_row", "broken_by")}
    if given.record:
        given.record.write_text(json.dumps(told, indent=2) + "\n")
    part = given.quick or given.count is not None
    measured = {key: float(value) for key, value in told.items() if isinstance(value, int | float)}
    code = 0 if part else verdict("hard_instances", check("hard_instances", measured))
    print(json.dumps(told))
    return code


if __name__ == "__main__":
    sys.exit(main())
