"""What to make small."""

from gatewise.objectives.base import Negative, Objective, ObjectiveFunction
from gatewise.objectives.cross_entropy import CrossEntropy
from gatewise.objectives.distance import Distance, SquaredOutputDistance
from gatewise.objectives.linear import Linear
from gatewise.objectives.logit_ratio import DifferenceOfLogitsRatio, TargetedDifferenceOfLogitsRatio
from gatewise.objectives.margin import Margin, MarginTo, TargetedMargin

__all__ = [
    "CrossEntropy",
    "DifferenceOfLogitsRatio",
    "Distance",
    "Linear",
    "Margin",
    "MarginTo",
    "Negative",
    "Objective",
    "ObjectiveFunction",
    "SquaredOutputDistance",
    "TargetedDifferenceOfLogitsRatio",
    "TargetedMargin",
]
