"""Corruptions against the published definitions."""

import colorsys
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cifar_lightning.data.sources.drawings import draw_images
from cifar_lightning.transforms.corruptions import CORRUPTIONS, SEVERITIES, corrupt

IMAGES = draw_images(40, 0)[0].numpy()


def distance(corrupted: NDArray[np.uint8], images: NDArray[np.uint8] = IMAGES) -> float:
    return float(np.abs(corrupted.astype(float) - images).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severer_corruptions_differ_more(name: str) -> None:
    before = IMAGES.copy()
    corrupted = [corrupt(IMAGES, name, severity) for severity in SEVERITIES]
    assert all(c.shape == IMAGES.shape and c.dtype == np.uint8 for c in corrupted)
    distances = [distance(c) for c in corrupted]
    assert distances == sorted(distances)
    assert distances[-1] > 1.5
    assert np.array_equal(IMAGES, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_are_repeatable(name: str) -> None:
    assert np.array_equal(corrupt(IMAGES, name, 3), corrupt(IMAGES, name, 3))
    assert corrupt(IMAGES[:0], name, 3).shape == (0, 32, 32, 3)
    assert corrupt(IMAGES[:1, :20, :24], name, 5).shape == (1, 20, 24, 3)


def test_noise_has_the_published_deviation_and_depends_on_the_seed() -> None:
    grey = np.full((200, 32, 32, 3), 128, np.uint8)
    for severity, deviation in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        noisy = corrupt(grey, "gaussian_noise", severity).astype(float)
        assert noisy.std() == pytest.approx(255 * deviation, rel=0.01)
        assert noisy.mean() == pytest.approx(128, abs=0.7)
    assert not np.array_equal(corrupt(grey, "gaussian_noise", 1), corrupt(grey, "gaussian_noise", 1, seed=1))
    assert not np.array_equal(noisy[0], noisy[1])


@pytest.mark.parametrize(("severity", "amount"), [*enumerate((0.05, 0.1, 0.15, 0.2, 0.3), 1)])
def test_brightness_is_v_of_hsv(severity: int, amount: float) -> None:
    image = IMAGES[:1].copy()
    image[0, 0, 0] = 0
    expected = np.empty((32, 32, 3))
    for place in np.ndindex(32, 32):
        h, s, v = colorsys.rgb_to_hsv(*(image[0][place] / 255))
        expected[place] = colorsys.hsv_to_rgb(h, s, min(v + amount, 1))
    assert np.abs(corrupt(image, "brightness", severity)[0] - np.floor(255 * expected)).max() <= 1


@pytest.mark.parametrize(("severity", "share"), [*enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1)])
def test_contrast_moves_pixels_towards_the_mean_of_their_channel(severity: int, share: float) -> None:
    mean = IMAGES.mean((1, 2), keepdims=True)
    expected = np.floor(share * IMAGES + (1 - share) * mean)
    assert np.abs(corrupt(IMAGES, "contrast", severity) - expected).max() <= 1


def test_blur_spreads_a_point_over_the_published_disk() -> None:
    point = np.zeros((1, 32, 32, 3), np.uint8)
    point[0, 16, 16] = 255
    # Radius 1 is a cross of five pixels; the Gaussian of 0.2 adds almost nothing to its corners.
    spread = corrupt(point, "defocus_blur", 4)[0, 14:19, 14:19, 0]
    expected = np.array([[0] * 5, [0, 0, 51, 0, 0], [0, 51, 51, 51, 0], [0, 0, 51, 0, 0], [0] * 5])
    assert np.abs(spread - expected).max() <= 1
    assert np.abs(corrupt(point, "defocus_blur", 5)[0, 15:18, 15:18, 0] - 255 / 9).max() <= 1
    # Radius 0.3 is a single pixel, softened by a Gaussian of 0.4 in a window of 3 × 3.
    line = np.exp(-np.array([1, 0, 1]) / (2 * 0.4**2))
    expected = np.floor(255 * np.outer(line, line) / line.sum() ** 2)
    assert np.abs(corrupt(point, "defocus_blur", 1)[0, 15:18, 15:18, 0] - expected).max() <= 1


def test_blur_grows_with_the_image() -> None:
    edge = np.zeros((1, 224, 224, 3), np.uint8)
    edge[:, :, 112:] = 255
    blurred = corrupt(edge, "defocus_blur", 5)[0, 100, :, 0]
    between = np.flatnonzero((blurred > 2) & (blurred < 250))
    assert between.min() == pytest.approx(112 - 10.5, abs=1.5)  # 1.5 pixels · 224 / 32
    assert between.max() == pytest.approx(111 + 10.5, abs=1.5)


def test_jpeg_and_pixelate_are_those_of_pil() -> None:
    for severity, quality, side in zip(SEVERITIES, (80, 65, 58, 50, 40), (30, 28, 27, 24, 20), strict=True):
        image = Image.fromarray(IMAGES[0])
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        assert np.array_equal(corrupt(IMAGES[:1], "jpeg_compression", severity)[0], np.asarray(Image.open(file)))
        box = Image.Resampling.BOX
        coarse = np.asarray(image.resize((side, side), box).resize((32, 32), box))
        assert np.array_equal(corrupt(IMAGES[:1], "pixelate", severity)[0], coarse)
