"""Each attack experiment runs to its last line in its quick mode, and the numbers on that line are possible."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def last_line(monkeypatch, capsys):
    """Run an experiment as a script, in this process; its exit code and its last line, read."""
    threads = torch.get_num_threads()

    def run(name: str, *flags: object) -> tuple[int, dict]:
        monkeypatch.syspath_prepend(EXPERIMENTS)
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        with pytest.raises(SystemExit) as ending:
            runpy.run_path(str(EXPERIMENTS / f"{name}.py"), run_name="__main__")
        return ending.value.code, json.loads(capsys.readouterr().out.splitlines()[-1])

    yield run
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("data_folder")
@pytest.mark.parametrize("name", ["mnist_attacks", "cifar10_attacks", "imagenet_attacks"])
def test_attack_grids_keep_inside_box_and_budget(last_line, tmp_path, name):
    code, told = last_line(name, "--quick", "--out", tmp_path / "told.json")
    assert code == 0
    assert told["cells"]
    for key, entry in told["cells"].items():
        _, _, _, bounds, _, budget, _ = key.split("|")
        assert 0 <= entry["success"] <= 1
        assert entry["backwards"] <= int(budget)
        assert bounds == "unclipped" or (entry["outside"] == 0 and entry["clipped_success"] == entry["success"])


@pytest.mark.usefixtures("data_folder")
def test_a_cell_that_is_in_the_file_is_not_run_again(last_line, tmp_path):
    out = tmp_path / "told.json"
    last_line("mnist_attacks", "--quick", "--only", "|fgsm,box", "--out", out)
    told = json.loads(out.read_text())
    assert all(key.endswith("|fgsm") for key in told["cells"])
    told["cells"] = {key: entry | {"success": 0.125} for key, entry in told["cells"].items()}
    out.write_text(json.dumps(told))
    _, again = last_line("mnist_attacks", "--quick", "--only", "|fgsm,box", "--out", out)
    assert again["cells"] == told["cells"]


@pytest.mark.usefixtures("data_folder")
def test_a_grid_out_of_time_says_what_is_left(last_line, capsys, tmp_path):
    _, told = last_line("mnist_attacks", "--quick", "--seconds", "1e-9", "--only", "|fgsm,box")
    assert len(told["cells"]) <= 1


@pytest.mark.usefixtures("data_folder")
def test_galleries_are_drawn(last_line, tmp_path):
    code, told = last_line("galleries", "--quick", "--out", tmp_path)
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == set(told["pictures"]) == {"mnist_0.2.png", "cifar10_8_255.png"}
    for losses in told["pictures"].values():
        assert losses["PGD"] > losses["clean"]


def test_iteration_cost_counts_the_papers_variables(last_line):
    code, told = last_line("iteration_cost", "--quick")
    assert code == 0
    assert told["cases"]["mnist-cnn, batch 1"]["variables"] == 9180


def test_imagenet_without_weights_asks_for_them(last_line, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.setattr(sys, "argv", ["imagenet_attacks"])
    with pytest.raises(SystemExit) as ending:
        runpy.run_path(str(EXPERIMENTS / "imagenet_attacks.py"), run_name="__main__")
    assert ending.value.code == 2
    assert "--weights" in capsys.readouterr().err
