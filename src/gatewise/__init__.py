"""gatewise: input optimisation of piecewise-linear networks.

A ReLU network is a chain of affine maps with gates between them. Run your own module, choose what each gate does, and
search for the input that makes an objective small.
"""

from gatewise import combinators, domains, methods, network, objectives
from gatewise.attack import attack
from gatewise.domains import Box, Intersection, L1Ball, L2Ball, LinfBall, Polyhedron, Simplex
from gatewise.errors import (
    GatewiseError,
    InvalidInput,
    TrainingModeWarning,
    UnsupportedNetwork,
    UnsupportedProblem,
)
from gatewise.nearest import nearest
from gatewise.network import NetworkView, view
from gatewise.problem import Iterate, Problem
from gatewise.result import Result, Status
from gatewise.solve import Standing, goal_met, maximize, minimize, never

__version__ = "0.1.0"

__all__ = [
    "Box",
    "GatewiseError",
    "Intersection",
    "InvalidInput",
    "Iterate",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "NetworkView",
    "Polyhedron",
    "Problem",
    "Result",
    "Simplex",
    "Standing",
    "Status",
    "TrainingModeWarning",
    "UnsupportedNetwork",
    "UnsupportedProblem",
    "attack",
    "combinators",
    "domains",
    "goal_met",
    "maximize",
    "methods",
    "minimize",
    "nearest",
    "network",
    "never",
    "objectives",
    "view",
]
