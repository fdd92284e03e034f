"""Tracked 3D boxes drawn on their picture."""

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.records import Record
from ..evaluation.records import TrackedFrame
from ..ops.geometry import alpha_to_yaw, box_corners, unproject
from ..ops.mode import Mode

__all__ = ["Colour", "SeenBoxes", "draw_boxes", "id_colour", "seen_boxes", "write_label"]

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
_FRONT = (0, 1, 5, 4)
_NEAR = 0.1  # metres; what is nearer to the camera's plane is cut off
_FAR_PIXELS = 16_000  # OpenCV draws with 16 bits before the binary point
_GOLDEN = 0.6180339887
_FRONT_OPACITY = 0.35
_DARK = 125  # brightness below which a plate has white letters


class SeenBoxes(NamedTuple):
    """Tracks of a picture for drawing.

    Attributes:
        corners: float64 ``[T, 8, 3]``, camera frame, order of :func:`..ops.geometry.box_corners`.
        xyz: float64 ``[T, 3]``, centres, camera frame, metres.
        ids, labels: int64 ``[T]``.
        scores: float64 ``[T]``.
    """

    corners: NDArray[np.float64]
    xyz: NDArray[np.float64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]


def seen_boxes(record: Record, frame: TrackedFrame, mode: Mode) -> SeenBoxes:
    """The boxes of ``frame`` in the camera frame; where it has no ``xyz`` and ``yaw``, from ``center2d``, ``depth`` and
    ``alpha``."""
    intrinsics = torch.as_tensor(record["intrinsics"], dtype=torch.float64).cpu()
    centre, depth, dims, alpha = (
        value.detach().double().cpu() for value in (frame.center2d, frame.depth, frame.dims, frame.alpha)
    )
    xyz = unproject(centre, depth, intrinsics, mode=mode) if frame.xyz is None else frame.xyz.detach().double().cpu()
    yaw = alpha_to_yaw(alpha, xyz) if frame.yaw is None else frame.yaw.detach().double().cpu()
    return SeenBoxes(
        box_corners(xyz, yaw, dims).numpy(),
        xyz.numpy(),
        frame.ids.cpu().numpy(),
        frame.labels.cpu().numpy(),
        frame.scores.detach().double().cpu().numpy(),
    )


def id_colour(number: int) -> Colour:
    """Bright RGB that is far from those of the next ids."""
    hue, step = (number * _GOLDEN) % 1.0, number % 3
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.65, 0.85, 0.5)[step], (1.0, 0.95, 1.0)[step])
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: Picture, boxes: SeenBoxes, intrinsics: NDArray[np.float64], names: Sequence[str], thickness: int = 1
) -> None:
    """Wireframes on ``image``, in place, the farthest first: the front face is filled, each has its class and id.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        boxes: of it.
        intrinsics: float64 ``[3, 4]`` for the pixels of ``image``.
        names: by label.
        thickness: of the lines, pixels.
    """
    order = np.argsort(-boxes.xyz[:, 2], kind="stable")
    taken: list[tuple[int, int, int, int]] = []  # boxes of the labels that are there
    for row in order:
        _draw_wireframe(image, boxes.corners[row], intrinsics, id_colour(int(boxes.ids[row])), thickness)
    for row in order[::-1]:  # the nearest has the first choice
        seen = _clipped(boxes.corners[row], _EDGES)
        if not len(seen):
            continue
        uv = _projected(seen.reshape(-1, 3), intrinsics)
        label = int(boxes.labels[row])
        text = f"{names[label] if label < len(names) else label} {boxes.ids[row]}"
        place = int(uv[:, 0].min().clip(0, image.shape[1])), int(uv[:, 1].min().clip(0, image.shape[0]))
        write_label(image, text, place, id_colour(int(boxes.ids[row])), taken)


