"""Networks from `torch.export` programs (`.pt2` files)."""

import logging
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from gatewise.errors import InvalidInput
from gatewise.readers.input_shape import as_network_input
from gatewise.readers.paths import require_file


class ExportedNetwork(nn.Module):
    """A loaded `torch.export` program as a module (batch, …) → (batch, …).

    `input_shape` is the shape of one row (None where the program leaves a length open). `rows_per_run` is None where
    the program takes any batch, else the batch size that it takes: `forward` does not split, its caller does.
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

    `torch.export.load` (2.13) reads ordinary weights as plain bytes, but it unpickles unusual tensors and custom
    constants without `weights_only`, and falls back to that for the stored example inputs: a `.pt2` file from an
    untrusted source can run code. Read only files that you trust; ONNX and safetensors files have no such side door.

    Raises:
        InvalidInput: a missing or broken file, a program exported in training mode, or one that does not map one tensor
            (batch, …) to one tensor (batch, …).
    """
    path = require_file(path, "exported program")
    exported = _load(path)
    for node in exported.graph.nodes:
        _require_evaluation_mode(node, path)
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    inputs = list(exported.graph_signature.user_inputs)
    if len(inputs) != 1 or inputs[0] not in placeholders:
        raise InvalidInput(
            f"The exported program {path} takes {len(inputs)} inputs; export one that takes a single tensor."
        )
    example = placeholders[inputs[0]].meta["val"]
    if not isinstance(example, Tensor) or example.ndim == 0 or not example.is_floating_point():
        raise InvalidInput(f"The exported program {path} must take a floating-point tensor with a batch axis.")
    shape = tuple(length if isinstance(length, int) else None for length in example.shape[1:])
    smallest, largest = _batch_range(exported, example)
    network = ExportedNetwork(exported.module(), shape, largest)
    if None in shape:
        return network
    # One run, to find what the file does not tell: a tuple as output, or a smallest batch that is meant.
    if not _takes(network, largest or 1, example.dtype):
        network.rows_per_run = largest or smallest
        if not _takes(network, network.rows_per_run, example.dtype):
            raise InvalidInput(
                f"The exported program {path} must return one tensor with one row for each row of its input; "
                "export such a one."
            )
    return network


def _load(path: Path) -> torch.export.ExportedProgram:
    # torch.export logs a traceback before it raises; the sentence below says it all.
    log = logging.getLogger("torch.export")
    disabled, log.disabled = log.disabled, True
    try:
        return torch.export.load(path)
    except Exception as problem:  # RuntimeError, BadZipFile, KeyError, schema errors: whatever its parsers raise
        raise InvalidInput(
            f"The exported program {path} is truncated, or not one that torch {torch.__version__} can read; "
            "save it again with torch.export.save."
        ) from problem
    finally:
        log.disabled = disabled


def _batch_range(exported: torch.export.ExportedProgram, example: Tensor) -> tuple[int, int | None]:
    """The smallest and the largest batch that the program states; None: no largest."""
    rows = example.shape[0]
    if isinstance(rows, int):
        return rows, rows
    stated = exported.range_constraints.get(rows.node.expr)
    if stated is None:
        return 1, None
    return max(int(stated.lower), 1), int(stated.upper) if math.isfinite(stated.upper) else None


def _require_evaluation_mode(node: torch.fx.Node, path: Path) -> None:
    name = str(node.target)
    # aten.batch_norm(input, weight, bias, mean, var, training, …) and aten.dropout(input, p, train)
    position = {"aten.batch_norm.default": 5, "aten.dropout.default": 2}.get(name)
    if position is not None and node.args[position]:
        raise InvalidInput(
            f"The program {path} was exported in training mode ({name}), so its rows influence each other or its "
            "output is random; export module.eval()."
        )


def _takes(network: ExportedNetwork, rows: int, dtype: torch.dtype) -> bool:
    """Whether the program maps `rows` rows of zeros to one tensor of as many rows."""
    device = next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
    x = torch.zeros(rows, *(length or 0 for length in network.input_shape), dtype=dtype, device=device)
    try:
        with torch.no_grad():
            output: object = network(x)
    except Exception:  # a failed guard is an AssertionError, a baked-in batch size a RuntimeError
        return False
    return isinstance(output, Tensor) and output.ndim > 0 and len(output) == rows
