"""The nearest point of a linear region that a target class wins: the inner problem of rLR-QP, in float64.

On a linear region of a ReLU network the region's faces and the half-space "the target wins" are linear, so that the
point nearest to x is `x + d` with the d that solves

    minimise ||d||_p   with   row @ d <= limit for each face and for the target,   lower <= d <= upper.

p = 2: for multipliers y >= 0 of the rows A the Lagrangian is least in the box at `d = clip(-A^T y)`, so that the dual
needs no more than products with A. It is climbed by projected semismooth Newton steps over a working set of rows, to
which the rows that d violates most are added until it violates none. p = 1 and infinity: linear programs by HiGHS
(Huangfu & Hall 2018), rows added likewise. Multipliers of any quality bound the distance from below, which ends a
target early: most are too far away, and two or three rows prove it.

Sources: Croce & Hein, "A randomized gradient-free attack on ReLU networks" (GCPR 2018, arXiv:1811.11493), eq. 2-3; Qi &
Sun, "A nonsmooth version of Newton's method" (Math. Program. 1993); the projected step and its line search: Bertsekas,
"Projected Newton methods for optimization problems with simple constraints" (SIAM J. Control Optim. 1982).

Legend: A, b, y = rows, limits and multipliers of the working set; q = -A^T y, d = clip(q); g = A d - b, the slope of
the dual; H = A A^T over the coordinates that d has inside the box, the dual's generalised Hessian with its sign turned.
"""

from gatewise.region_projection.search import nearest, searching
from gatewise.region_projection.statement import Asking, Excess, Faces, Listed, Outcome, Projection, Rows

__all__ = ["Asking", "Excess", "Faces", "Listed", "Outcome", "Projection", "Rows", "nearest", "searching"]
