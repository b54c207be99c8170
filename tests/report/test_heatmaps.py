import base64
import io

import numpy as np
from PIL import Image

from debride.report.heatmaps import AGAINST, FOR, as_png, overlay, shrunk


def test_colours_are_centred_at_zero_and_leave_the_image_where_nothing_is_relevant():
    image = np.full((1, 5), 200, np.uint8)
    pixels = overlay(image, np.array([[-1, -0.5, 0, 0.5, 1]], np.float32)).astype(int)
    assert pixels[0, 2].tolist() == [160, 160, 160]
    for strong, half, colour in ((0, 1, AGAINST), (4, 3, FOR)):
        assert np.abs(pixels[0, strong] - colour).max() < 10
        # half the relevance lies half way between the grey and the colour
        assert np.abs(pixels[0, half] - (np.array(colour) + 160) / 2).max() < 6


def test_scale_is_the_maps_own():
    image = np.zeros((8, 8), np.uint8)
    relevance = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    assert np.array_equal(overlay(image, relevance), overlay(image, relevance * 1e-6))
    assert np.array_equal(overlay(image, np.zeros((8, 8), np.float32)), np.zeros((8, 8, 3)))


def test_png_is_the_picture_and_large_ones_are_averaged():
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    encoded = as_png(pixels).removeprefix("data:image/png;base64,")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))), pixels)
    large = np.arange(384 * 384, dtype=np.float32).reshape(384, 384)
    small = shrunk(large)
    assert small.shape == (192, 192)
    assert small[0, 0] == large[:2, :2].mean()
