"""Corruptions against closed forms, and the properties that all share."""

import numpy as np
import pytest
from scipy import ndimage

from pipeline.studies._corruptions import BROWN, CORRUPTIONS, TURQUOISE, blur_along, corrupt

GREY = np.full((28, 28, 3), 0.5)
RANDOM = ("motion_blur", "impulse_noise", "gaussian_noise", "spatter")


def rng(seed=0):
    return np.random.default_rng(seed)


def pictures(count, side):
    """Draw smooth images uint8 [count, side, side, 3]."""
    noise = ndimage.gaussian_filter(rng(7).normal(size=(count, side, side, 3)), (0, 1.5, 1.5, 0))
    return (255 * (0.5 + noise / np.abs(noise).max() / 2)).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [14, 28, 96])
def test_every_corruption_changes_images_of_any_size_and_is_reproducible(name, side):
    images = pictures(2, side)
    before = images.copy()
    for severity in (1, 3, 5):
        corrupted = corrupt(images, name, severity, rng())
        assert corrupted.shape == images.shape
        assert corrupted.dtype == np.uint8
        assert np.array_equal(corrupted, corrupt(images, name, severity, rng()))
        assert (corrupted != images).any()
    assert np.array_equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_random_corruptions_depend_on_the_generator(name):
    images = pictures(3, 28)
    same = np.array_equal(corrupt(images, name, 3, rng(0)), corrupt(images, name, 3, rng(1)))
    assert same == (name not in RANDOM)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "spatter"])
@pytest.mark.parametrize("side", [28, 112])
def test_higher_severities_are_further_from_the_image(name, side):
    images = pictures(4, side)
    changes = [np.abs(corrupt(images, name, severity, rng()) - images.astype(float)).mean() for severity in (1, 3, 5)]
    assert changes[0] < changes[1] < changes[2]


def test_small_images_have_separate_strengths():
    for side, strength in ((63, 0.15), (64, 0.05)):
        image = np.zeros((side, side, 3), np.uint8)
        image[::2] = 200
        mean = image.mean()
        corrupted = corrupt([image], "contrast", 5, rng())[0]
        assert np.abs(corrupted - (mean + strength * (image - mean))).max() <= 0.5 + 1e-9


def test_contrast_keeps_every_channels_mean():
    image = rng().random((28, 28, 3))
    corrupted = CORRUPTIONS["contrast"].function(image, 0.3, rng())
    assert np.allclose(corrupted.mean((0, 1)), image.mean((0, 1)))
    assert np.allclose(corrupted.std((0, 1)), 0.3 * image.std((0, 1)))


def test_gaussian_noise_has_the_requested_deviation():
    noise = CORRUPTIONS["gaussian_noise"].function(np.full((100, 100, 3), 0.5), 0.08, rng()) - 0.5
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    assert abs(noise.mean()) < 4 * 0.08 / 30_000**0.5


def test_impulse_noise_sets_its_share_of_numbers_to_black_or_white():
    corrupted = CORRUPTIONS["impulse_noise"].function(np.full((100, 100, 3), 0.5), 0.07, rng())
    changed = corrupted[corrupted != 0.5]
    assert set(changed) == {0.0, 1.0}
    assert changed.size / corrupted.size == pytest.approx(0.07, abs=4 * (0.07 / 30_000) ** 0.5)
    assert changed.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("angle", "step"), [(0, (0, -1)), (90, (-1, 0)), (-45, (1, -1))])
def test_motion_blur_spreads_a_point_into_half_a_gaussian(angle, step):
    radius, sigma = 3, 2.0
    image = np.zeros((21, 21, 1))
    image[10, 10] = 1
    blurred = blur_along(image, radius, sigma, angle)
    expected = np.zeros_like(image)
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    length = np.cos(np.deg2rad(45)) if angle == -45 else 1
    for index, weight in enumerate(weights / weights.sum()):
        along = round(index * length)
        expected[10 + step[0] * along, 10 + step[1] * along] += weight
    assert np.allclose(blurred, expected)


@pytest.mark.parametrize("angle", [-45, -20, 13, 45])
def test_motion_blur_keeps_uniform_images(angle):
    assert np.allclose(blur_along(GREY, 9, 2.5, angle), GREY)


def test_pixelate_by_half_gives_means_of_two_by_two():
    image = rng().integers(256, size=(70, 70, 3), dtype=np.uint8)
    corrupted = corrupt([image], "pixelate", 2, rng())[0]
    means = image.reshape(35, 2, 35, 2, 3).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    assert np.abs(corrupted - means).max() <= 1


@pytest.mark.parametrize("strength", CORRUPTIONS["spatter"].small[:3] + CORRUPTIONS["spatter"].large[:3])
def test_water_adds_turquoise_up_to_its_opacity(strength):
    side = 28 if strength in CORRUPTIONS["spatter"].small else 112
    image = np.full((side, side, 3), 0.25)
    added = (CORRUPTIONS["spatter"].function(image, strength, rng()) - image) / TURQUOISE
    assert np.allclose(added, added[..., :1])
    assert added.min() >= -1e-12
    assert added.max() == pytest.approx(strength[4])


@pytest.mark.parametrize("strength", CORRUPTIONS["spatter"].small[3:] + CORRUPTIONS["spatter"].large[3:])
def test_mud_covers_at_least_four_fifths_of_a_pixel_or_nothing(strength):
    image = np.ones((112, 112, 3))
    cover = (1 - CORRUPTIONS["spatter"].function(image, strength, rng())) / (1 - BROWN)
    assert np.allclose(cover, cover[..., :1])
    muddy = cover[cover > 1e-9]
    assert 0 < muddy.size < cover.size
    assert muddy.min() >= 0.8 - 1e-9
    assert muddy.max() <= 1 + 1e-9


def test_spatter_without_liquid_leaves_the_image_unchanged():
    assert np.array_equal(CORRUPTIONS["spatter"].function(GREY, (0.0, 0.1, 0.7, 5.0, 0.5, 0), rng()), GREY)
