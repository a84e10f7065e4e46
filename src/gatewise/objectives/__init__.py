"""What to make small."""

from gatewise.objectives.base import Negative, Objective, ObjectiveFunction, Sum
from gatewise.objectives.cross_entropy import CrossEntropy
from gatewise.objectives.curvature import curvature
from gatewise.objectives.distance import Distance, SquaredOutputDistance
from gatewise.objectives.least_squares import LeastSquares
from gatewise.objectives.linear import Linear
from gatewise.objectives.logit_ratio import DifferenceOfLogitsRatio, TargetedDifferenceOfLogitsRatio
from gatewise.objectives.margin import Margin, MarginTo, TargetedMargin
from gatewise.objectives.penalised import Penalised
from gatewise.objectives.proximal import Proximal, proximal_step
from gatewise.objectives.reconstruction import SquaredError, ToPixels
from gatewise.objectives.total_variation import TotalVariation

__all__ = [
    "CrossEntropy",
    "DifferenceOfLogitsRatio",
    "Distance",
    "LeastSquares",
    "Linear",
    "Margin",
    "MarginTo",
    "Negative",
    "Objective",
    "ObjectiveFunction",
    "Penalised",
    "Proximal",
    "SquaredError",
    "SquaredOutputDistance",
    "Sum",
    "TargetedDifferenceOfLogitsRatio",
    "TargetedMargin",
    "ToPixels",
    "TotalVariation",
    "curvature",
    "proximal_step",
]
