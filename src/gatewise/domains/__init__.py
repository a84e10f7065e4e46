"""Sets of inputs: where a point may lie, and what its steps are measured by.

What comes out of `project` and `sample` is feasible exactly, in its own dtype, for float32 and float64. Geometry is
computed in float64; results are rounded inward: clamped to bounds rounded to the inside (`Intervals`), toward a ball's
centre, onto a grid whose sums are exact (`Simplex`), or drawn toward an inner point (`Polyhedron`, `Pair`). A row with
entries that are NaN or infinite spares the others, and comes back clamped, as it was, or as NaN.
"""

from gatewise.domains.balls import L1Ball, L2Ball, LinfBall
from gatewise.domains.base import Domain
from gatewise.domains.box import Box
from gatewise.domains.intersection import Intersection
from gatewise.domains.latent import Latents
from gatewise.domains.polyhedron import Polyhedron
from gatewise.domains.simplex import Simplex

__all__ = ["Box", "Domain", "Intersection", "L1Ball", "L2Ball", "Latents", "LinfBall", "Polyhedron", "Simplex"]
