"""The network seen through its gates."""

from gatewise.network.hyperplanes import RunningNorms, exact_norms, squared_norms
from gatewise.network.piecewise import require_piecewise_linear
from gatewise.network.plane import Plane
from gatewise.network.region import LinearRegion, crossings
from gatewise.network.rules import Fixed, GateRule, Network, Reaching, Smoothed, Softplus, Split, Surrogate
from gatewise.network.subdivision import PlanarRegions, planar_regions
from gatewise.network.view import Gate, NetworkView, Trace, view

__all__ = [
    "Fixed",
    "Gate",
    "GateRule",
    "LinearRegion",
    "Network",
    "NetworkView",
    "PlanarRegions",
    "Plane",
    "Reaching",
    "RunningNorms",
    "Smoothed",
    "Softplus",
    "Split",
    "Surrogate",
    "Trace",
    "crossings",
    "exact_norms",
    "planar_regions",
    "require_piecewise_linear",
    "squared_norms",
    "view",
]
