"""A contact sheet: pictures of a data set with their boxes, chosen so that every class is seen."""

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .readers import Record

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

__all__ = ["choose_records", "class_colour", "contact_sheet"]

_CELL = (360, 270)  # pixels
_COLUMNS = 4
_MARGIN = 6
_CAPTION, _FONT = 20, 13


def choose_records(records: Sequence[Record], classes: int, count: int) -> list[Record]:
    """``count`` records: for each class, rarest first, the image with most boxes of it; then spread over the rest."""
    totals = np.zeros(classes, np.int64)
    by_class: dict[int, dict[int, int]] = {}  # class -> index of the record -> boxes
    for index, record in enumerate(records):
        for entry in record["annotations"]:
            totals[entry["category_id"]] += 1
            counts = by_class.setdefault(entry["category_id"], {})
            counts[index] = counts.get(index, 0) + 1
    chosen: list[int] = []
    for category in np.argsort(totals, kind="stable").tolist():
        counts = {index: k for index, k in by_class.get(category, {}).items() if index not in chosen}
        if counts and len(chosen) < count:
            chosen.append(max(counts, key=lambda index: (counts[index], -index)))
    rest = [index for index in range(len(records)) if index not in set(chosen)]
    step = max(1, len(rest) // max(1, count - len(chosen)))
    chosen += rest[::step][: count - len(chosen)]
    return [records[index] for index in chosen]


def class_colour(category: int) -> tuple[int, int, int]:
    """An RGB colour of its own for each class: hues a golden ratio apart."""
    red, green, blue = colorsys.hsv_to_rgb(category * 0.618034 % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def contact_sheet(records: Sequence[Record], classes: Sequence[str], *, count: int = 16) -> "Picture":
    """An RGB picture of up to ``count`` images in rows of four, each box with its class; crowds are dashed."""
    from PIL import Image

    chosen = choose_records(records, len(classes), count)
    rows = max(1, -(-len(chosen) // _COLUMNS))
    width, height = _CELL[0] + _MARGIN, _CELL[1] + _MARGIN + _CAPTION
    sheet = Image.new("RGB", (_COLUMNS * width + _MARGIN, rows * height + _MARGIN), (32, 32, 36))
    for number, record in enumerate(chosen):
        row, column = divmod(number, _COLUMNS)
        sheet.paste(_cell(record, classes), (_MARGIN + column * width, _MARGIN + row * height))
    return sheet


def _cell(record: Record, classes: Sequence[str]) -> "Picture":
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    cell = Image.new("RGB", (_CELL[0], _CELL[1] + _CAPTION), (32, 32, 36))
    draw = ImageDraw.Draw(cell)
    draw.font = ImageFont.load_default(_FONT)
    draw.text((2, _CELL[1] + 3), _shortened(record["name"], 44), fill=(220, 220, 220))
    try:
        with Image.open(record["file_name"]) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # Pillow's plugins raise whatever their format suggests
        draw.text((8, 8), _shortened(str(error), 44), fill=(255, 96, 96))
        return cell
    scale = min(_CELL[0] / image.width, _CELL[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left, top = (_CELL[0] - size[0]) // 2, (_CELL[1] - size[1]) // 2
    cell.paste(image.resize(size), (left, top))
    boxes = []
    for entry in record["annotations"]:
        x0, y0, x1, y1 = (number * scale for number in entry["bbox"])
        boxes.append((left + x0, top + y0, left + max(x0, x1 - 1), top + max(y0, y1 - 1)))
        _draw_box(draw, boxes[-1], class_colour(entry["category_id"]), bool(entry["iscrowd"]))
    for box, entry in zip(boxes, record["annotations"], strict=True):  # no label is crossed out
        _draw_label(draw, box[:2], classes[entry["category_id"]])
    return cell


def _draw_box(
    draw: "ImageDraw", box: tuple[float, float, float, float], colour: tuple[int, int, int], crowd: bool
) -> None:
    x0, y0, x1, y1 = box
    if crowd:
        for start in np.arange(x0, x1, 8).tolist():
            draw.line([(start, y0), (min(start + 4, x1), y0)], fill=colour)
            draw.line([(start, y1), (min(start + 4, x1), y1)], fill=colour)
        for start in np.arange(y0, y1, 8).tolist():
            draw.line([(x0, start), (x0, min(start + 4, y1))], fill=colour)
            draw.line([(x1, start), (x1, min(start + 4, y1))], fill=colour)
    else:
        draw.rectangle(box, outline=colour, width=2)


def _draw_label(draw: "ImageDraw", corner: tuple[float, float], label: str) -> None:
    """Above the box's upper left corner; inside the picture."""
    text = _shortened(label, 18)
    width = draw.textlength(text) + 3
    x, y = max(0.0, min(corner[0], _CELL[0] - width)), max(0.0, corner[1] - _FONT - 1)
    draw.rectangle((x, y, x + width, y + _FONT + 1), fill=(0, 0, 0))
    draw.text((x + 2, y), text, fill=(255, 255, 255))


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else "..." + text[3 - length :]
