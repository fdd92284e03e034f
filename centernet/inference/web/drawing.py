"""Boxes and names on a picture, quickly enough to follow a slider; legible also when the picture is shown small."""

import colorsys
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .findings import Findings

__all__ = ["class_color", "draw_findings"]

_SHOWN_SIDE = 960  # small pictures are enlarged to this before anything is drawn: letters stay sharp
_GOLDEN = 0.618033988749895  # steps of the hue: neighbouring classes get distant colours


def class_color(number: int) -> tuple[int, int, int]:
    """RGB of a class, the same everywhere on the page."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + number * _GOLDEN) % 1.0, 0.78, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_findings(
    image_rgb: np.ndarray,
    findings: Findings,
    class_names: list[str],
    original_width: int,
    stages: bool,
) -> np.ndarray:
    """Draw boxes with class and score, the best one last, so that it is on top.

    Args:
        image_rgb: uint8 ``[H, W, 3]``, the picture in any size.
        findings: boxes in pixels of the original picture.
        original_width: of the original picture, pixels.
        stages: write P(object) and P(class | object) beside the score, where the model gives them.

    Returns:
        uint8 ``[H', W', 3]`` RGB, at least 960 pixels on its longer side.
    """
    picture = Image.fromarray(image_rgb)
    enlarge = max(1.0, _SHOWN_SIDE / max(picture.size))
    if enlarge > 1:
        picture = picture.resize(
            (round(picture.width * enlarge), round(picture.height * enlarge)), Image.Resampling.BICUBIC
        )
    pen = ImageDraw.Draw(picture)
    unit = max(picture.size)
    font, line = _font(round(unit / 38)), max(2, round(unit / 320))
    boxes = findings.boxes * (picture.width / original_width)
    for row in reversed(range(len(findings))):
        color = class_color(int(findings.classes[row]))
        x1, y1, x2, y2 = (float(value) for value in boxes[row])
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=line)
        _write(pen, (x1, y1), _label(findings, row, class_names, stages), font, color, picture.size)
    return np.asarray(picture)


def _label(findings: Findings, row: int, class_names: list[str], stages: bool) -> str:
    label = f"{class_names[findings.classes[row]]} {findings.scores[row]:.2f}"
    parts = [values[row] for values in (findings.objectness, findings.class_probability) if values is not None]
    if stages and parts:
        label += " (" + " \N{MIDDLE DOT} ".join(f"{part:.2f}" for part in parts) + ")"
    return label


def _write(
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    color: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """A label above the box's corner, moved inside the picture where it would stick out."""
    pad = max(2, font.size // 5)  # type: ignore[operator]
    width, height = pen.textlength(text, font=font) + 2 * pad, sum(font.getmetrics()) + pad
    left = min(max(0.0, corner[0]), max(0.0, size[0] - width))
    top = corner[1] - height if corner[1] >= height else max(0.0, corner[1])
    pen.rectangle((left, top, left + width, top + height), fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    pen.text((left + pad, top + pad // 2), text, font=font, fill=(15, 15, 20) if bright else (255, 255, 255))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    # DejaVu has the letters of most languages; Pillow's own font has Latin ones only
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf"), size)
