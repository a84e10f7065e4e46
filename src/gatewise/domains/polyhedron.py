"""The polyhedron (being written)."""

from gatewise.domains.base import Domain


class Polyhedron(Domain):
    """The polyhedron (being written)."""
