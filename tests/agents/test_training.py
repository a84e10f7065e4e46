"""Training in stretches: a run that was killed goes on as if it had not been."""

from __future__ import annotations

import pytest
import torch

from gatewise.agents.critics import Refinement

pytest.importorskip("stable_baselines3")

from gatewise.agents.training import Training, train

ASKED = {
    "environment": "Pendulum-v1",
    "steps": 90,
    "stretch": 30,
    "episodes": 1,
    "warm_up": 20,
    "net": (8, 8),
    "batch": 8,
}


class Killed(Exception):
    pass


def parameters(run, folder):
    agent = run.take_up(folder, buffer=False)
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


@pytest.mark.parametrize(
    ("algorithm", "refinement", "environments"),
    [("td3", None, 1), ("td3", Refinement(method="pgd", budget=2, share=0.5), 2), ("sac", None, 1)],
)
def test_a_run_that_was_killed_has_the_same_numbers(tmp_path, algorithm, refinement, environments):
    run = Training(algorithm=algorithm, refinement=refinement, environments=environments, **ASKED)
    whole = train(run, tmp_path / "whole")

    def kill(evaluations):
        if evaluations[-1]["step"] == 60 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            (tmp_path / "pieces" / "writing").mkdir()  # what a kill in the middle of writing leaves
            raise Killed

    with pytest.raises(Killed):
        train(run, tmp_path / "pieces", kill)
    told = []
    pieces = train(run, tmp_path / "pieces", lambda evaluations: told.append(evaluations[-1]["step"]))
    assert told == [60, 90]  # nothing done twice
    assert [one["step"] for one in pieces] == [0, 30, 60, 90]
    assert [one["returns"] for one in pieces] == [one["returns"] for one in whole]
    ends = [tmp_path / name / "step-90" for name in ("whole", "pieces")]
    assert torch.equal(*(parameters(run, end) for end in ends))
    assert sorted(path.name for path in (tmp_path / "pieces").iterdir()) == ["step-90"]
    assert sorted(path.name for path in ends[1].iterdir()) == ["agent.zip", "record.json"]


def test_a_run_that_is_done_is_not_touched(tmp_path):
    run = Training(algorithm="ddpg", **ASKED)
    first = train(run, tmp_path)
    stamp = (tmp_path / "step-90" / "agent.zip").stat().st_mtime_ns
    assert train(run, tmp_path) == first
    assert (tmp_path / "step-90" / "agent.zip").stat().st_mtime_ns == stamp


def test_plain_and_refined_begin_alike(tmp_path):
    both = [
        train(Training(algorithm="td3", refinement=refinement, **ASKED | {"steps": 30}), tmp_path / name)
        for name, refinement in (("plain", None), ("refined", Refinement(method="pgd", budget=2)))
    ]
    assert both[0][0]["returns"] == both[1][0]["returns"]
