"""Table 1 and Fig. 1 of Croce & Hein (GCPR 2018): distances found against proved ones, on small networks for MNIST.

l2: the networks n1 (50 hidden units) and n2 (50 and 15) and their first 50 images of the reference, whose optima are
proved. linf and l1: the first images of n1, whose optima are proved here (`exact_small_networks`). The paper's own N1
and N2 are not published, so compare how methods rank, not digits. Everything in float64; every point is checked once
more on the module itself. CPU seconds are those of the process, one thread, all images of a cell in one batch.

Run by: .venv/bin/python experiments/nearest_exact.py --out benchmarks/results/nearest_exact.json
    [--norms l2,linf,l1] [--methods "rlr-qp;ddn, 1000 steps"] [--reference FILE.csv] [--plot FILE.png]
    [--table FILE.csv] [--quick]
What the file `--out` has already is not run again. The last line printed is one JSON object; the exit code is 1 where
an expected figure is missed.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from exact_small_networks import prove, reaches
from expectations import check, verdict
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import gatewise as gw
from gatewise.classification import Norm, norm_exponent
from gatewise.geometry import row_norm
from gatewise.readers import ProvedDistances, read_images, read_model, read_proved_distances

NAME = "nearest_exact"
IN_REPOSITORY = Path(__file__).parents[1] / "tests" / "reference" / "mnist_exact_l2.csv"
ROWS = {"l2": 50, "linf": 20, "l1": 20}
NETS = {"l2": ("n1", "n2"), "linf": ("n1",), "l1": ("n1",)}
# The paper's parameters: DeepFool first, radii as printed.
PRINTED = "rlr-qp:first=deepfool,radius_factor=1"
METHODS = {
    "l2": {
        "rlr-qp": "rlr-qp",
        "rlr-qp, paper's start and radii": PRINTED,
        "face-walk": "face-walk",
        "deepfool": "deepfool",
        "l-bfgs, 1000 steps": "l-bfgs:steps=1000",
        "carlini-wagner, 9 x 1000 steps": "carlini-wagner:preset=short",
        "ddn, 1000 steps": "ddn:steps=1000",
        "alma, 1000 steps": "alma:steps=1000",
        "fab, 100 steps": "fab:steps=100",
        "fab, 100 steps to every class": "multi-targeted:member=(fab:steps=100)",
        "fmn, 1000 steps": "fmn:steps=1000",
    },
    "linf": {"rlr-qp": "rlr-qp", "face-walk": "face-walk", "fmn, 1000 steps": "fmn:steps=1000"},
    "l1": {"rlr-qp": "rlr-qp", "face-walk": "face-walk", "fmn, 1000 steps": "fmn:steps=1000"},
}
SHORT = "exploring=1,phases=1,points=3,kept=3,rivals=3"
QUICK_METHODS = {
    "l2": {
        "rlr-qp": "rlr-qp:exploring=1,phases=1",
        "face-walk": "face-walk:steps=5",
        "deepfool": "deepfool",
        "ddn": "ddn",
    },
    "linf": {"rlr-qp": f"rlr-qp:{SHORT}", "fmn": "fmn"},
    "l1": {"rlr-qp": f"rlr-qp:{SHORT}", "fmn": "fmn"},
}
QUICK_ROWS = {"l2": 3, "linf": 1, "l1": 1}
# Ratio to the exact optimum, mean and max: the paper's Table 1.
PAPER = {
    "rlr-qp": {"n1": (1.0, 1.0), "n2": (1.0, 1.0)},
    "rlr-qp, paper's start and radii": {"n1": (1.0, 1.0), "n2": (1.0, 1.0)},
    "deepfool": {"n1": (1.1226, 1.6059), "n2": (1.1426, 1.5953)},
    "l-bfgs, 1000 steps": {"n1": (1.2749, 2.2936), "n2": (1.0180, 1.3457)},
    "carlini-wagner, 9 x 1000 steps": {"n1": (1.0269, 1.4546), "n2": (1.0686, 1.4517)},
}
SECONDS = 120.0  # for the proof of one image


@dataclass(frozen=True, eq=False)
class Victim:
    """A network, float64, the first rows of its reference, and where they stand in the data set."""

    module: nn.Module
    images: Tensor
    labels: Tensor
    reference: ProvedDistances


def data_folder() -> Path:
    if not os.environ.get("GATEWISE_DATA"):
        sys.exit("GATEWISE_DATA is not set; name the folder that has mnist/ and models/.")
    return Path(os.environ["GATEWISE_DATA"])


def victim(net: str, rows: int, reference: Path) -> Victim:
    module = read_model("zoo:mnist-mlp", data_folder() / "models" / "mnist_mlp" / f"{net}.safetensors").double()
    proved = read_proved_distances(f"{reference}:{net}", "l2")[:rows]
    data = read_images("mnist:test", indices=proved.index.tolist())
    assert proved.labels is not None
    assert torch.equal(data.labels, proved.labels), "the reference is of other images"
    return Victim(module, data.images.double(), data.labels, proved)


def found(on: Victim, norm: Norm, method: str) -> dict:
    """The distances that a method finds, read off the untouched module once more, and what they cost."""
    load, began = os.getloadavg()[0], time.process_time()
    result = gw.nearest(on.module, on.images, on.labels, norm=norm, method=method, progress=False)
    spent = time.process_time() - began
    with torch.no_grad():
        other = on.module(result.x).argmax(1) != on.labels
    inside = (result.x >= 0).flatten(1).all(1) & (result.x <= 1).flatten(1).all(1)
    distances = row_norm(result.x - on.images, norm_exponent(norm)).tolist()
    valid = (other & inside).tolist()
    return {
        "method": method,
        "distances": [float(f"{one:.12g}") if met else None for one, met in zip(distances, valid, strict=True)],
        "misclassified": int(other.sum()),
        "inside": int(inside.sum()),
        "backwards": round(result.backwards_per_row, 1),
        "cpu_seconds": round(spent / len(on.images), 4),
        "load": round(load, 1),
    }  # fmt: skip


def proofs(on: Victim, norm: Norm, net: str, cells: dict[str, dict], held: dict[str, dict], save) -> None:
    """Prove what is not proved yet, from the shortest distance that any method found."""
    short = [cell["distances"] for key, cell in cells.items() if key.startswith(f"{norm}|{net}|")]
    for row, index in enumerate(on.reference.index.tolist()):
        key = f"{norm}|{net}|{index}"
        if key in held:
            continue
        known = min(one[row] for one in short if len(one) > row and one[row] is not None)
        image, label = on.images[row : row + 1], int(on.labels[row])
        proof = asdict(prove(on.module, image, label, norm, known, SECONDS))
        proof["reached"] = reaches(on.module, image, label, norm, proof["distance"])
        proof["found_before"] = known
        held[key] = proof
        print(key, json.dumps(proof), file=sys.stderr, flush=True)
        save()


def optima(on: Victim, norm: str, net: str, held: dict[str, dict]) -> tuple[list[float], list[float]]:
    """Proved distances and lower bounds, NaN where there is none."""
    assert on.reference.lower_bound is not None
    if norm == "l2":
        return on.reference.optimum.tolist(), on.reference.lower_bound.tolist()
    of_rows = [held.get(f"{norm}|{net}|{index}", {}) for index in on.reference.index.tolist()]
    proved = [one if one.get("proved") and one["reached"] else {} for one in of_rows]
    return [one.get("distance", math.nan) for one in proved], [one.get("lower_bound", math.nan) for one in proved]


def told(cell: dict, best: Sequence[float], bounds: Sequence[float]) -> dict[str, float]:
    """Ratios to the proved optima."""
    rows = [
        (distance / optimum, distance < bound)
        for distance, optimum, bound in zip(cell["distances"], best, bounds, strict=False)
        if distance is not None and not math.isnan(optimum)
    ]
    ratios = [ratio for ratio, _ in rows]
    return {
        "rows": len(ratios),
        "mean": sum(ratios) / len(ratios),
        "max": max(ratios),
        "min": min(ratios),
        "at_optimum": sum(ratio <= 1 + 1e-4 for ratio in ratios) / len(ratios),
        "below_bound": sum(below for _, below in rows),
        "missed": sum(distance is None for distance in cell["distances"]),
    }


def table(norm: str, net: str, cells: dict[str, dict]) -> Table:
    rows = next(iter(cells.values()))["rows"]
    shown = Table(title=f"{norm}, {net}: ratio to the proved optimum, {rows} images")
    for column in ("method", "paper: mean / max", "mean", "max", "at the optimum", "below bound", "CPU s", "backwards"):
        shown.add_column(column, justify="left" if column == "method" else "right")
    for name, cell in cells.items():
        paper = PAPER.get(name, {}).get(net) if norm == "l2" else None
        shown.add_row(
            name,
            f"{paper[0]:.4f} / {paper[1]:.4f}" if paper else "",
            f"{cell['mean']:.5f}",
            f"{cell['max']:.4f}",
            f"{cell['at_optimum']:.0%}",
            str(cell["below_bound"]),
            f"{cell['cpu_seconds']:.3f}",
            f"{cell['backwards']:.0f}",
        )
    return shown


def plot(cells: dict[str, dict], best: dict[str, list[float]], file: Path) -> None:
    """Fig. 1: sorted ratios, one panel a network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for panel, net in zip(panels, NETS["l2"], strict=True):
        for name in METHODS["l2"]:
            if (cell := cells.get(f"l2|{net}|{name}")) is None:
                continue
            pairs = zip(cell["distances"], best[net], strict=True)
            ratios = sorted(one / optimum for one, optimum in pairs if one is not None)
            ours = name == "rlr-qp"
            panel.plot(
                range(1, len(ratios) + 1), ratios, label=name, lw=3 if ours else 1.2, color="k" if ours else None
            )
        panel.set_title(f"{net}: distance found / proved optimum, sorted", fontsize=10)
        panel.set_xlabel("image")
        panel.set_ylim(0.99, 1.4)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("ratio (cut at 1.4)")
    panels[0].legend(fontsize=7, loc="upper left")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def agreement(held: dict[str, dict], file: Path) -> dict[str, float]:
    """Ours over the linf optima that another program proved, where both have one: how many, the largest difference."""
    if not file.is_file():
        return {}
    with file.open(newline="") as lines:
        other = {
            f"linf|{row['net']}|{row['index']}": float(row["optimal_linf"])
            for row in csv.DictReader(lines)
            if row["status"] == "optimal"
        }
    both = [abs(held[key]["distance"] / other[key] - 1) for key in other if held.get(key, {}).get("proved")]
    return {"rows": len(both), "largest_difference": max(both)} if both else {}


