"""Expected figures are held against measured ones."""

import importlib.util
import math
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "experiments" / "expectations.py"
FILE = """
[figures]
close = { value = 100.0, tolerance = 0.02, kind = "relative" }
small = { value = 0.5, kind = "at_most" }
large = { value = 2.0, tolerance = 0.1, kind = "at_least" }
[quick]
close = { value = 1.0, tolerance = 0.0, kind = "relative" }
"""
MET = {"close": 98.5, "small": 0.5, "large": 1.95, "unheard of": 7.0}


@pytest.fixture
def expectations(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("expectations", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "toy.toml").write_text(FILE)
    monkeypatch.setattr(module, "EXPECTED", tmp_path)
    return module


def test_figures_within_their_tolerances_pass(expectations):
    assert expectations.check("toy", MET) == []


@pytest.mark.parametrize(
    ("key", "value"), [("close", 97.9), ("close", 102.1), ("small", 0.501), ("large", 1.89), ("close", math.nan)]
)
def test_a_figure_outside_is_named(expectations, key, value):
    (failure,) = expectations.check("toy", MET | {key: value})
    assert failure.startswith(f"{key}: expected")


def test_a_figure_that_was_not_measured_fails_unless_only_a_part_was_run(expectations):
    assert len(expectations.check("toy", {"close": 100.0})) == 2
    assert expectations.check("toy", {"close": 100.0}, part=True) == []


def test_tables_are_told_apart(expectations):
    assert expectations.check("toy", {"close": 1.0}, table="quick") == []


def test_the_verdict_is_the_exit_code(expectations, capsys):
    assert expectations.verdict("toy", []) == 0
    assert expectations.verdict("toy", ["close: too far"]) == 1
    assert "PASS toy" in (said := capsys.readouterr().err)
    assert "FAIL toy: close: too far" in said
