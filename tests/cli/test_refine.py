"""`gatewise refine`: plain and refined side by side, resumable, and what it says of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("stable_baselines3")

from gatewise.cli import main

FLAGS = ["--steps", "60", "--stretch", "30", "--warm-up", "20", "--net", "8,8", "--episodes", "1", "--budget", "2"]


def refine(*more: str) -> list[str]:
    return ["refine", "--algo", "td3", "--env", "Pendulum-v1", *FLAGS, *more]


def test_writes_curves_and_returns_by_seed_and_step(tmp_path, capsys):
    assert main(refine("--seeds", "2", "--out", str(tmp_path))) == 0
    told = json.loads((tmp_path / "summary.json").read_text())
    for kind in ("plain", "refined"):
        assert list(told[kind]) == ["0", "1"]
        for evaluations in told[kind].values():
            assert [one["step"] for one in evaluations] == [0, 30, 60]
            assert all(len(one["returns"]) == 1 for one in evaluations)
        assert [point["step"] for point in told["curves"][kind]] == [0, 30, 60]
        assert told["curves"][kind][-1]["low"] < told["curves"][kind][-1]["mean"] < told["curves"][kind][-1]["high"]
        assert told["seconds"][kind] > 0
    assert told["refined"]["0"][-1]["refinement"]["refined"] > 0
    assert told["steps_done"] == 240
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "refined" in capsys.readouterr().out
    stamp = (tmp_path / "runs" / "refined-1" / "step-60" / "agent.zip").stat().st_mtime_ns
    assert main(refine("--seeds", "2", "--out", str(tmp_path))) == 0  # does nothing that is done
    assert (tmp_path / "runs" / "refined-1" / "step-60" / "agent.zip").stat().st_mtime_ns == stamp
    assert main(refine("--seeds", "2", "--share", "0.5", "--out", str(tmp_path))) == 2
    assert "other settings (--share)" in capsys.readouterr().err


def test_a_command_that_was_killed_goes_on_with_the_same_numbers(tmp_path):
    """kill -9 as soon as a checkpoint of the refined run is there."""
    command = [sys.executable, "-m", "gatewise.cli", *refine("--seeds", "1", "--out", str(tmp_path / "killed"))]
    running = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    began = time.monotonic()
    while not list((tmp_path / "killed").glob("runs/*/step-30")) and time.monotonic() - began < 120:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert main(refine("--seeds", "1", "--out", str(tmp_path / "killed"))) == 0
    assert main(refine("--seeds", "1", "--out", str(tmp_path / "whole"))) == 0
    killed, whole = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("killed", "whole"))
    assert killed["curves"] == whole["curves"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--env", "CartPole-v1"], "continuous"),
        (["--env", "Pendulums-v1"], "cannot be made"),
        (["--method", "adrgd"], "did you mean"),
        (["--share", "2"], "between 0 and 1"),
        (["--net", "8,0"], "--net"),
        (["--algo", "ppo"], "td3"),
        (["--steps", "0"], "--steps must be positive"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, capsys, flags, said):
    assert main([*refine("--out", str(tmp_path / "out")), *flags]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_extra_that_is_missing_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert main(refine("--out", str(tmp_path / "out"))) == 2
    assert "install gatewise[rl]" in capsys.readouterr().err
