"""Drawing of the embedded data: handwritten digits on crops of photographs.

The digits are the 1,797 samples of the UCI "Optical Recognition of Handwritten Digits" test set that
scikit-learn ships (8x8 pixels, 17 grey levels; E. Alpaydin and C. Kaynak, CC BY 4.0). The photographs ship
inside the scikit-learn and scikit-image wheels; :data:`PHOTOS` names each one's licence. All arrays are
numpy, colours RGB, coordinates pixels with the origin top left.
"""

from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...errors import UserError

__all__ = ["PHOTOS", "Photo", "Scene", "Source", "draw_scene", "load_photo", "load_source"]

_NASA = "public domain (NASA)"
_CC0 = "CC0 1.0"


class Photo(NamedTuple):
    """A photograph inside an installed package, with its licence as that package states it."""

    name: str
    package: str
    path: str
    licence: str


PHOTOS = (
    Photo(
        "china",
        "sklearn.datasets",
        "images/china.jpg",
        "CC BY 2.0, flickr.com/photos/danielbuechele/6061409035",
    ),
    Photo(
        "flower", "sklearn.datasets", "images/flower.jpg", "CC BY 2.0, flickr.com/photos/vultilion/6056698931"
    ),
    Photo("astronaut", "skimage", "data/astronaut.png", _NASA),
    Photo("brick", "skimage", "data/brick.png", f"{_CC0}, cc0textures.com"),
    Photo("camera", "skimage", "data/camera.png", f"{_CC0}, Lav Varshney"),
    Photo("chelsea", "skimage", "data/chelsea.png", f"{_CC0}, Stefan van der Walt"),
    Photo("coffee", "skimage", "data/coffee.png", f"{_CC0}, Rachel Michetti"),
    Photo("coins", "skimage", "data/coins.png", "no known copyright restrictions, Brooklyn Museum"),
    Photo("grass", "skimage", "data/grass.png", f"{_CC0}, linolafett"),
    Photo("gravel", "skimage", "data/gravel.png", f"{_CC0}, cc0textures.com"),
    Photo("hubble_deep_field", "skimage", "data/hubble_deep_field.jpg", _NASA),
    Photo("rocket", "skimage", "data/rocket.jpg", "public domain (SpaceX)"),
)

IMAGE_SIZES = ((160, 192), (192, 160), (160, 160))  # height, width
OBJECT_SIZE = (24.0, 90.0)  # longer side of a box, pixels, evenly spread (the source digits have 8x8 pixels)
MAX_OBJECTS = 6
# Columns of each photograph, as fractions of its width: no part is in images of both splits
PHOTO_COLUMNS = {"train": (0.0, 0.7), "val": (0.72, 1.0)}
VAL_EVERY = 5  # every fifth handwriting sample of each class is kept for validation
MIN_CONTRAST = 0.3  # of luminance, digit against what it covers, in [0, 1]
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Source:
    """What scenes of one split are drawn from.

    Attributes:
        strokes: uint8 [1797, 8, 8], ink in 0..16, all samples of scikit-learn's ``load_digits``.
        samples: for each digit 0..9 the indices int [n] into ``strokes`` that the split may use.
        photos: the split's columns of each photograph, with the name and the x offset of the columns.
    """

    strokes: np.ndarray
    samples: list[np.ndarray]
    photos: list[tuple[str, int, Image.Image]]


class Scene(NamedTuple):
    """One drawn image: ``pixels`` uint8 [h, w, 3]; ``boxes`` int [n, 4] as x, y, w, h; ``labels``,
    ``samples`` int [n]."""

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    samples: np.ndarray
    photo: str
    crop: tuple[int, int, int, int]  # x, y, w, h in the whole photograph


