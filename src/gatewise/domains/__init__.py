"""Sets of inputs: where a point may lie, and what its steps are measured by."""

from gatewise.domains.balls import L1Ball, L2Ball, LinfBall
from gatewise.domains.base import Domain
from gatewise.domains.box import Box
from gatewise.domains.intersection import Intersection
from gatewise.domains.polyhedron import Polyhedron
from gatewise.domains.simplex import Simplex

__all__ = ["Box", "Domain", "Intersection", "L1Ball", "L2Ball", "LinfBall", "Polyhedron", "Simplex"]
