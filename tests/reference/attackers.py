"""Every method and combinator, with steps for a set of a given size."""

from gatewise import methods as m
from gatewise.combinators import MultiTargeted, Restarts, WarmStart


def attackers(size: float) -> dict[str, m.Method]:
    """By name; methods whose step is in input units get one that suits a set of that size."""
    return {
        "gd": m.GradientDescent(step_size=size, schedule="cosine"),
        "pgd": m.ProjectedGradient(),
        "adam": m.Adam(step_size=0.3),
        "adagrad": m.Adagrad(),
        "apgd": m.AutoProjectedGradient(),
        "perturbed-gd": m.PerturbedGradientDescent(step_size=size, kick_size=size),
        "gate-reach": m.GateReachingDescent(),
        "adr-gd": m.ActivationDescent(step_size=size / 4, exact_norms=True),
        "adr-gd-reference": m.ActivationDescentReference(step_size=size, output_scale="none", exact_norms=True),
        "restarts": Restarts(member=m.ProjectedGradient(), times=4),
        "multi-targeted": MultiTargeted(member=m.ProjectedGradient()),
        "warm-start": WarmStart(first=m.ProjectedGradient(), then=m.AutoProjectedGradient()),
    }