def load_source(split: str) -> Source:
    """Load the digits and photographs of ``'train'`` or ``'val'``.

    Raises:
        UserError: scikit-learn or scikit-image is not installed or lacks a photograph.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the embedded data needs scikit-learn and scikit-image: pip install scikit-learn scikit-image"
        ) from error
    digits = load_digits()
    samples = []
    for label in range(10):
        indices = np.flatnonzero(digits.target == label)
        samples.append(indices[(np.arange(len(indices)) % VAL_EVERY == 0) == (split == "val")])
    photos = [_columns(photo, *PHOTO_COLUMNS[split]) for photo in PHOTOS]
    return Source(digits.images.astype(np.uint8), samples, photos)


def draw_scene(source: Source, rng: np.random.Generator) -> Scene:
    """Draw one image with 1 to :data:`MAX_OBJECTS` digits; the same ``rng`` state gives the same image."""
    height, width = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    name, offset, photo = source.photos[rng.integers(len(source.photos))]
    crop = _random_crop(photo.size, (width, height), rng)
    x, y, w, h = crop
    background = photo.resize((width, height), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
    canvas = np.asarray(background, np.float64) / 255
    canvas = np.clip((canvas - 0.5) * rng.uniform(0.6, 1.1) + 0.5 + rng.uniform(-0.1, 0.1), 0, 1)
    boxes: list[tuple[int, int, int, int]] = []
    chosen: list[tuple[int, int]] = []
    for _ in range(rng.integers(1, MAX_OBJECTS + 1)):
        label = int(rng.integers(10))
        sample = int(rng.choice(source.samples[label]))
        ink = _render_digit(source.strokes[sample], rng)
        box = _place(ink.shape, (height, width), boxes, rng)
        if box is None:  # no room left
            continue
        _blend(canvas, ink, box, rng)
        boxes.append(box)
        chosen.append((label, sample))
    canvas += rng.normal(0, rng.uniform(0, 0.02), canvas.shape)
    pixels = np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    labels, samples = np.array(chosen, np.int64).reshape(-1, 2).T
    return Scene(
        pixels, np.array(boxes, np.int64).reshape(-1, 4), labels, samples, name, (offset + x, y, w, h)
    )


def load_photo(photo: Photo) -> Image.Image:
    """A whole photograph, in RGB.

    Raises:
        UserError: its package is not installed or lacks it.
    """
    try:
        with (resources.files(photo.package) / photo.path).open("rb") as file:
            return Image.open(file).convert("RGB")
    except (ImportError, OSError) as error:
        raise UserError(
            f"the embedded data needs {photo.path} of {photo.package}: pip install scikit-learn scikit-image"
        ) from error


def _columns(photo: Photo, begin: float, end: float) -> tuple[str, int, Image.Image]:
    image = load_photo(photo)
    left, right = round(begin * image.width), round(end * image.width)
    return photo.name, left, image.crop((left, 0, right, image.height))


def _random_crop(
    available: tuple[int, int], wanted: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A window x, y, w, h with the aspect of ``wanted`` (w, h), 0.6 to 1.6 times as large, inside
    ``available`` (w, h)."""
    largest = min(available[0] / wanted[0], available[1] / wanted[1])
    zoom = rng.uniform(min(0.6, 0.8 * largest), min(1.6, largest))
    w, h = int(wanted[0] * zoom), int(wanted[1] * zoom)
    x, y = rng.integers(available[0] - w + 1), rng.integers(available[1] - h + 1)
    return int(x), int(y), w, h


def _render_digit(strokes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ink coverage float64 [h, w] in [0, 1] of a sample, up-scaled smoothly, turned a little."""
    grey = Image.fromarray(np.pad(strokes * 15, 2))
    smooth = grey.resize((144, 144), Image.Resampling.BICUBIC)
    turned = smooth.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    ink = np.clip((np.asarray(turned, np.float64) - 95) / 80, 0, 1)  # a soft threshold: strokes, not a blur
    rows, columns = np.nonzero(ink > 0.5)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    stretch = rng.uniform(0.85, 1.2)
    w, h = right - left, (bottom - top) * stretch
    scale = rng.uniform(*OBJECT_SIZE) / max(w, h)
    size = max(8, round(w * scale)), max(8, round(h * scale))
    patch = Image.fromarray(np.rint(ink[top:bottom, left:right] * 255).astype(np.uint8))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    return np.asarray(patch.resize(size, method), np.float64) / 255


def _place(
    size: tuple[int, ...],
    image: tuple[int, int],
    others: list[tuple[int, int, int, int]],
    rng: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """A box x, y, w, h inside the image that covers at most a quarter of any other; None if none fits."""
    h, w = size
    allowed = 0.25 if rng.random() < 0.35 else 0.02
    for _ in range(30):
        x, y = int(rng.integers(image[1] - w + 1)), int(rng.integers(image[0] - h + 1))
        if all(_covered((x, y, w, h), other) <= allowed for other in others):
            return x, y, w, h
    return None


def _covered(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over the smaller area of two x, y, w, h boxes."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0) / min(a[2] * a[3], b[2] * b[3])


def _blend(
    canvas: np.ndarray, ink: np.ndarray, box: tuple[int, int, int, int], rng: np.random.Generator
) -> None:
    """Draw the digit into ``canvas``, float64 [h, w, 3] in [0, 1], in place, in a colour that stands out."""
    x, y, w, h = box
    window = canvas[y : y + h, x : x + w]
    alpha = (ink * rng.uniform(0.85, 1))[:, :, None]
    window += alpha * (_contrasting_colour(float((window @ _LUMA).mean()), rng) - window)


def _contrasting_colour(luminance: float, rng: np.random.Generator) -> np.ndarray:
    """A random RGB colour in [0, 1] whose luminance differs from the given one by at least
    :data:`MIN_CONTRAST`."""
    darker, brighter = luminance - MIN_CONTRAST, 1 - (luminance + MIN_CONTRAST)  # room on either side
    darker, brighter = max(darker, 0.0), max(brighter, 0.0)
    room = rng.uniform(0, darker + brighter)
    target = room if room < darker else luminance + MIN_CONTRAST + (room - darker)
    colour = rng.uniform(0, 1, 3)
    own = float(colour @ _LUMA)
    return colour * target / own if own > target else 1 - (1 - colour) * (1 - target) / (1 - own)
