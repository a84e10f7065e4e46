"""`gatewise dynamics`: what it writes, that its figures hold, and what it says of bad input."""

from __future__ import annotations

import json

import pytest

from gatewise.cli import main


def dynamics(*more: str) -> int:
    given = ["--model", "little_networks:network", "--data", "digits", "--steps", "30", "--starts", "2", "--walks", "3"]
    return main(["dynamics", *given, "--out", "found", *more])


def test_writes_a_picture_and_a_summary_that_holds(workplace, trained_weights, capsys):
    assert dynamics("--weights", trained_weights, "--radius", "1/2", "--step-size", "0.2") == 0
    assert "adversaries" in capsys.readouterr().out
    assert sorted(path.name for path in (workplace / "found").iterdir()) == ["dynamics.png", "summary.json"]
    told = json.loads((workplace / "found" / "summary.json").read_text())
    (one,) = told["images"]
    walks = one["walks"]
    assert all(walks["on_sphere"])
    assert all(0 <= step <= 30 for step in walks["steps_to_sphere"])
    assert all(cosine < -0.9 for cosine in walks["cosine"])
    assert all(low <= high for low, high in walks["tangent_hessian"])
    assert all(multiplier < 0 for multiplier in walks["multiplier"])
    kinds = [point["kind"] for point in one["critical_points"]]
    assert {"minimum", "maximum"} <= set(kinds)
    losses = [point["loss"] for point in one["critical_points"]]
    assert losses == sorted(losses, reverse=True)  # an adversary first
    assert losses[0] >= max(walks["loss"]) - 1e-9
    low, high = one["loss_derivative"]
    assert 0 < low <= high < 2
    first = told
    assert dynamics("--weights", trained_weights, "--radius", "1/2", "--step-size", "0.2") == 0
    assert json.loads((workplace / "found" / "summary.json").read_text()) == first


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--radius", "0"], "--radius must be positive"),
        (["--radius", "inf"], "finite"),
        (["--radius", "1", "--temperature", "-1"], "--temperature"),
        (["--radius", "1", "--count", "0"], "--count"),
        (["--radius", "1", "--seed", "-1"], "--seed"),
        (["--radius", "1", "--std", "0"], "--std"),
        (["--radius", "1", "--weights", "nowhere.pt"], "nowhere.pt"),
        ([], "--radius"),
    ],
)
def test_bad_input_is_one_sentence(workplace, capsys, flags, says):
    assert dynamics(*flags) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (workplace / "found").exists()
