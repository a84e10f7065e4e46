"""The simplex (being written)."""

from gatewise.domains.base import Domain


class Simplex(Domain):
    """The simplex (being written)."""
