"""Common corruptions of images, after Hendrycks and Dietterich (arXiv 1903.12261): those that merging papers use.

A corruption is a function of one image [H, W, 3] with values from 0 to 1, a strength and a generator. Strengths are the
published ones, severity 1 to 5: of CIFAR-10-C for images below 64 pixels, of ImageNet-C for larger ones. Definitions
are those of the authors' code, on SciPy, scikit-image and Pillow; two differ in detail. Motion blur moves by whole
pixels and repeats the border, as the package imagecorruptions does. The edges of water drops are scikit-image's, not
OpenCV's. No existing package is used: those with all seven corruptions refuse images below 32 pixels and draw from
NumPy's global generator.
"""

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import scipy
import skimage
from PIL import Image

CorruptionName = Literal["motion_blur", "impulse_noise", "gaussian_noise", "pixelate", "spatter", "contrast", "jpeg"]
Severity = Literal[1, 2, 3, 4, 5]
SMALL = 64
"""Images with a shorter side below this have CIFAR-10-C's strengths."""
TURQUOISE = np.array([175, 238, 238]) / 255
BROWN = np.array([63, 42, 20]) / 255
EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


def corrupt(images: Iterable[np.ndarray], name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Apply the corruption `name` to uint8 images [N, H, W, 3], drawing from `rng` image by image."""
    corruption = CORRUPTIONS[name]
    corrupted = []
    for image in images:
        strengths = corruption.small if min(image.shape[:2]) < SMALL else corruption.large
        changed = corruption.function(image / 255, strengths[severity - 1], rng)
        corrupted.append(np.rint(255 * changed.clip(0, 1)).astype(np.uint8))
    return np.stack(corrupted)


def motion_blur(image: np.ndarray, strength: tuple[int, float], rng: np.random.Generator) -> np.ndarray:
    """Blur along a line at an angle drawn from -45 to 45 degrees; strength: radius in pixels, sigma."""
    return blur_along(image, *strength, float(rng.uniform(-45, 45)))


def blur_along(image: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Average over the pixels 0 to 2 `radius` away at `angle` degrees, with the weights of half a Gaussian."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    direction = np.array([[np.sin(np.deg2rad(angle))], [np.cos(np.deg2rad(angle))]])
    rows, columns = np.ceil(steps * direction - 0.5).astype(int) + 2 * radius
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1, 1))
    np.add.at(kernel, (rows, columns, 0), weights / weights.sum())
    return scipy.ndimage.correlate(image, kernel, mode="nearest")


def gaussian_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Add independent noise to every value; strength: its standard deviation."""
    return skimage.util.random_noise(image, "gaussian", rng=rng, var=strength**2)


def impulse_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Add salt and pepper noise; strength: the share of values that become 0 or 1."""
    return skimage.util.random_noise(image, "s&p", rng=rng, amount=strength)


def pixelate(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Replace pixels by fewer, larger ones; strength: the share of a side that is left."""
    height, width = image.shape[:2]
    smaller = _picture(image).resize((int(width * strength), int(height * strength)), Image.Resampling.BOX)
    return np.asarray(smaller.resize((width, height), Image.Resampling.BOX)) / 255


def spatter(image: np.ndarray, strength: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Add drops of water or, if the last entry of `strength` is 1, of mud.

    strength: mean and standard deviation of noise, its blur, the level above which it is liquid, opacity of water or
    blur of mud, kind (0 water, 1 mud).
    """
    mean, deviation, smoothness, level, look, muddy = strength
    liquid = scipy.ndimage.gaussian_filter(rng.normal(mean, deviation, image.shape[:2]), smoothness, mode="nearest")
    if muddy:
        cover = scipy.ndimage.gaussian_filter((liquid > level).astype(float), look, mode="nearest")[..., None]
        return np.where(cover < 0.8, image, (1 - cover) * image + cover * BROWN)
    return image + look * _drops(np.where(liquid < level, 0, liquid))[..., None] * TURQUOISE


def _drops(liquid: np.ndarray) -> np.ndarray:
    """Return the brightness [H, W] of drops of water, at most 1: embossed by the distance from their edges."""
    if not liquid.any():
        return liquid
    edges = skimage.feature.canny(255 * liquid, sigma=0, low_threshold=50, high_threshold=150)
    distance = (
        cast(np.ndarray, scipy.ndimage.distance_transform_edt(~edges)) if edges.any() else np.full(liquid.shape, np.inf)
    )
    height = skimage.exposure.equalize_hist(
        np.floor(scipy.ndimage.uniform_filter(distance.clip(max=20), 3, mode="mirror"))
    )
    relief = scipy.ndimage.correlate(255 * height, EMBOSS, mode="mirror").clip(0, 255)
    drops = liquid * scipy.ndimage.uniform_filter(relief, 3, mode="mirror")
    return drops / drops.max() if drops.any() else drops


def reduce_contrast(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Move every pixel towards the image's mean colour; strength: the share of the distance that is left."""
    mean = image.mean(axis=(0, 1))
    return mean + strength * (image - mean)


def jpeg(image: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Compress; strength: JPEG quality."""
    buffer = BytesIO()
    _picture(image).save(buffer, "JPEG", quality=strength)
    return np.asarray(Image.open(buffer)) / 255


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(255 * image).astype(np.uint8))


class Corruption(NamedTuple):
    """A corruption and its strengths by severity."""

    function: Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]
    small: tuple[Any, ...]
    """Those of CIFAR-10-C, for images below SMALL."""
    large: tuple[Any, ...]
    """Those of ImageNet-C."""


CORRUPTIONS = {
    "motion_blur": Corruption(
        motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "impulse_noise": Corruption(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian_noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "pixelate": Corruption(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "spatter": Corruption(
        spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    ),
    "contrast": Corruption(reduce_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "jpeg": Corruption(jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
"""By name, in the order of figures and tables; the names are those of CorruptionName."""
