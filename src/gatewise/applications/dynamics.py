"""Dynamics of projected gradient around images: how an attack walks in an l2 ball, and where it can end.

`gatewise.sphere_dynamics` and `gatewise.critical_points` are the library's forms (a smooth loss over offsets), `run`
the command's (a `Config` in; a picture and a summary out).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from gatewise.classification import check_images, check_labels, plain_logits
from gatewise.critical_points import CriticalPoints, critical_points
from gatewise.errors import InvalidInput
from gatewise.flags import check_deviations, check_positive, check_seed, flag, fraction, numbers, required
from gatewise.geometry import row_norm
from gatewise.network import NetworkView
from gatewise.network.rules import Network, Softplus
from gatewise.readers import read_images, read_model
from gatewise.report.dynamics_picture import Panel, draw_dynamics
from gatewise.report.folder import all_or_nothing, require_writable
from gatewise.report.gallery import require_matplotlib
from gatewise.report.progress import progress_bar
from gatewise.sphere_dynamics import SphereLoss, Walk, walk, widest_angle
from gatewise.zoo.normalise import normalised

_SHOWN = 4  # rows of the picture


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `gatewise dynamics` is asked; the command line has one flag a field.

    Raises:
        InvalidInput: values that cannot be used.
    """

    model: str = required("ONNX file, .pt2 file, zoo:NAME, or module:callable; run in float64 on the CPU")
    data: str = required("digits, mnist:test, cifar10:test, gtsrb:test, an .npz, or a folder of images")
    radius: float = required("of the l2 ball around each image; 1/2 is understood", parse=fraction)
    weights: str | None = flag("state dict for the model: .pt or .safetensors")
    indices: str | None = flag("FILE.csv[:CLASS]: rows by position (first column), of that class column")
    count: int = flag("the first COUNT rows", 1, parse=int)
    temperature: float = flag("softplus of this temperature in place of each gate; 0: as it is", 0.1, parse=float)
    steps: int = flag("of each walk, and of each search", 200, parse=int)
    step_size: float = flag("of walks, as a share of the radius at the image's gradient", 0.05, parse=fraction)
    walks: int = flag("from uniform points of the ball", 8, parse=int)
    starts: int = flag("of the search for critical points", 8, parse=int)
    seed: int = flag("seed of every random draw", 0, parse=int)
    mean: tuple[float, ...] | None = flag("subtracted from each channel inside the model", parse=numbers)
    std: tuple[float, ...] | None = flag("divides each channel inside the model", parse=numbers)
    out: str = flag("folder for summary.json and dynamics.png", "out")

    def __post_init__(self):
        check_positive(self, "radius", "count", "steps", "step_size", "walks", "starts")
        check_deviations(self.std)
        if not all(math.isfinite(value) for value in (self.radius, self.step_size)):
            raise InvalidInput("--radius and --step-size must be finite numbers.")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise InvalidInput(f"--temperature must be at least 0, got {self.temperature}.")
        check_seed(self.seed)