def write_table(held: dict[str, dict], file: Path) -> None:
    """The proved optima: net, index, norm, optimal, and the relative gap to the bound."""
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["net", "index", "norm", "optimal", "gap"])
        for key, proof in held.items():
            norm, net, index = key.split("|")
            if proof["proved"] and proof["reached"]:
                gap = 1 - proof["lower_bound"] / proof["distance"]
                writer.writerow([net, index, norm, f"{proof['distance']:.12g}", f"{gap:.1e}"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three images and cheap methods, for CI")
    parser.add_argument("--norms", default="l2,linf,l1", help="with commas (default l2,linf,l1)")
    parser.add_argument("--nets", help="networks, with commas (default: n1,n2 in l2, n1 in linf and l1)")
    parser.add_argument("--methods", help="rows of the table to run, with semicolons (default all)")
    parser.add_argument(
        "--reference", type=Path, help="proved l2 distances (default $GATEWISE_DATA/../reference/mnist_exact_l2.csv)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write to this JSON file, and do not run again what it has")
    parser.add_argument("--plot", type=Path, help="draw Fig. 1 into this PNG")
    parser.add_argument("--table", type=Path, help="write the proved linf and l1 optima to this CSV file")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    reference = given.reference or (
        IN_REPOSITORY if given.quick else data_folder().parent / "reference" / "mnist_exact_l2.csv"
    )
    content = json.loads(given.out.read_text()) if given.out and given.out.is_file() else {}
    content["machine"] = {"processor": platform.machine(), "dtype": "float64", "torch": torch.__version__}
    ours = content.setdefault(NAME, {})
    cells, held = ours.setdefault("cells", {}), ours.setdefault("proofs", {})

    def save() -> None:
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(content, indent=1) + "\n")

    console = Console(width=140)
    best: dict[str, list[float]] = {}
    measured: dict[str, float] = {}
    rows, methods = (QUICK_ROWS, QUICK_METHODS) if given.quick else (ROWS, METHODS)
    norms: list[Norm] = given.norms.split(",")
    for norm in norms:
        nets = given.nets.split(",") if given.nets else NETS[norm][:1] if given.quick else NETS[norm]
        for net in nets:
            on = victim(net, rows[norm], reference)
            for name, method in methods[norm].items():
                key = f"{norm}|{net}|{name}"
                if key not in cells and (not given.methods or name in given.methods.split(";")):
                    cells[key] = found(on, norm, method)
                    save()
            if norm != "l2":
                proofs(on, norm, net, cells, held, save)
            best[net], bounds = optima(on, norm, net, held)
            measured[f"{norm}|{net}|proved"] = sum(not math.isnan(one) for one in best[net])
            shown = {}
            for name in methods[norm]:
                if cell := cells.get(f"{norm}|{net}|{name}"):
                    shown[name] = cell | told(cell, best[net], bounds)
                    cells[f"{norm}|{net}|{name}"] = shown[name]
                    figures = {k: v for k, v in shown[name].items() if isinstance(v, int | float)}
                    measured |= {f"{norm}|{net}|{name}|{figure}": value for figure, value in figures.items()}
            if shown:
                console.print(table(norm, net, shown))
        if norm == "l2" and given.plot:
            plot(cells, best, given.plot)
    measured["below_bound"] = sum(value for key, value in measured.items() if key.endswith("|below_bound"))
    measured["missed"] = sum(value for key, value in measured.items() if key.endswith("|missed"))
    if agreed := agreement(held, reference.with_name("mnist_exact_linf.csv")):
        ours["linf_against_another_program"] = agreed
        measured |= {f"linf_agreement|{figure}": value for figure, value in agreed.items()}
        console.print(f"linf optima that another program proved, too: {agreed}")
    save()
    if given.table:
        write_table(held, given.table)
    part = bool(given.methods or given.nets or given.norms != parser.get_default("norms"))
    mode = "quick" if given.quick else "figures"
    code = verdict(NAME, check(NAME, measured, table=mode, part=part))
    print(json.dumps(ours))
    return code


if __name__ == "__main__":
    sys.exit(main())
