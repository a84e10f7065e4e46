"""Rules that keep the house in shape."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

import gatewise
from gatewise.methods import Method
from gatewise.problem import Problem

SOURCE = Path(gatewise.__file__).parent
ROOT = Path(__file__).parents[2]
METHOD_FILES = sorted(path for path in (SOURCE / "methods").glob("*.py") if path.stem not in ("__init__", "base"))
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "core"}


def test_there_are_no_drawers_for_odds_and_ends():
    assert not [path for path in SOURCE.rglob("*") if path.stem.strip("_") in DRAWERS]


def test_a_problem_has_four_fields_and_never_a_fifth():
    assert [field.name for field in dataclasses.fields(Problem)] == ["network", "domain", "objective", "goal"]


def test_there_are_method_files_to_look_at():
    assert len(METHOD_FILES) >= 8


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: path.stem)
def test_a_method_names_its_source_and_numbers_its_deviations(path):
    text = path.read_text().split('"""')[1]
    assert re.search(r"\((\w[^)]*\W)?(18|19|20)\d\d\b", text), "no source with its year"
    assert re.search(r"\b(Deviations|How it departs|How this differs)[^:]*:", text), "nothing said of deviations"
    assert "Deviations: none" in text or "(1)" in text, "deviations are not numbered"


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: path.stem)
def test_one_algorithm_one_file(path):
    module = __import__(f"gatewise.methods.{path.stem}", fromlist=["*"])
    kinds = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == module.__name__
    ]
    assert len(kinds) == 1
    assert kinds[0].__name__ in gatewise.methods.__all__


def test_every_method_file_is_in_the_contract_that_keeps_methods_apart():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (apart,) = (contract["modules"] for contract in contracts if contract["name"] == "Methods do not know each other")
    assert sorted(apart) == [f"gatewise.methods.{path.stem}" for path in METHOD_FILES]


def test_every_top_level_module_stands_on_a_floor():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (floors,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    listed = {module.strip().removeprefix("gatewise.") for floor in floors for module in re.split(r"[|:]", floor)}
    there = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__", "__main__"} <= listed
