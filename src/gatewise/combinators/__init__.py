"""Methods made of methods: they pull a member's points and pass them on, so the driver still keeps the books."""

from gatewise.combinators.face_walk import FaceWalk
from gatewise.combinators.linear_region_search import LinearRegionSearch
from gatewise.combinators.multi_targeted import MultiTargeted
from gatewise.combinators.restarts import Restarts
from gatewise.combinators.strongest import Strongest
from gatewise.combinators.warm_start import WarmStart

__all__ = ["FaceWalk", "LinearRegionSearch", "MultiTargeted", "Restarts", "Strongest", "WarmStart"]