def _draw_wireframe(
    image: Picture, corners: NDArray[np.float64], intrinsics: NDArray[np.float64], colour: Colour, thickness: int
) -> None:
    import cv2

    front = _cut_polygon(corners[list(_FRONT)])
    if len(front) >= 3:
        outline = _fixed(_projected(front, intrinsics), 0)
        x, y, w, h = cv2.boundingRect(outline)
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, image.shape[1]), min(y + h, image.shape[0])
        if x2 > x1 and y2 > y1:
            part = image[y1:y2, x1:x2]
            filled = part.copy()
            cv2.fillPoly(filled, [outline - np.array([x1, y1], np.int32)], colour, cv2.LINE_AA)
            part[:] = cv2.addWeighted(filled, _FRONT_OPACITY, part, 1 - _FRONT_OPACITY, 0)
    for ends in _clipped(corners, _EDGES):
        first, second = _fixed(_projected(ends, intrinsics), 4).tolist()
        cv2.line(image, first, second, colour, thickness, cv2.LINE_AA, 4)


def _clipped(corners: NDArray[np.float64], edges: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Parts of the edges before the near plane, ``[E, 2, 3]``."""
    ends = corners[np.array(edges)]
    ends = ends[(ends[..., 2] > _NEAR).any(1)]
    depth = ends[..., 2]
    crosses = (depth < _NEAR).any(1)
    share = np.where(crosses, _NEAR - depth[:, 0], 0.0) / np.where(crosses, depth[:, 1] - depth[:, 0], 1.0)
    cut = ends[:, 0] + share[:, None] * (ends[:, 1] - ends[:, 0])
    return np.where((depth < _NEAR)[..., None], cut[:, None], ends)


def _cut_polygon(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of a polygon before the near plane, ``[K, 3]``."""
    kept = []
    for first, second in zip(corners, np.roll(corners, -1, 0), strict=True):
        if first[2] >= _NEAR:
            kept.append(first)
        if (first[2] >= _NEAR) != (second[2] >= _NEAR):
            kept.append(first + (_NEAR - first[2]) / (second[2] - first[2]) * (second - first))
    return np.array(kept).reshape(-1, 3)


def _projected(points: NDArray[np.float64], intrinsics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels ``[K, 2]`` of points before the camera."""
    seen = points @ intrinsics[:, :3].T + intrinsics[:, 3]
    return np.asarray(seen[:, :2] / seen[:, 2:].clip(1e-6), np.float64)


def _fixed(uv: NDArray[np.float64], bits: int) -> NDArray[np.int32]:
    """Fixed-point numbers for OpenCV; a pixel's middle is its index there, half a pixel more here."""
    return ((uv - 0.5).clip(-_FAR_PIXELS, _FAR_PIXELS) * 2**bits).round().astype(np.int32)


def write_label(
    image: Picture,
    text: str,
    place: tuple[int, int],
    colour: Colour,
    taken: list[tuple[int, int, int, int]],
    scale: float = 0.45,
) -> None:
    """Text on a plate, in place, where it is in the picture and no other plate is.

    Args:
        image: uint8 RGB.
        text: plain ASCII is all that the font has.
        place: x, y of the lower left corner that is wanted, pixels.
        colour: of the plate.
        taken: x1, y1, x2, y2 of plates so far; this one is added. A plate that finds no place is left out.
        scale: of OpenCV's font.
    """
    import cv2

    font: Any = cv2.FONT_HERSHEY_SIMPLEX
    (width, height), below = cv2.getTextSize(text, font, scale, 1)
    width, height = width + 4, height + below + 2
    x = max(0, min(place[0], image.shape[1] - width))
    for up in range(4):
        y = max(0, min(place[1] - height * (1 + up), image.shape[0] - height))
        plate = x, y, x + width, y + height
        if not any(_overlap(plate, other) for other in taken):
            break
    else:
        return
    taken.append(plate)
    cv2.rectangle(image, plate[:2], (plate[2] - 1, plate[3] - 1), colour, -1)
    dark = colour[0] * 0.3 + colour[1] * 0.59 + colour[2] * 0.11 < _DARK
    ink = (255, 255, 255) if dark else (0, 0, 0)
    cv2.putText(image, text, (x + 2, y + height - below), font, scale, ink, 1, cv2.LINE_AA)


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
