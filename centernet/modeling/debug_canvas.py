"""Drawing for :mod:`centernet.modeling.debug`: pictures, boxes, cells, heat, and where a picture goes.

A canvas is uint8 ``[H, W, 3]``, BGR. OpenCV is imported by the first drawing, never with this module.
"""

import colorsys
import functools
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from torch import Tensor

SAVE_FOLDER = Path("output/save_debug")  # relative to the working directory
_WHITE = (255, 255, 255)

logger = logging.getLogger(__name__)


def to_array(tensor: Tensor) -> np.ndarray:
    """float32 without NaN and infinity: they would make the conversion to whole pixels fail."""
    return np.nan_to_num(tensor.detach().float().cpu().numpy())


def new_canvas(image: Tensor) -> np.ndarray:
    """uint8 ``[H, W, 3]``, BGR, to draw upon."""
    return np.ascontiguousarray(to_array(image).clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))


def class_color(label: int) -> tuple[int, int, int]:
    """BGR of a class: hues a golden section apart are spread evenly, however many classes there are."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 1.0)
    return int(255 * blue), int(255 * green), int(255 * red)


def overlay(image: Tensor, heat: np.ndarray, stride: int) -> np.ndarray:
    """The picture with colours where ``heat`` (``[H_l, W_l]`` in [0, 1]) is; it stays itself where there is none."""
    import cv2

    canvas = new_canvas(image)
    height, width = canvas.shape[:2]
    size = (heat.shape[1] * stride, heat.shape[0] * stride)
    # a map covers the padding of the batch too; of somebody's backbone, maybe not the last rows of the picture
    seen = cv2.resize(heat.clip(0, 1), size, interpolation=cv2.INTER_NEAREST)[:height, :width]
    strength = np.zeros((height, width), dtype=np.float32)
    strength[: seen.shape[0], : seen.shape[1]] = np.sqrt(seen)  # scores are roots too; faint maps stay visible
    colors = cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_JET)
    weight = 0.7 * strength[..., None]
    return (canvas * (1 - weight) + colors * weight).astype(np.uint8)


def draw_cells(canvas: np.ndarray, centers: np.ndarray, stride: int) -> None:
    """Outline the cells whose pixel positions ``(x, y)`` are the rows of ``centers``."""
    import cv2

    for x, y in centers.astype(int).tolist():
        corner = (x - stride // 2, y - stride // 2)
        cv2.rectangle(canvas, corner, (corner[0] + stride - 1, corner[1] + stride - 1), _WHITE, 1)


def draw_dots(canvas: np.ndarray, centers: np.ndarray, labels: np.ndarray) -> None:
    """A dot in the colour of its class at each pixel position ``(x, y)``."""
    import cv2

    for (x, y), label in zip(centers.astype(int).tolist(), labels.tolist(), strict=True):
        cv2.circle(canvas, (x, y), 4, _WHITE, -1)
        cv2.circle(canvas, (x, y), 3, class_color(label), -1)


def draw_box(canvas: np.ndarray, box: np.ndarray, color: tuple[int, int, int], text: str = "") -> None:
    """``box`` is xyxy in pixels and may reach outside."""
    import cv2

    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = box.clip(-2, [width, height, width, height]).round().astype(int).tolist()
    cv2.rectangle(canvas, (x1, y1), (x2, y2), color, 2)
    if text:
        font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.4
        (text_width, text_height), _ = cv2.getTextSize(text, font, scale, 1)
        left = max(0, min(x1, width - text_width))
        bottom = max(y1, text_height + 3)
        cv2.rectangle(canvas, (left, bottom - text_height - 3), (left + text_width, bottom), color, -1)
        cv2.putText(canvas, text, (left, bottom - 2), font, scale, (0, 0, 0), 1, cv2.LINE_AA)


@functools.cache
def _has_display() -> bool:
    """Asks a process of its own: without a display, OpenCV's Qt does not fail but aborts whoever calls it."""
    is_named = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if is_named or sys.platform in ("win32", "darwin"):
        probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('centernet')"]
        try:
            if subprocess.run(probe, capture_output=True, timeout=60).returncode == 0:
                return True
        except subprocess.TimeoutExpired:
            pass
    logger.info("DEBUG: no display for windows, pictures are saved in %s", SAVE_FOLDER.resolve())
    return False


def emit(canvas: np.ndarray, title: str, save: bool) -> None:
    """Show the picture in the window ``title``, without waiting, or save it as ``<number>_<title>.jpg``."""
    import cv2

    if not save and _has_display():
        cv2.imshow(title, canvas)
        cv2.waitKey(1)
        return
    encoded = cv2.imencode(".jpg", canvas)[1]
    SAVE_FOLDER.mkdir(parents=True, exist_ok=True)
    numbers = (re.match(r"\d+", path.name) for path in SAVE_FOLDER.glob("*.jpg"))
    number = 1 + max((int(n.group()) for n in numbers if n), default=0)
    while True:
        try:
            with open(SAVE_FOLDER / f"{number:06d}_{title}.jpg", "xb") as file:
                file.write(encoded.tobytes())
            return
        except FileExistsError:  # another process of the same training was faster
            number += 1
