"""Measurements: linear, of the shape they say, the same for a row alone; and how near images are to others."""

from __future__ import annotations

import math

import pytest
import torch

from gatewise.errors import InvalidInput
from gatewise.image_quality import peak_signal_to_noise, structural_similarity
from gatewise.measurements import (
    Blur,
    CentreMask,
    Downsampling,
    PixelMask,
    RandomProjection,
    measurement_named,
)

DRAW = torch.Generator().manual_seed(0)
IMAGES, OTHERS = torch.rand(2, 3, 2, 12, 8, generator=DRAW, dtype=torch.float64)
EVERY = {
    "mask:box=4": (3, 2 * (12 * 8 - 16)),
    "mask:keep=0.25": (3, 2 * 24),
    "blur:sigma=1.5": (3, 2, 12, 8),
    "downsample:factor=4": (3, 2, 3, 2),
    "projection:count=17": (3, 17),
}
by_name = pytest.mark.parametrize("name", EVERY)


@by_name
def test_a_measurement_is_linear_and_measures_rows_by_themselves(name):
    measure = measurement_named(name)
    assert measure is not None
    at_both = measure(2 * IMAGES - 3 * OTHERS)
    assert at_both.shape == EVERY[name]
    assert at_both.dtype is torch.float64
    torch.testing.assert_close(at_both, 2 * measure(IMAGES) - 3 * measure(OTHERS))
    torch.testing.assert_close(measure(IMAGES[1:2]), measure(IMAGES)[1:2])
    assert measure(IMAGES.float()).dtype is torch.float32


@by_name
def test_what_was_measured_can_be_looked_at(name):
    measure = measurement_named(name)
    assert measure is not None
    assert measure.shown(measure(IMAGES), IMAGES.shape).shape == IMAGES.shape


def test_nothing_between_is_no_measurement():
    assert measurement_named("none") is None


def test_the_square_in_the_middle_is_hidden_and_nothing_else():
    shown = CentreMask(2).shown(CentreMask(2)(IMAGES), IMAGES.shape)
    hidden = torch.zeros(12, 8, dtype=torch.bool)
    hidden[5:7, 3:5] = True
    assert (shown[:, :, hidden] == 0.5).all()
    assert torch.equal(shown[:, :, ~hidden], IMAGES[:, :, ~hidden])


def test_a_share_of_the_pixels_is_kept_in_all_channels_and_drawn_by_the_seed():
    def kept(seed: int) -> torch.Tensor:
        mask = PixelMask(0.25, seed)
        return mask.shown(mask(IMAGES), IMAGES.shape) == IMAGES

    assert torch.equal(kept(1)[:, 0], kept(1)[:, 1])
    assert kept(1)[0, 0].sum() == 24
    assert not torch.equal(kept(1), kept(2))


def test_a_blur_keeps_a_flat_image_and_the_variance_of_a_point_is_its_own():
    flat = torch.full((1, 1, 9, 9), 0.3, dtype=torch.float64)
    torch.testing.assert_close(Blur(2.0)(flat), flat)
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    spread, at = Blur(2.0)(point)[0, 0].sum(0), torch.arange(41) - 20.0
    assert spread.sum() == pytest.approx(1)
    assert (spread * at**2).sum().item() == pytest.approx(4, rel=0.01)


def test_downsampling_is_the_mean_of_squares():
    torch.testing.assert_close(Downsampling(4)(IMAGES)[:, :, 1, 0], IMAGES[:, :, 4:8, :4].mean((2, 3)))


def test_a_projection_keeps_lengths_on_average_and_is_drawn_by_the_seed():
    many = torch.rand(1, 1, 40, 40, generator=DRAW, dtype=torch.float64)
    measured = RandomProjection(2000)(many)
    assert measured.square().sum().item() == pytest.approx(many.square().sum().item(), rel=0.15)
    assert torch.equal(RandomProjection(5, 1)(IMAGES), RandomProjection(5, 1)(IMAGES))
    assert not torch.equal(RandomProjection(5, 1)(IMAGES), RandomProjection(5, 2)(IMAGES))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("maks:box=4", "mask:box"),
        ("mask", "mask:box"),
        ("mask:box=four", "a whole number"),
        ("mask:box=0", "at least 1"),
        ("mask:keep=0", "above 0"),
        ("mask:keep=nan", "above 0"),
        ("blur:sigma=-1", "positive"),
        ("blur:sigma=inf", "positive"),
        ("downsample:factor=0", "at least 1"),
        ("projection:count=2.5", "a whole number"),
    ],
)
def test_a_measurement_that_cannot_be_is_refused(name, said):
    with pytest.raises(InvalidInput, match=said):
        measurement_named(name)


@pytest.mark.parametrize(("measure", "said"), [(CentreMask(8), "12 x 8"), (Downsampling(5), "12 x 8")])
def test_a_measurement_that_does_not_fit_the_images_is_refused(measure, said):
    with pytest.raises(InvalidInput, match=said):
        measure(IMAGES)


def test_the_signal_to_noise_ratio_of_a_known_error():
    assert peak_signal_to_noise(IMAGES + 0.1, IMAGES).tolist() == pytest.approx([20] * 3)
    assert peak_signal_to_noise(IMAGES, IMAGES).tolist() == [math.inf] * 3


def test_structural_similarity_of_an_image_with_itself_is_1_and_of_flat_ones_its_closed_form():
    torch.testing.assert_close(structural_similarity(IMAGES, IMAGES), torch.ones(3, dtype=torch.float64))
    flat = torch.full((1, 1, 16, 16), 0.25, dtype=torch.float64)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert structural_similarity(flat, flat + 0.5).item() == pytest.approx(expected)


def test_structural_similarity_by_its_definition_in_one_window():
    """An image as large as the window has one place: weighted means and covariances, written out."""
    x, y = torch.rand(2, 11, 11, dtype=torch.float64)
    at = torch.arange(11, dtype=torch.float64) - 5
    weights = torch.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    weights /= weights.sum()
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    variances = (weights * (x - mean_x) ** 2).sum() + (weights * (y - mean_y) ** 2).sum()
    covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
    expected = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    expected /= (mean_x**2 + mean_y**2 + 1e-4) * (variances + 9e-4)
    torch.testing.assert_close(structural_similarity(x[None, None], y[None, None])[0], expected)


def test_small_images_have_a_similarity_too():
    assert structural_similarity(IMAGES[..., :8, :8], OTHERS[..., :8, :8]).isfinite().all()
