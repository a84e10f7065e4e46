"""Streams and row geometry: what every floor relies on."""

import pytest
import torch

from gatewise.geometry import per_row, row_norm, unit_rows
from gatewise.streams import RowStreams

LIKE = torch.zeros(3, 2, 5)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_row_draws_from_a_stream_of_its_own(kind):
    together = getattr(RowStreams(4, [7, 2, 9]), kind)(LIKE)
    assert not torch.equal(together[0], together[1])
    for position, row in enumerate([7, 2, 9]):
        alone = getattr(RowStreams(4, [row]), kind)(LIKE[:1])
        assert torch.equal(alone[0], together[position])
    assert not torch.equal(getattr(RowStreams(5, [7, 2, 9]), kind)(LIKE), together)


def test_rows_that_do_not_draw_do_not_move():
    streams, other = RowStreams(0, range(3)), RowStreams(0, range(3))
    skipped = streams.normal(LIKE, only=torch.tensor([True, False, True]))
    first, second = other.normal(LIKE), other.normal(LIKE)
    assert not skipped[1].any()
    assert torch.equal(skipped[0], first[0])
    following = streams.normal(LIKE)
    assert torch.equal(following[1], first[1])
    assert torch.equal(following[0], second[0])


def test_draws_come_in_the_dtype_asked_for_and_have_the_right_law():
    streams = RowStreams(0, range(2))
    normal = streams.normal(torch.zeros(2, 40_000, dtype=torch.float64))
    uniform = streams.uniform(torch.zeros(2, 40_000))
    assert normal.dtype is torch.float64
    assert uniform.dtype is torch.float32
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert 0 <= uniform.min() < 0.001
    assert 0.999 < uniform.max() < 1
    assert abs((normal[0] * normal[1]).mean()) < 0.02, "rows are not correlated"


@pytest.mark.parametrize("p", [1, 2, torch.inf])
def test_row_norms_are_per_row(p):
    x = torch.randn(4, 3, 2)
    torch.testing.assert_close(row_norm(x, p), torch.stack([row.flatten().norm(p) for row in x]))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_unit_rows_have_norm_one_at_any_scale_and_zero_stays_zero(scale):
    x = scale * torch.randn(3, 2, 5)
    x[1] = 0
    unit = unit_rows(x)
    torch.testing.assert_close(row_norm(unit), torch.tensor([1.0, 0.0, 1.0]))


def test_per_row_broadcasts_over_the_rest():
    assert per_row(torch.tensor([1.0, 2.0, 3.0]), LIKE).shape == (3, 1, 1)
