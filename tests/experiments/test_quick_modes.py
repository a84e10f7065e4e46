"""Every experiment runs in its quick mode, meets its quick expectations, and ends with one JSON object."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ON_RANDOM_NETWORKS = ("random_networks", "surrogate_slopes", "gate_reach_study")


def _quick(script: str, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", str(EXPERIMENTS / f"{script}.py"), "--quick", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def _printed(ran: subprocess.CompletedProcess) -> dict:
    return json.loads(ran.stdout.splitlines()[-1])


def _quick_twice(script: str, file: Path, *flags: str, filed: str | None = None, printed: str | None = None) -> dict:
    """What the quick mode puts into `file`, or its entry `filed`, where it meets its expectations, and what it prints,
    or the entry `printed`, is the same, also when the script is run again, which runs nothing twice.
    """
    ran = _quick(script, "--out", str(file), *flags)
    assert ran.returncode == 0, ran.stderr
    assert f"PASS {script}" in ran.stderr
    content = json.loads(file.read_text())
    first = content if filed is None else content[filed]
    for one in (ran, _quick(script, "--out", str(file))):
        assert first == (_printed(one) if printed is None else _printed(one)[printed])
    return first


@pytest.mark.parametrize("script", ON_RANDOM_NETWORKS)
def test_the_quick_mode_meets_its_expectations(script, tmp_path):
    file = tmp_path / "figures.json"
    ran = _quick(script, "--out", str(file))
    assert ran.returncode == 0, ran.stderr
    assert f"PASS {script}" in ran.stderr
    assert json.loads(file.read_text())[script] == json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.usefixtures("data_folder")
def test_distances_are_held_against_proved_ones_and_nothing_is_run_twice(tmp_path):
    first = _quick_twice("nearest_exact", tmp_path / "figures.json", filed="nearest_exact")
    assert all(cell["misclassified"] == cell["inside"] == cell["rows"] for cell in first["cells"].values())


@pytest.mark.usefixtures("data_folder")
def test_nearest_points_of_larger_networks_are_found_and_nothing_is_run_twice(tmp_path):
    first = _quick_twice("nearest_large", tmp_path / "figures.json")
    assert first["again"]
    assert all(len(cell["distances"]) == 2 for cell in first["cells"].values())


@pytest.mark.usefixtures("data_folder")
def test_generators_are_inverted_and_nothing_is_run_twice(tmp_path):
    images = tmp_path / "images"
    _quick_twice("generator_inversion", tmp_path / "figures.json", "--images", str(images))
    assert (images / "gallery.png").is_file()


def test_agents_are_trained_plain_and_refined_and_nothing_is_run_twice(tmp_path):
    file, runs = tmp_path / "figures.json", tmp_path / "runs"
    ran = _quick("refined_drl", "--out", str(file), "--runs", str(runs))
    assert ran.returncode == 0, ran.stderr
    assert "PASS refined_drl" in ran.stderr
    (cell,) = json.loads(file.read_text())["refined_drl"]["cells"].values()
    assert [point["step"] for point in cell["curves"]["refined"]] == [0, 60, 120]
    again = _quick("refined_drl", "--out", str(file), "--runs", str(runs))
    assert again.stdout == ran.stdout


@pytest.mark.usefixtures("data_folder")
def test_actions_of_published_agents_are_refined(tmp_path):
    ran = _quick("refined_actions", "--out", str(tmp_path / "figures.json"))
    assert ran.returncode == 0, ran.stderr
    assert "PASS refined_actions" in ran.stderr
    cells = json.loads((tmp_path / "figures.json").read_text())["refined_actions"]
    passes = [one["forwards"] + one["backwards"] for one in cells["gain|pendulum|0.3"]["methods"].values()]
    assert 180 <= min(passes) <= max(passes) <= 202


def test_part_of_an_experiment_is_put_beside_the_rest(tmp_path):
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({"surrogate_slopes": {"C": {"gd": {"mean": 1.0}}}, "other": {}}))
    ran = _quick("surrogate_slopes", "--models", "A", "--methods", "adr-gd", "--out", str(file))
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(file.read_text())
    assert figures["surrogate_slopes"]["C"] == {"gd": {"mean": 1.0}}
    assert figures["surrogate_slopes"]["A"].keys() == {"gd", "adr-gd"}
    assert "other" in figures


@pytest.mark.slow
def test_landscapes_are_drawn(tmp_path):
    ran = _quick("landscapes", "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert {"three_neurons", "small_network", "pieces"} <= drawn == told.keys() - {"seconds"}
    assert all(picture.get("area_error", 0) < 1e-9 for name, picture in told.items() if name != "seconds")


@pytest.mark.usefixtures("data_folder")
def test_operator_splitting_is_held_against_adam_and_nothing_is_run_twice(tmp_path):
    first = _quick_twice("admm_inversion", tmp_path / "figures.json", printed="lenet")
    assert set(first["against_adam"]["box|admm, rho 0.01"]) == {"equal iterations", "equal passes", "equal seconds"}


def test_claims_on_first_order_adversaries_are_measured_and_nothing_is_run_twice(tmp_path):
    first = _quick_twice("first_order_adversaries", tmp_path / "figures.json")
    assert all(low <= mean <= high for cell in first.values() for mean, low, high in list(cell.values())[:-1])


@pytest.mark.slow
def test_pictures_of_the_dynamics_are_drawn(tmp_path):
    ran = _quick("first_order_pictures", "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert {path.stem for path in tmp_path.glob("*.png")} == told.keys() - {"seconds"} >= {"scales_and_ratios"}
    assert told["scales_and_ratios"]["0.01|10"] == 1
