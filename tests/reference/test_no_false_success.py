"""No method reports a success where there is none: on the instances of VNN-COMP 2021 that complete verifiers proved
`unsat`, no point of the box gives an unsafe output (Bak, Liu & Johnson, "The second international verification of
neural networks competition", 2021; networks ACAS Xu and mnistfc).
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from gatewise.domains import Box
from gatewise.methods import LocalMilp
from gatewise.network import view
from gatewise.objectives import Margin
from gatewise.problem import Problem
from gatewise.readers import read_model
from gatewise.result import Result, Status
from gatewise.solve import minimize
from gatewise.streams import RowStreams

from .attackers import NEED_MARGIN, NEED_PROXIMAL, attackers
from .vnnlib import Specification, read_vnnlib, specifications

STARTS = 4  # the box's centre and random points of it
BUDGET, LONG_BUDGET = 16, 60
# They aim at classes, so where the condition is "not classified as this" they are given it as a margin.
AIM_AT_CLASSES = ("multi-targeted", "strongest", *NEED_MARGIN, *NEED_PROXIMAL)
NEED_CLASSES = ("multi-targeted", *NEED_MARGIN, *NEED_PROXIMAL)


@dataclass(frozen=True)
class Instance:
    """A network and a property, by their files in one of the two folders."""

    family: str
    network: str
    prop: str


def acasxu(network: str, prop: str) -> Instance:
    return Instance("acasxu", f"ACASXU_run2a_{network}_batch_2000.onnx", f"prop_{prop}.vnnlib")


def mnistfc(network: str, prop: str) -> Instance:
    return Instance("mnistfc", f"mnist-net_{network}.onnx", f"prop_{prop}.vnnlib")


# Each property that no input breaks on some network, there where attacks come nearest to it.
UNSAT = (
    acasxu("4_8", "1"),
    acasxu("1_9", "2"),
    acasxu("1_6", "3"),
    acasxu("1_6", "4"),
    acasxu("1_1", "5"),
    acasxu("1_1", "6"),  # two boxes
    acasxu("3_3", "9"),
    acasxu("4_5", "10"),
    mnistfc("256x2", "3_0.03"),
    mnistfc("256x4", "3_0.03"),
    mnistfc("256x6", "13_0.03"),
)
# Points are easy to find here. Of the last but one the verifiers' verdicts differ: a point settles it.
SAT = (
    acasxu("3_9", "2"),
    acasxu("1_7", "3"),
    acasxu("1_8", "4"),
    mnistfc("256x4", "7_0.05"),
    mnistfc("256x2", "14_0.03"),
    mnistfc("256x6", "9_0.05"),
)


def instances(folder: Path, family: str, verdict: str) -> list[Instance]:
    """Those of a family with this verdict, in the official order."""
    with (folder / "vnncomp" / family / f"{family}_results.csv").open(newline="") as table:
        return [Instance(family, r["onnx"], r["vnnlib"]) for r in csv.DictReader(table) if r["result"] == verdict]


network_in = cache(read_model)
specifications_in = cache(read_vnnlib)


def methods(size: float):
    """Every method; the exact one in steps that a budget as short as here pays for, and that end soon."""
    return {**attackers(size), "local-milp": LocalMilp(gates=19, most_gates=19, radius=0.3, seconds=0.3)}


METHODS = tuple(methods(1.0))


def attack(folder: Path, instance: Instance, specification: Specification, name: str, **limits) -> Result:
    """A run from several points of the box at once, in the file's float32."""
    network = view(network_in(str(folder / "vnncomp" / instance.family / instance.network)))
    domain = Box(specification.lower, specification.upper)
    centre = ((specification.lower + specification.upper) / 2).float()
    starts = domain.sample(RowStreams(0, range(STARTS)), centre.expand(STARTS, -1))
    starts[0] = centre
    goal = specification.unsafe
    if instance.family == "mnistfc" and name in AIM_AT_CLASSES:
        goal = margin_of(specification, STARTS)
    method = methods(domain.size(starts)[0].item())[name]
    return minimize(Problem(network, domain, goal, goal=goal), method, starts, progress=False, **limits)


