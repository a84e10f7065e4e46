"""Every method and combinator, with steps for a set of a given size."""

from gatewise import methods as m
from gatewise.combinators import FaceWalk, LinearRegionSearch, MultiTargeted, Restarts, Strongest, WarmStart

# Methods for sets that hold each entry between two numbers, and no others.
NEED_BOX = ("local-milp", "region-walk", "carlini-wagner", "l-bfgs", "rlr-qp", "face-walk")
# Methods whose goal has to name classes.
NEED_MARGIN = ("rlr-qp", "face-walk")
# Methods that know the proximal steps of some objectives, and take no others.
NEED_PROXIMAL = ("admm",)


def attackers(size: float) -> dict[str, m.Method]:
    """By name; methods whose step is in input units get one that suits a set of that size."""
    return {
        "gd": m.GradientDescent(step_size=size, schedule="cosine"),
        "pgd": m.ProjectedGradient(),
        "adam": m.Adam(step_size=0.3),
        "adagrad": m.Adagrad(),
        "admm": m.Admm(rho=0.3),
        "apgd": m.AutoProjectedGradient(),
        "perturbed-gd": m.PerturbedGradientDescent(step_size=size, kick_size=size),
        "gate-annealing": m.GateAnnealing(),
        "gauss-newton": m.GaussNewton(),
        "gate-reach": m.GateReachingDescent(),
        "region-walk": m.RegionWalk(faces=40, radius=1.0),
        # From a centre the whole set is its region; the clock has no say in what it finds.
        "local-milp": m.LocalMilp(gates=49, most_gates=49, radius=1.0, seconds=60),
        "fab": m.FastAdaptiveBoundary(),
        "deepfool": m.DeepFool(),
        "ddn": m.DecoupledDirectionNorm(step_size=size, radius=size),
        "fmn": m.FastMinimumNorm(step_size=size),
        "alma": m.AugmentedLagrangian(),
        "carlini-wagner": m.CarliniWagner(
            step_size=1.0, weight=1e4, searches=1
        ),  # from the first step on the loss rules
        "l-bfgs": m.LimitedMemory(weight=1e4),
        "rlr-qp": LinearRegionSearch(points=3, exploring=1, phases=1),
        "face-walk": FaceWalk(steps=5),
        "square": Restarts(member=m.Square(step_size=1.0), times=3),  # a search that ends in local optima
        "random-search": m.RandomSearch(),
        "cem": m.CrossEntropyMethod(),
        "adr-gd": m.ActivationDescent(step_size=size / 4, exact_norms=True),
        "adr-gd-reference": m.ActivationDescentReference(step_size=size, output_scale="none", exact_norms=True),
        "restarts": Restarts(member=m.ProjectedGradient(), times=4),
        "multi-targeted": MultiTargeted(member=m.ProjectedGradient()),
        "strongest": Strongest(),
        "warm-start": WarmStart(first=m.ProjectedGradient(), then=m.AutoProjectedGradient()),
    }
