"""Names and settings as the command line writes them."""

import pytest

from gatewise.catalogue import method_named
from gatewise.combinators import FaceWalk, MultiTargeted, Restarts, WarmStart
from gatewise.methods import AugmentedLagrangian, DecoupledDirectionNorm, ProjectedGradient


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("restarts:member=pgd", Restarts(member=ProjectedGradient())),
        ("restarts:times=2,member=pgd:step-size=0.5", Restarts(times=2, member=ProjectedGradient(step_size=0.5))),
        ("restarts:member=restarts:member=(pgd:steps=3)", Restarts(member=Restarts(member=ProjectedGradient(steps=3)))),
        (
            "face-walk:first=(warm-start:first=(multi-targeted:member=(ddn:steps=60)),then=(alma:steps=400)),steps=5",
            FaceWalk(
                first=WarmStart(
                    first=MultiTargeted(member=DecoupledDirectionNorm(steps=60)), then=AugmentedLagrangian(steps=400)
                ),
                steps=5,
            ),
        ),
    ],
)
def test_members_have_settings_at_any_depth(text, method):
    assert method_named(text) == method