def run(config: Config) -> dict[str, Any]:
    """Walk as the command does, write the folder, and return the summary.

    The loss is the cross-entropy of each image's label, L its opposite: a `minimum` of L is an adversary. Pixels may
    leave their bounds. Nothing is written unless everything succeeds.

    Raises:
        GatewiseError: whatever is wrong, as one sentence.
    """
    require_writable(config.out)
    require_matplotlib()
    network = NetworkView(normalised(read_model(config.model, config.weights), config.mean, config.std))
    data = read_images(config.data, count=config.count, indices=config.indices)
    check_images(data.images, data.labels, None)
    images = data.images.double()
    network.module.double()
    logits = plain_logits(network, images, 1)
    check_labels(data.labels, logits.shape[1])
    if logits.shape[1] < 2:
        raise InvalidInput("The model returns one logit; cross-entropy needs two classes or more.")
    told, panels = [], []
    with all_or_nothing(config.out) as scratch, progress_bar() as bar, network.borrowed():
        task = bar.add_task("dynamics", total=len(images))
        for position, image, label in zip(data.index.tolist(), images, data.labels.tolist(), strict=True):
            around = _Around(network, image, label, config.temperature)
            loss = SphereLoss(around.value, config.radius, image.numel())
            middle = loss.gradient(torch.zeros(1, loss.size, dtype=torch.float64))[1]
            if not bool(torch.isfinite(middle).all() and middle.any()):
                raise InvalidInput(
                    f"The loss has no gradient at the image at position {position}, so that no step has a length; give "
                    "another image, or a higher --temperature."
                )
            eta = config.step_size * config.radius / float(row_norm(middle))
            way = walk(loss, loss.uniform(config.walks, config.seed), [eta] * config.steps)
            found = critical_points(loss, starts=config.starts, seed=config.seed, steps=config.steps)
            told.append({"index": position, "label": label, "eta": eta} | _told(loss, around, way, found))
            if len(panels) < _SHOWN:
                kinds = list(zip(found.kinds, (-found.values).tolist(), strict=True))
                title = f"row {position}, label {label}"
                panels.append(Panel(title, -way.values.numpy(), way.cosines.numpy(), kinds))
            bar.advance(task)
        summary = {"rows": len(told), "radius": config.radius, "temperature": config.temperature, "images": told}
        (scratch / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        draw_dynamics(scratch / "dynamics.png", panels)
    minima = sum(point["kind"] == "minimum" for one in told for point in one["critical_points"])
    Console().print(f"adversaries found on the spheres: {minima}, images: {len(told)}; {config.out}", highlight=False)
    return summary


@dataclass(frozen=True, eq=False)
class _Around:
    """The losses around one image: offsets (k, size) to outputs and to L, gates smoothed."""

    network: NetworkView
    image: Tensor
    label: int
    temperature: float

    def logits(self, offsets: Tensor) -> Tensor:
        rule = Softplus(self.temperature) if self.temperature else Network()
        return self.network.trace(self.image + offsets.view(-1, *self.image.shape), rule, keep=False).output

    def value(self, offsets: Tensor) -> Tensor:
        logits = self.logits(offsets)
        return -F.cross_entropy(logits, torch.full((len(offsets),), self.label), reduction="none")

    def steepness(self, offsets: Tensor) -> Tensor:
        """The norm of the loss's derivative by the logits, (k,)."""
        with torch.no_grad():
            missed = self.logits(offsets).softmax(1)
        missed[:, self.label] -= 1
        return row_norm(missed)


def _told(loss: SphereLoss, around: _Around, way: Walk, found: CriticalPoints) -> dict[str, Any]:
    ends = way.points[-1]
    state = loss.at(ends)
    eigenvalues = loss.extreme_eigenvalues(ends)
    steepness = around.steepness(way.points.flatten(0, 1))
    on_sphere = loss.onto_sphere(way.points[1:].flatten(0, 1)[:256])
    return {
        "walks": {
            "loss": (-state.value).tolist(),
            "cosine": state.cosine.tolist(),
            "on_sphere": state.on_sphere.tolist(),
            "steps_to_sphere": [step if step < len(way.points) else None for step in way.first(way.on_sphere).tolist()],
            "steps_down": (way.values.diff(dim=0) < 0).sum(0).tolist(),
            "multiplier": state.multiplier.tolist(),
            "tangent_gradient": row_norm(state.tangent).tolist(),
            "tangent_hessian": eigenvalues.tolist(),
        },
        "gradients_angle": math.degrees(widest_angle(loss.gradient(on_sphere)[1])),
        "loss_derivative": [float(steepness.min()), float(steepness.max())],
        "critical_points": [
            {"kind": kind, "loss": -value, "cosine": cosine, "eigenvalues": bends, "hits": hits}
            for kind, value, cosine, bends, hits in zip(
                found.kinds,
                found.values.tolist(),
                found.cosines.tolist(),
                found.eigenvalues.tolist(),
                found.hits.tolist(),
                strict=True,
            )
        ],
    }