def margin_of(specification: Specification, rows: int) -> Margin:
    """The same as an mnistfc condition, in the words of classifiers."""
    label = specification.unsafe.ways[0][0].argmax()
    return Margin(label.expand(rows))


def successes(folder: Path, chosen: Iterable[Instance], name: str, **limits) -> list[str]:
    """The instances on which the method claims a success, or has a point that is one, with what it says of them."""
    found = []
    for instance in chosen:
        if name in NEED_CLASSES and instance.family != "mnistfc":
            continue
        for specification in specifications_in(folder / "vnncomp" / instance.family / instance.prop):
            result = attack(folder, instance, specification, name, **limits)
            assert result.value.isfinite().all()
            assert not result.violation.any()
            with torch.no_grad():
                output = network_in(str(folder / "vnncomp" / instance.family / instance.network))(result.x)
            unsafe = specification.unsafe(result.x, output) <= 0
            claimed = {Status.GOAL_MET, Status.NOT_REPRODUCED} & set(result.status)
            if result.goal_met.any() or unsafe.any() or claimed:
                found.append(f"{instance}: {result.value.tolist()}, {result.status}")
    return found


@pytest.mark.parametrize("name", METHODS)
def test_no_method_reports_a_success_where_there_is_none(data_folder, name):
    assert not successes(data_folder, UNSAT, name, budget=BUDGET)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_no_method_reports_a_success_on_any_unsat_instance(data_folder, name):
    every = {family: instances(data_folder, family, "unsat") for family in ("acasxu", "mnistfc")}
    assert {family: len(found) for family, found in every.items()} == {"acasxu": 139, "mnistfc": 49}
    assert set(UNSAT) <= {*every["acasxu"], *every["mnistfc"]}
    assert not successes(data_folder, every["acasxu"] + every["mnistfc"], name, budget=LONG_BUDGET)


@pytest.mark.slow
def test_nor_does_the_strongest_by_the_clock(data_folder):
    """Its exact steps come where there is time for them."""
    assert not successes(data_folder, UNSAT, "strongest", seconds=5.0)


@pytest.mark.parametrize("instance", SAT, ids=lambda instance: f"{instance.network} {instance.prop}")
def test_what_is_found_where_something_is_holds_in_float64_too(data_folder, instance):
    """The same runs do find points where there are some: the searches above are no idle ones."""
    folder = data_folder / "vnncomp" / instance.family
    (specification,) = specifications_in(folder / instance.prop)
    results = [attack(data_folder, instance, specification, name, budget=BUDGET) for name in ("pgd", "apgd")]
    points = torch.cat([result.x[result.goal_met] for result in results]).double()
    assert len(points)
    assert ((specification.lower <= points) & (points <= specification.upper)).all()
    output = run_in_float64(folder / instance.network, points)
    assert (specification.unsafe(points, output) <= 1e-5).all()


def run_in_float64(path: Path, points: torch.Tensor) -> torch.Tensor:
    """The network's output by ONNX Runtime, with its float32 weights taken for float64 numbers."""
    model = onnx.load(path)
    for weights in model.graph.initializer:
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights).astype(np.float64), weights.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (stated,) = session.get_inputs()
    rows = [np.asarray(session.run(None, {stated.name: x.reshape(stated.shape)})[0]) for x in points.numpy()]
    return torch.from_numpy(np.concatenate(rows))


def test_a_success_would_be_noticed(data_folder):
    assert len(successes(data_folder, SAT, "apgd", budget=BUDGET)) == len(SAT)


@pytest.mark.parametrize("family", ["acasxu", "mnistfc"])
def test_the_chosen_instances_have_the_verdict_that_they_were_chosen_for(data_folder, family):
    for verdict, chosen in (("unsat", UNSAT), ("sat", SAT)):
        assert {i for i in chosen if i.family == family} <= set(instances(data_folder, family, verdict))


def test_the_conditions_of_mnistfc_are_margins(data_folder):
    for instance in (i for i in UNSAT + SAT if i.family == "mnistfc"):
        (specification,) = specifications_in(data_folder / "vnncomp" / "mnistfc" / instance.prop)
        x, y = torch.zeros(50, 784), torch.randn(50, 10)
        torch.testing.assert_close(margin_of(specification, 50)(x, y), specification.unsafe(x, y))


