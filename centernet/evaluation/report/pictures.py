"""The pictures whose errors cost most, ground truth on the left and detections on the right."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .error_kinds import HIT, KINDS, Errors
from .figures import COLOURS, YELLOW
from .matching import Case

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["WorstPicture", "draw_errors"]

_REMARKS = 12
_SIDE = 460  # pixels, the longer side of one half
_HIT_COLOUR, _OBJECT_COLOUR, _UNFOUND_COLOUR = "#FFFFFF", YELLOW, COLOURS["missed"]


class WorstPicture(NamedTuple):
    """``jpeg``: base64, None if the image cannot be read; ``remarks``: one an error."""

    name: str
    cost: float
    jpeg: str | None
    remarks: list[str]


def draw_errors(
    case: Case, errors: Errors, image: int, cost: float, threshold: float, image_root: Path
) -> WorstPicture:
    """Draw one picture.

    Args:
        image: row of ``case.images``.
        cost: its cost, points of AP50.
        threshold: detections with a smaller score are not drawn.
        image_root: the folder that ``file_name`` is relative to.
    """
    record = case.images[image]
    objects = np.flatnonzero(case.objects.images == image)
    found = np.flatnonzero((case.found.images == image) & (case.found.scores >= threshold))
    # LVIS names its files by their addresses alone
    name = str(record.get("file_name") or "/".join(str(record.get("coco_url", "")).split("/")[-2:]))
    labels = _object_labels(case, errors, image, objects, threshold)
    remarks = [_remark(case, errors, k) for k in found[errors.kinds[found] >= 0].tolist()]
    remarks += [f"not found: {text}" for text, colour in labels if colour == _UNFOUND_COLOUR]
    if len(remarks) > _REMARKS:
        remarks[_REMARKS - 1 :] = [f"and {len(remarks) - _REMARKS + 1} more"]
    jpeg = _draw(case, errors, (objects, labels), found, image_root / name)
    return WorstPicture(name, cost, jpeg, remarks)


def _remark(case: Case, errors: Errors, k: int) -> str:
    names, target = case.names, int(errors.target[k])
    kind = KINDS[errors.kinds[k]]
    text = f"{kind}: {names[case.found.classes[k]]} {case.found.scores[k]:.2f}"
    return f"{text} for {names[case.objects.classes[target]]}" if kind in ("classification", "both") else text


def _object_labels(
    case: Case, errors: Errors, image: int, objects: np.ndarray, threshold: float
) -> list[tuple[str, str]]:
    """Text and colour of each object; of those that were not found, what came nearest below the threshold."""
    names, here = case.names, np.flatnonzero(case.found.images == image)
    labels = []
    for k in objects.tolist():
        name = names[case.objects.classes[k]]
        on_it = here[errors.target[here] == k]
        hits = on_it[errors.kinds[on_it] == HIT]
        if case.objects.crowd[k]:
            labels.append((f"{name} (crowd)", _OBJECT_COLOUR))
        elif len(hits) and case.found.scores[hits[0]] >= threshold:
            labels.append((name, _OBJECT_COLOUR))
        elif len(hits):
            labels.append((f"{name}, only {case.found.scores[hits[0]]:.2f}", _UNFOUND_COLOUR))
        elif len(on_it):
            best = int(on_it[0])
            seen = f"{names[case.found.classes[best]]} {case.found.scores[best]:.2f}"
            labels.append((f"{name}, seen as {seen}", _UNFOUND_COLOUR))
        else:
            labels.append((f"{name}, missed", _UNFOUND_COLOUR))
    return labels


def _draw(
    case: Case, errors: Errors, objects: tuple[np.ndarray, list[tuple[str, str]]], found: np.ndarray, path: Path
) -> str | None:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return None
    scale = _SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    left = picture.resize(size)
    right = left.copy()
    _boxes(left, case.objects.boxes[objects[0]] * scale, objects[1])
    order = found[np.argsort(errors.kinds[found] >= 0, kind="stable")]  # errors on top
    labels = []
    for k in order.tolist():
        kind = int(errors.kinds[k])
        colour = COLOURS[KINDS[kind]] if kind >= 0 else _HIT_COLOUR if kind == HIT else "#999999"
        labels.append((f"{case.names[case.found.classes[k]]} {case.found.scores[k]:.2f}", colour))
    _boxes(right, case.found.boxes[order] * scale, labels)
    sheet = Image.new("RGB", (2 * size[0] + 6, size[1]), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (size[0] + 6, 0))
    return _jpeg(sheet)


def _boxes(picture: "Picture", boxes: np.ndarray, labels: list[tuple[str, str]]) -> None:
    """Draw all boxes, then all labels (text, colour), so that no label is crossed out."""
    from PIL import ImageDraw, ImageFont

    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    corners = [(x0, y0, max(x0, x1), max(y0, y1)) for x0, y0, x1, y1 in boxes.tolist()]
    for (x0, y0, x1, y1), (_, colour) in zip(corners, labels, strict=True):
        pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="#000000", width=1)
        pen.rectangle((x0, y0, x1, y1), outline=colour, width=2)
    for (x0, y0, _, y1), (text, colour) in zip(corners, labels, strict=True):
        text = text.encode("latin-1", "replace").decode("latin-1")  # what every font has
        width, height = pen.textlength(text, font=font) + 5, 16
        x = min(max(0.0, x0), max(0.0, picture.width - width))
        y = y0 - height if y0 >= height else min(max(0.0, y1), picture.height - height)
        pen.rectangle((x, y, x + width, y + height), fill=colour)
        pen.text((x + 2, y), text, fill=_readable_on(colour), font=font)


def _readable_on(colour: str) -> str:
    """Black or white, whichever has more contrast (WCAG 2.1, relative luminance)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def _jpeg(picture: "Picture") -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
