"""Networks from ONNX files: a small importer that runs the graph with torch calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.errors import InvalidInput
from gatewise.readers.input_shape import as_network_input
from gatewise.readers.onnx_call import Call, Node
from gatewise.readers.onnx_operations import OPERATIONS
from gatewise.readers.paths import require_file

_OLDEST_OPSET = 7  # before it, arithmetic broadcasts by attributes of its own


class OnnxNetwork(nn.Module):
    """An ONNX graph as a module (batch, …) → (batch, …), for any batch size, whatever the file was exported with.

    `input_shape` is the shape of one row as the file states it (None where it leaves a length open). Weights are
    buffers, in the dtypes of the file. Inputs whose rows have that shape up to axes of length 1, or are flattened by it
    without a choice of order, are reshaped (`as_network_input`).
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        constants: Mapping[str, Tensor],
        input_name: str,
        output_name: str,
        input_shape: tuple[int | None, ...],
        rows: int | None,
        opset: int,
    ):
        super().__init__()
        self.input_shape = input_shape
        self._input, self._output, self._rows, self._opset = input_name, output_name, rows, opset
        known = dict(constants)
        self._nodes: list[Node] = []
        self._by_row = {input_name}
        for node in nodes:
            if self._by_row.isdisjoint(node.inputs) and all(name in known or not name for name in node.inputs):
                known[node.outputs[0]] = self._run(node, known)  # constants among themselves: worked out once
                continue
            self._nodes.append(node)
            # A shape is the same for every row: what is worked out from it has no batch axis.
            if node.operation != "Shape" and not self._by_row.isdisjoint(node.inputs):
                self._by_row.add(node.outputs[0])
        if output_name not in self._by_row:
            raise InvalidInput("The output of the ONNX network does not depend on its input; export it again.")
        used = {name for node in self._nodes for name in node.inputs}
        self._small: dict[str, Tensor] = {}
        self._buffer_of: dict[str, str] = {}
        for name in sorted(known.keys() & used):
            # Lengths, axes and single numbers are read on the CPU; weights follow the module to its device and dtype.
            if known[name].ndim == 0 or not known[name].is_floating_point():
                self._small[name] = known[name]
            else:
                self._buffer_of[name] = f"constant_{len(self._buffer_of)}"
        for name, buffer in self._buffer_of.items():
            self.register_buffer(buffer, known[name])
        last_use = {name: position for position, node in enumerate(self._nodes) for name in node.inputs}
        self._spent: list[list[str]] = [[] for _ in self._nodes]
        for name, position in last_use.items():
            if name and name != output_name:
                self._spent[position].append(name)

    def forward(self, x: Tensor) -> Tensor:
        """The graph's output (batch, …) at `x` (batch, …)."""
        values = {self._input: as_network_input(x, self.input_shape), **self._small}
        values |= {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()}
        for node, spent in zip(self._nodes, self._spent, strict=True):
            values[node.outputs[0]] = self._run(node, values)
            for name in spent:
                del values[name]
        return values[self._output]

    def _run(self, node: Node, values: Mapping[str, Tensor]) -> Tensor:
        inputs = tuple(values[name] if name else None for name in node.inputs)
        by_row = tuple(name in self._by_row for name in node.inputs)
        if any(by_row):  # constants made on the way are on the CPU
            device = next(x.device for x, of_rows in zip(inputs, by_row, strict=True) if of_rows and x is not None)
            inputs = tuple(x.to(device) if x is not None and x.is_floating_point() and x.ndim else x for x in inputs)
        try:
            return OPERATIONS[node.operation](Call(node, inputs, by_row, self._rows, self._opset))
        except Exception as problem:
            problem.add_note(f"(in the ONNX {node})")
            raise


def read_onnx(path: str | Path) -> OnnxNetwork:
    """The network in an ONNX file, in evaluation mode on the CPU, with the weights' dtypes as stored.

    The file needs one input and one output with the batch as axis 0; opset 7 or newer; operations among
    `onnx_operations.OPERATIONS`. The network is run on two random rows, together and alone, to be sure that rows do not
    influence each other (unless the file leaves a length besides the batch open).

    Raises:
        InvalidInput: `onnx` is not installed, a missing or broken file, an operation that is not known (named, with its
            node), or rows that influence each other.
    """
    try:
        import onnx
    except ImportError as problem:
        raise InvalidInput(
            'Reading ONNX files needs the onnx package; install it: pip install "gatewise[onnx]".'
        ) from problem
    path = require_file(path, "ONNX file")
    try:
        model = onnx.load(path)
    except Exception as problem:  # protobuf's DecodeError, onnx's ValidationError for external data, OSError
        raise InvalidInput(
            f"The ONNX file {path} is truncated or not an ONNX file; fetch or export it again."
        ) from problem
    try:
        network, dtype = _network(model, path)
        _require_separate_rows(network, dtype, path)
    except InvalidInput:
        raise
    except Exception as problem:  # a graph that does not fit together fails in whichever torch call meets it first
        said = " ".join([str(problem).split("\n")[0].rstrip("."), *getattr(problem, "__notes__", [])])
        raise InvalidInput(f"The ONNX file {path} cannot be run: {said}; export it again.") from problem
    return network.eval()


