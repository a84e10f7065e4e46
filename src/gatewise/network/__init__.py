"""The network seen through its gates."""

from gatewise.network.hyperplanes import RunningNorms, exact_norms, squared_norms
from gatewise.network.piecewise import require_piecewise_linear
from gatewise.network.rules import Fixed, GateRule, Network, Reaching, Smoothed, Softplus, Split, Surrogate
from gatewise.network.view import Gate, NetworkView, Trace, view

__all__ = [
    "Fixed",
    "Gate",
    "GateRule",
    "Network",
    "NetworkView",
    "Reaching",
    "RunningNorms",
    "Smoothed",
    "Softplus",
    "Split",
    "Surrogate",
    "Trace",
    "exact_norms",
    "require_piecewise_linear",
    "squared_norms",
    "view",
]
