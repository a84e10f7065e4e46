"""Networks from `torch.export` programs (`.pt2` files)."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.errors import InvalidInput
from gatewise.readers.input_shape import as_network_input
from gatewise.readers.paths import require_file


class ExportedNetwork(nn.Module):
    """A loaded `torch.export` program as a module (batch, …) → (batch, …).

    `input_shape` is the shape of one row (None where the program leaves a length open). `rows_per_run` is None where the
    program takes any batch, else the batch size that it takes: `forward` does not split, its caller does.
    The mode of an exported program was settled when it was exported, so this module counts as in evaluation mode:
    `.eval()` and `.train()` change nothing.
    """

    def __init__(self, program: nn.Module, input_shape: tuple[int | None, ...], rows_per_run: int | None):
        super().__init__()
        self.program = program
        self.input_shape = input_shape
        self.rows_per_run = rows_per_run
        for part in self.modules():
            part.training = False

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Nothing changes: exported programs have no mode (their own `.train()` and `.eval()` raise)."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The program's output at `x` (batch, …)."""
        return self.program(as_network_input(x, self.input_shape))


def read_exported(path: str | Path) -> ExportedNetwork:
    """The network in a `.pt2` file, on the device it was exported on.

    `torch.export.load` (2.13) reads ordinary weights as plain bytes, but it unpickles unusual tensors and custom constants
    without `weights_only`, and falls back to that for the stored example inputs: a `.pt2` file from an untrusted source can run
    code. Read only files that you trust; ONNX and safetensors files have no such side door.

    Raises:
        InvalidInput: a missing or broken file, a program exported in training mode, or one that does not map one tensor
            (batch, …) to one tensor (batch, …).
    """
    path = require_file(path, "exported program")
    exported = _load(path)
    for node in exported.graph.nodes:
        _require_evaluation_mode(node, path)
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    inputs = exported.graph_signature.user_inputs
    if len(inputs) != 1 or inputs[0] not in placeholders:
        raise InvalidInput(
            f"The exported program {path} takes {len(inputs)} inputs; export one that takes a single tensor."
        )
    example = placeholders[inputs[0]].meta["val"]
    if not isinstance(example, Tensor) or example.ndim == 0:
        raise InvalidInput(f"The exported program {path} must take a tensor with a batch axis; export such a one.")
    shape = tuple(length if isinstance(length, int) else None for length in example.shape[1:])
    network = ExportedNetwork(exported.module(), shape, _fixed_rows(exported, example))
    _try_out(network, example.dtype, path)
    return network


def _load(path: Path) -> torch.export.ExportedProgram:
    # torch.export logs a traceback before it raises; the sentence below says it all.
    log = logging.getLogger("torch.export")
    disabled, log.disabled = log.disabled, True
    try:
        return torch.export.load(path)
    except Exception as problem:  # RuntimeError, BadZipFile, KeyError, schema errors: whatever its parsers raise
        raise InvalidInput(
            f"The exported program {path} is truncated, or not one that torch {torch.__version__} can read; save it again with "
            "torch.export.save."
        ) from problem
    finally:
        log.disabled = disabled


def _fixed_rows(exported: torch.export.ExportedProgram, example: Tensor) -> int | None:
    rows = example.shape[0]
    if isinstance(rows, int):
        return rows
    # A batch axis with a stated maximum: full batches are allowed, larger ones are not.
    most = exported.range_constraints[rows.node.expr].upper
    return int(most) if math.isfinite(most) else None


def _require_evaluation_mode(node: torch.fx.Node, path: Path) -> None:
    name = str(node.target)
    # aten.batch_norm(input, weight, bias, mean, var, training, …) and aten.dropout(input, p, train)
    position = {"aten.batch_norm.default": 5, "aten.dropout.default": 2}.get(name)
    if position is not None and node.args[position]:
        raise InvalidInput(
            f"The program {path} was exported in training mode ({name}), so its rows influence each other or its output is "
            "random; export module.eval()."
        )


def _try_out(network: ExportedNetwork, dtype: torch.dtype, path: Path) -> None:
    """One run, to find what a file does not tell: a tuple as output, or a smallest batch size."""
    lengths = [length for length in network.input_shape if length is not None]
    if len(lengths) < len(network.input_shape):
        return
    rows = network.rows_per_run or 1
    device = next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
    x = torch.zeros(rows, *lengths, dtype=dtype, device=device)
    output: Any
    with torch.no_grad():
        output = network(x)
    if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != rows:
        raise InvalidInput(
            f"The exported program {path} must return one tensor with one row for each row of its input; export such a one."
        )
