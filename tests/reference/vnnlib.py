"""VNN-LIB texts as the VNN-COMP benchmarks write them: a box of inputs, and the outputs that would be unsafe.

Read are `<=` and `>=` between inputs `X_i`, outputs `Y_j` and numbers, under `and` and `or`. Everything is float64: a
bound is the number that the text states.
"""

from __future__ import annotations

import gzip
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gatewise.objectives.base import Objective

Expression = str | list["Expression"]


@dataclass(frozen=True, eq=False)
class Unsafe(Objective):
    """At most 0 exactly where an output is unsafe: all rows of `A y <= b` hold for one of `ways`, pairs of A
    (inequalities, outputs) and b (inequalities,), float64.

    Worked out in float64, where neither a stated number nor the difference of two float32 outputs changes its sign.
    """

    ways: tuple[tuple[Tensor, Tensor], ...]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        outputs = y.flatten(1).double()
        excess = [(outputs @ A.T - b).amax(1) for A, b in self.ways]
        return torch.stack(excess).amin(0).to(y.dtype)


@dataclass(frozen=True, eq=False)
class Specification:
    """Whether an input between `lower` and `upper` (inputs,) gives an `unsafe` output."""

    lower: Tensor
    upper: Tensor
    unsafe: Unsafe


def read_vnnlib(path: Path) -> list[Specification]:
    """The problems of a file, one for each box of inputs; the file may lie there packed, with .gz appended."""
    packed = path.with_name(f"{path.name}.gz")
    return specifications(path.read_text() if path.is_file() else gzip.decompress(packed.read_bytes()).decode())


def specifications(text: str) -> list[Specification]:
    """The problems of a text, one for each box of inputs."""
    declared: dict[str, None] = {}
    asserted: list[list[list[Inequality]]] = []
    for head, *rest in parse(text):
        match head, rest:
            case "declare-const", [str(name), "Real"]:
                declared[name] = None
            case "assert", [condition]:
                asserted.append(alternatives(condition))
            case _:
                raise ValueError(f"neither a declaration nor an assertion: {head} {rest}")
    inputs = sum(name.startswith("X_") for name in declared)
    outputs = sum(name.startswith("Y_") for name in declared)
    ways = defaultdict(list)  # by box
    for choice in itertools.product(*asserted):
        inequalities = list(itertools.chain.from_iterable(choice))
        on_input, on_output = _by_side(inequalities, declared)
        ways[_box(on_input, inputs)].append(_half_spaces(on_output, outputs))
    return [
        Specification(*torch.tensor(box, dtype=torch.float64), unsafe=Unsafe(tuple(found)))
        for box, found in ways.items()
    ]


def parse(text: str) -> list[Expression]:
    """The S-expressions of a text: a word, or a list of expressions."""
    open_lists: list[list[Expression]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(";.*", "", text)):
        if token == "(":
            open_lists.append([])
        elif token == ")":
            closed = open_lists.pop()
            open_lists[-1].append(closed)
        else:
            open_lists[-1].append(token)
    if len(open_lists) != 1:
        raise ValueError(f"{len(open_lists) - 1} brackets are not closed")
    return open_lists[0]


@dataclass(frozen=True)
class Inequality:
    """`sum of weight * variable <= bound`."""

    weights: dict[str, float]
    bound: float


def alternatives(condition: Expression) -> list[list[Inequality]]:
    """A condition as a list of alternatives, each a list of inequalities that hold together."""
    match condition:
        case ["or", *parts]:
            return [way for part in parts for way in alternatives(part)]
        case ["and", *parts]:
            return [list(itertools.chain.from_iterable(c)) for c in itertools.product(*map(alternatives, parts))]
        case ["<=", str(small), str(large)] | [">=", str(large), str(small)]:
            weights, bound = defaultdict(float), 0.0
            for term, sign in ((small, 1.0), (large, -1.0)):
                if re.match("[XY]_", term):
                    weights[term] += sign
                else:
                    bound -= sign * float(term)
            return [[Inequality(dict(weights), bound)]]
    raise ValueError(f"a condition of an unknown kind: {condition}")


def _by_side(
    inequalities: Iterable[Inequality], declared: Mapping[str, None]
) -> tuple[list[Inequality], list[Inequality]]:
    """Those about one input, and those about outputs."""
    on_input, on_output = [], []
    for inequality in inequalities:
        kinds = [name[0] for name in inequality.weights]
        if not inequality.weights.keys() <= declared.keys() or kinds not in (["X"], ["Y"], ["Y", "Y"]):
            raise ValueError(f"neither the bound of an input nor about declared outputs: {inequality}")
        (on_input if kinds == ["X"] else on_output).append(inequality)
    return on_input, on_output


def _box(bounds: Iterable[Inequality], inputs: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    lower, upper = [-torch.inf] * inputs, [torch.inf] * inputs
    for inequality in bounds:
        ((name, weight),) = inequality.weights.items()
        i = _number(name)
        if weight > 0:
            upper[i] = min(upper[i], inequality.bound)
        else:
            lower[i] = max(lower[i], -inequality.bound)
    return tuple(lower), tuple(upper)


def _half_spaces(conditions: Sequence[Inequality], outputs: int) -> tuple[Tensor, Tensor]:
    A = torch.zeros(len(conditions), outputs, dtype=torch.float64)
    for row, inequality in zip(A, conditions, strict=True):
        for name, weight in inequality.weights.items():
            row[_number(name)] = weight
    return A, torch.tensor([inequality.bound for inequality in conditions], dtype=torch.float64)


def _number(name: str) -> int:
    return int(name[2:])
