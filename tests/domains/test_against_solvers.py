"""Projections and support functions against general solvers, in float64."""

import itertools

import daqp
import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from gatewise.domains import Intersection, L1Ball, L2Ball
from gatewise.errors import UnsupportedProblem

from .families import FAMILIES, ROWS, N, every_family, points


def members(domain):
    """The sets that an intersection is made of."""
    return [*members(domain.first), *members(domain.second)] if isinstance(domain, Intersection) else [domain]


def rows_of(part, like):
    """The half-spaces of a member as (batch, m, n) and (batch, m); an l1 ball has 2^n of them."""
    if isinstance(part, L1Ball):
        signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=N)), dtype=torch.float64)
        center = part.center.double().expand_as(like).flatten(1)
        return signs.expand(ROWS, -1, -1), center @ signs.T + part.size(like)[:, None]
    faces = part.halfspaces(like)
    return faces.dense(like), faces.offset.expand(ROWS, -1)


@every_family
def test_projection_equals_a_general_solver(family):
    domain, like = family.make(), points()
    x = points(seed=11)
    projected = domain.project(x).flatten(1).numpy()
    balls = [part for part in members(domain) if isinstance(part, L2Ball)]
    stacks = [rows_of(part, like) for part in members(domain) if not isinstance(part, L2Ball)]
    for row in range(ROWS):
        matrix = np.concatenate([np.zeros((0, N)), *(m[row].numpy() for m, _ in stacks)])
        offset = np.concatenate([np.zeros(0), *(b[row].numpy() for _, b in stacks)])
        matrix, offset = matrix[np.isfinite(offset)], offset[np.isfinite(offset)]
        target = x[row].flatten().numpy()
        if not balls:
            # Two opposite inequalities of a simplex leave no interior, for which the solver's tolerance is widened.
            found, _, flag, _ = daqp.solve(
                np.eye(N), -target, matrix, offset, np.full(len(offset), -1e30), primal_tol=1e-10
            )
            assert flag == 1
            assert np.allclose(projected[row], found, atol=1e-8)
            continue
        constraints = [{"type": "ineq", "fun": lambda z, A=matrix, b=offset: b - A @ z, "jac": lambda z, A=matrix: -A}]
        for ball in balls:
            center = ball.center.double().expand_as(like)[row].flatten().numpy()
            radius = ball.size(like)[row].item()
            constraints.append(
                {
                    "type": "ineq",
                    "fun": lambda z, c=center, r=radius: r**2 - np.sum((z - c) ** 2),
                    "jac": lambda z, c=center: -2 * (z - c),
                }
            )
        found = minimize(
            lambda z, t=target: 0.5 * np.sum((z - t) ** 2),
            projected[row] + 0.01,
            jac=lambda z, t=target: z - t,
            constraints=constraints if len(offset) else constraints[1:],
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert np.allclose(projected[row], found.x, atol=1e-5)


@pytest.mark.parametrize(
    "family",
    [family for family in FAMILIES if family.has_support and "l2" not in family.name],
    ids=lambda family: family.name.replace(" ", "-"),
)
def test_support_equals_a_linear_program(family):
    domain, like = family.make(), points()
    direction = points(seed=12) - 0.5
    support = domain.support(direction)
    stacks = [rows_of(part, like) for part in members(domain)]
    for row in range(ROWS):
        matrix = np.concatenate([m[row].numpy() for m, _ in stacks])
        offset = np.concatenate([b[row].numpy() for _, b in stacks])
        found = linprog(-direction[row].flatten().numpy(), A_ub=matrix, b_ub=offset, bounds=(None, None))
        assert found.status == 0
        assert np.isclose(support[row].item(), -found.fun, atol=1e-8)


def test_unbounded_support_is_refused():
    family = next(family for family in FAMILIES if family.name == "polyhedron and box")
    unbounded = family.make().first
    with pytest.raises(UnsupportedProblem, match="unbounded"):
        unbounded.support(-unbounded.matrix.double().sum(0).expand(ROWS, -1).reshape(ROWS, 2, 3))