DECLARED = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))
BOUNDS = """
(assert (<= X_0 0.5)) ; a comment (with brackets
(assert (>= X_0 -0.25))
(assert (and (<= 1 X_1) (<= X_1 2e0)))
"""
CONDITIONS = {
    "(assert (<= Y_0 Y_1))": lambda y: y[0] <= y[1],
    "(assert (>= Y_0 Y_1))": lambda y: y[0] >= y[1],
    "(assert (>= Y_2 0.1))": lambda y: y[2] >= 0.1,
    "(assert (<= Y_2 -0.5))": lambda y: y[2] <= -0.5,
    "(assert (<= Y_0 Y_1))\n(assert (<= Y_0 Y_2))": lambda y: y[0] <= min(y[1], y[2]),
    "(assert (or (<= Y_0 Y_1) (and (>= Y_2 Y_0) (<= Y_2 0.5))))": lambda y: y[0] <= y[1] or y[0] <= y[2] <= 0.5,
    "(assert (or (and (<= Y_1 Y_0)) (and (<= Y_2 Y_0))))": lambda y: min(y[1], y[2]) <= y[0],
    "(assert (or (<= Y_0 0) (<= Y_1 0)))\n(assert (or (>= Y_2 0) (>= Y_0 1)))": lambda y: (
        (y[0] <= 0 or y[1] <= 0) and (y[2] >= 0 or y[0] >= 1)
    ),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_goal_is_met_exactly_where_the_text_says_so(condition):
    (specification,) = specifications(DECLARED + BOUNDS + condition)
    assert specification.lower.tolist() == [-0.25, 1.0]
    assert specification.upper.tolist() == [0.5, 2.0]
    outputs = (10 * torch.randn(500, 3)).round() / 10  # with ties
    met = specification.unsafe(torch.zeros(500, 2), outputs) <= 0
    direct = torch.tensor([CONDITIONS[condition](y) for y in outputs.tolist()])
    assert torch.equal(met, direct)
    assert 0 < met.sum() < 500


def test_each_box_of_inputs_is_a_problem_of_its_own():
    boxes = """
    (assert (or (and (<= X_0 1) (>= X_0 0) (<= X_1 1) (>= X_1 0)) (and (<= X_0 3) (>= X_0 2) (<= X_1 1) (>= X_1 0))))
    (assert (or (and (<= Y_1 Y_0)) (and (<= Y_2 Y_0))))
    """
    first, second = specifications(DECLARED + boxes)
    assert (first.lower.tolist(), first.upper.tolist()) == ([0.0, 0.0], [1.0, 1.0])
    assert (second.lower.tolist(), second.upper.tolist()) == ([2.0, 0.0], [3.0, 1.0])
    assert len(first.unsafe.ways) == len(second.unsafe.ways) == 2


def test_a_condition_may_come_with_a_box_of_its_own():
    text = """
    (assert (>= X_0 0)) (assert (>= X_1 0)) (assert (<= X_1 1))
    (assert (or (and (<= X_0 1) (<= Y_0 Y_1)) (and (<= X_0 2) (<= Y_0 Y_2))))
    """
    first, second = specifications(DECLARED + text)
    assert (first.upper.tolist(), second.upper.tolist()) == ([1.0, 1.0], [2.0, 1.0])
    y = torch.tensor([[0.0, 1.0, -1.0], [0.0, -1.0, 1.0]])
    assert (first.unsafe(y, y) <= 0).tolist() == [True, False]
    assert (second.unsafe(y, y) <= 0).tolist() == [False, True]


@pytest.mark.parametrize(
    "text", ["(assert (<= Y_0 Y_1)", "(assert (= Y_0 Y_1))", "(assert (<= X_0 Y_1))", "(assert (<= Y_0 Y_9))"]
)
def test_what_the_reader_does_not_know_it_refuses(text):
    with pytest.raises(ValueError, match=r"not closed|unknown kind|neither"):
        specifications(DECLARED + BOUNDS + text)