def _network(model: Any, path: Path) -> tuple[OnnxNetwork, torch.dtype]:
    """The network, and the dtype that it takes."""
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise InvalidInput(
            f"The ONNX file {path} is truncated, or of opset {opset}: gatewise reads {_OLDEST_OPSET} and newer; "
            "convert it with onnx.version_converter.convert_version."
        )
    constants = {entry.name: _tensor(entry) for entry in graph.initializer}
    nodes = [_node(entry, path) for entry in graph.node]
    inputs = [entry for entry in graph.input if entry.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1 or graph.sparse_initializer:
        raise InvalidInput(
            f"The ONNX file {path} has {len(inputs)} inputs and {len(graph.output)} outputs; gatewise reads networks "
            "with one of each and dense weights."
        )
    known = {inputs[0].name, *constants, ""}
    for node in nodes:
        if lost := [name for name in node.inputs if name not in known]:
            raise InvalidInput(
                f"The ONNX {node} in {path} takes {lost[0]!r}, which no node before it gives; export it again."
            )
        known |= set(node.outputs[:1])
    if graph.output[0].name not in known:
        raise InvalidInput(f"The ONNX file {path} gives no {graph.output[0].name!r}, its output; export it again.")
    dtype, rows, shape = _stated_input(inputs[0], path)
    return OnnxNetwork(nodes, constants, inputs[0].name, graph.output[0].name, shape, rows, opset), dtype


def _node(entry: Any, path: Path) -> Node:
    node = Node(
        entry.op_type,
        entry.name,
        tuple(entry.input),
        tuple(entry.output),
        {attribute.name: _attribute(attribute) for attribute in entry.attribute},
    )
    if entry.domain not in ("", "ai.onnx") or entry.op_type not in OPERATIONS:
        raise InvalidInput(
            f"The ONNX file {path} uses {node}, an operation that gatewise does not run; "
            f"it runs {', '.join(OPERATIONS)}."
        )
    return node


def _attribute(attribute: Any) -> Any:
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return _tensor(value) if isinstance(value, onnx.TensorProto) else value


def _tensor(proto: Any) -> Tensor:
    import onnx.numpy_helper

    return torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())


def _stated_input(entry: Any, path: Path) -> tuple[torch.dtype, int | None, tuple[int | None, ...]]:
    """The dtype, the batch size (None: open) and the shape of a row that the file states for its input."""
    import onnx

    kind = entry.type.tensor_type
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        raise InvalidInput(
            f"The ONNX file {path} takes {onnx.TensorProto.DataType.Name(kind.elem_type)} numbers; "
            "gatewise reads networks in float32 and float64."
        )
    lengths = [length.dim_value if length.dim_value > 0 else None for length in kind.shape.dim]
    if len(lengths) < 2:
        raise InvalidInput(
            f"The ONNX file {path} takes an input with {len(lengths)} axes; gatewise needs the batch as axis 0 "
            "and at least one more: export it so."
        )
    dtype = torch.float64 if kind.elem_type == onnx.TensorProto.DOUBLE else torch.float32
    return dtype, lengths[0], tuple(lengths[1:])


def _require_separate_rows(network: OnnxNetwork, dtype: torch.dtype, path: Path) -> None:
    lengths = [length for length in network.input_shape if length is not None]
    if len(lengths) < len(network.input_shape):
        return
    x = torch.rand(2, *lengths, generator=torch.Generator().manual_seed(0), dtype=dtype)
    with torch.no_grad():
        together, alone = network(x), [network(row) for row in x.split(1)]
    if together.ndim == 0 or len(together) != 2 or any(len(row) != 1 for row in alone):
        raise InvalidInput(
            f"The ONNX file {path} gives no row of output for each row of input; export it with a batch axis."
        )
    one_by_one = torch.cat(alone)
    tolerance = 1e-3 * one_by_one.nan_to_num().abs().amax().clamp_min(1e-3).item()
    if not torch.allclose(together, one_by_one, rtol=0, atol=tolerance, equal_nan=True):
        raise InvalidInput(
            f"The rows of the ONNX network {path} influence each other; export it in evaluation mode with a batch axis."
        )
