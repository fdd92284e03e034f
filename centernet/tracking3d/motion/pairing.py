"""Tracks of true objects with what a detector saw of them, from two files in the published intermediate layout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UserError
from ..ops.geometry import Camera, euler_to_matrix, lift_boxes
from ..ops.mode import Mode
from ..ops.overlaps import iou_2d, iou_inclusive
from .tracks import Track

__all__ = ["read_tracks"]

PARITY_OVERLAP = 0.85
PARITY_CONFIDENCE = 0.95
"""Of a true box that stands in for a detection."""
MODERN_OVERLAP = 0.5


class _Boxes(NamedTuple):
    """All boxes of a file; N rows, float64 unless said."""

    frame: Tensor  # int64, row among the frames
    category: list[str]
    instance: list[Any]
    boxes: Tensor  # [N, 4] continuous xyxy, pixels
    centre: Tensor  # [N, 2]
    depth: Tensor
    alpha: Tensor
    dims: Tensor  # [N, 3]
    confidence: Tensor


class _File(NamedTuple):
    frames: list[tuple[int, int]]  # place of the video in the file, index of the frame
    video_names: list[str]
    size: Tensor  # [F, 2], width and height
    seconds: Tensor  # [F]
    camera: Camera  # one per frame
    boxes: _Boxes


def read_tracks(
    detections: str | Path,
    truth: str | Path,
    *,
    mode: Mode,
    frame_seconds: float,
    categories: Sequence[str] | None = None,
) -> list[Track]:
    """Pair detections with annotated objects, one track for each object and video.

    Parity, as published: an object is observed as the box that overlaps most, whatever its class and whether or not it
    belongs to another object, by an overlap of pixel counts computed on boxes divided by the size of the picture (above
    0.85, which small boxes reach without touching), at the true centre in the picture; else as it truly is, with
    confidence 0.95. Modern: pairs of one class with an IoU of 0.5 or more, best first, none twice; lifted from the
    detected centre; other objects are not seen.

    Args:
        detections: JSON of the detector on the same pictures, without tracking.
        truth: JSON of the annotations. Both have videos in the same order.
        mode: see above.
        frame_seconds: between frames ``index`` and ``index + 1``, where these have no ``timestamp`` (microseconds).
        categories: names to take, in any case of letters; all by default.

    Raises:
        UserError: a file is not there or not of this layout, or the files do not belong together.
    """
    wanted = None if categories is None else {name.lower() for name in categories}
    true = _read(Path(truth), frame_seconds, wanted)
    found = _read(Path(detections), frame_seconds, wanted)
    if len(true.video_names) != len(found.video_names) or (mode == "modern" and true.video_names != found.video_names):
        raise UserError(
            f"{detections} and {truth} have different videos ({len(found.video_names)} and {len(true.video_names)}): "
            "run the detector on the pictures of the annotation file"
        )
    if not len(true.boxes.frame):
        raise UserError(f"{truth} has no annotations of the chosen categories: check --categories")
    match = _pairs(true, found, mode)
    seen = match >= 0
    observed = _lifted(true.boxes, true, mode)
    box7 = observed.clone()
    rows, columns = seen.nonzero().squeeze(1), match[seen]
    if len(rows):
        centre = true.boxes.centre[rows] if mode == "parity" else found.boxes.centre[columns]
        seen_boxes = found.boxes._replace(
            frame=true.boxes.frame[rows],
            centre=centre,
            depth=found.boxes.depth[columns],
            alpha=found.boxes.alpha[columns],
            dims=found.boxes.dims[columns],
        )
        observed[rows] = _lifted(seen_boxes, true, mode)
    confidence = torch.full_like(true.boxes.depth, PARITY_CONFIDENCE)
    confidence[rows] = found.boxes.confidence[columns]
    if mode == "parity":
        seen = torch.ones_like(seen)
    return _by_object(true, box7, observed, confidence, seen)


def _by_object(true: _File, box7: Tensor, observed: Tensor, confidence: Tensor, seen: Tensor) -> list[Track]:
    rows_of: dict[tuple[int, Any], list[int]] = {}
    order = sorted(range(len(box7)), key=lambda row: true.frames[int(true.boxes.frame[row])])
    for row in order:
        frame = int(true.boxes.frame[row])
        rows = rows_of.setdefault((true.frames[frame][0], true.boxes.instance[row]), [])
        if not rows or int(true.boxes.frame[rows[-1]]) != frame:
            rows.append(row)
    tracks = []
    for rows in rows_of.values():
        index = torch.tensor(rows)
        frames = true.boxes.frame[index]
        tracks.append(
            Track(
                box7[index],
                observed[index],
                confidence[index],
                seen[index],
                true.seconds[frames],
                true.camera.position[frames],
            )
        )
    return tracks


def _pairs(true: _File, found: _File, mode: Mode) -> Tensor:
    """For each true box the row of its detection, or -1: int64 ``[N]``."""
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row, frame in enumerate(found.boxes.frame.tolist()):
        rows_of.setdefault(found.frames[frame], []).append(row)
    match = torch.full((len(true.boxes.frame),), -1, dtype=torch.int64)
    true_rows: dict[int, list[int]] = {}
    for row, frame in enumerate(true.boxes.frame.tolist()):
        true_rows.setdefault(frame, []).append(row)
    for frame, rows in true_rows.items():
        candidates = rows_of.get(true.frames[frame])
        if not candidates:
            continue
        index = torch.tensor(candidates)
        a, b = true.boxes.boxes[rows], found.boxes.boxes[index]
        if mode == "parity":
            overlap, best = iou_inclusive(*(boxes / true.size[frame].repeat(2) for boxes in (a, b))).max(1)
            match[rows] = torch.where(overlap > PARITY_OVERLAP, index[best], -1)
            continue
        same = np.array([true.boxes.category[row] for row in rows])[:, None] == np.array(
            [found.boxes.category[row] for row in candidates]
        )
        for row, column in _best_first(iou_2d(a, b).numpy() * same, MODERN_OVERLAP):
            match[rows[row]] = candidates[column]
    return match


def _best_first(overlap: NDArray[Any], least: float) -> list[tuple[int, int]]:
    """Pairs of rows and columns with at least this overlap, none twice, better ones before worse."""
    rows, columns = np.nonzero(overlap >= least)
    pairs: dict[int, int] = {}
    for k in np.argsort(-overlap[rows, columns], kind="stable"):
        if rows[k] not in pairs and columns[k] not in pairs.values():
            pairs[int(rows[k])] = int(columns[k])
    return list(pairs.items())


def _lifted(boxes: _Boxes, file: _File, mode: Mode) -> Tensor:
    camera = Camera(*(column[boxes.frame] for column in file.camera))
    return lift_boxes(boxes.centre, boxes.depth, boxes.alpha, boxes.dims, camera, mode=mode).box7


def _read(path: Path, frame_seconds: float, wanted: set[str] | None) -> _File:
    try:
        content = json.loads(path.read_text("utf-8"))
        return _parsed(content, frame_seconds, wanted)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; give the path of a JSON file") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is no file of 3D boxes in videos ({type(error).__name__}: {reason}): it needs categories, videos, "
            "images with cali and pose, and annotations with bbox, alpha, dimension, center_2d and translation or depth"
        ) from error


def _parsed(content: dict[str, Any], frame_seconds: float, wanted: set[str] | None) -> _File:
    names = {category["id"]: str(category["name"]).lower() for category in content["categories"]}
    place = {video["id"]: number for number, video in enumerate(content["videos"])}
    images = content["images"]
    row_of = {image["id"]: row for row, image in enumerate(images)}
    frames = [(place[image["video_id"]], int(image.get("index", image.get("frame_id", 0)))) for image in images]
    camera = Camera(
        _numbers([image["cali"] for image in images], 3, 4),
        euler_to_matrix(_numbers([image["pose"]["rotation"] for image in images], 3)),
        _numbers([image["pose"]["position"] for image in images], 3),
    )
    chosen = [
        annotation
        for annotation in content["annotations"]
        if not annotation.get("ignore")
        and min(annotation["bbox"][2:]) >= 1
        and (wanted is None or names[annotation["category_id"]] in wanted)
    ]
    corner = _numbers([annotation["bbox"] for annotation in chosen], 4)
    boxes = _Boxes(
        frame=torch.tensor([row_of[annotation["image_id"]] for annotation in chosen], dtype=torch.int64),
        category=[names[annotation["category_id"]] for annotation in chosen],
        instance=[annotation["instance_id"] for annotation in chosen],
        boxes=torch.cat((corner[:, :2], corner[:, :2] + corner[:, 2:]), 1),
        centre=_numbers([annotation["center_2d"] for annotation in chosen], 2),
        depth=_numbers([_depth(annotation) for annotation in chosen]),
        alpha=_numbers([annotation["alpha"] for annotation in chosen]),
        dims=_numbers([annotation["dimension"] for annotation in chosen], 3),
        confidence=_numbers([annotation.get("uncertainty", 1.0) for annotation in chosen]),
    )
    size = _numbers([(image["width"], image["height"]) for image in images], 2)
    seconds = _numbers([_seconds(image, frame[1], frame_seconds) for image, frame in zip(images, frames, strict=True)])
    return _File(frames, [str(video.get("name", "")) for video in content["videos"]], size, seconds, camera, boxes)


def _depth(annotation: dict[str, Any]) -> float:
    depth = annotation.get("depth", annotation["translation"][2])
    return float(depth[0] if isinstance(depth, list) else depth)


def _seconds(image: dict[str, Any], index: int, frame_seconds: float) -> float:
    time = image.get("timestamp")
    return index * frame_seconds if time is None else time / 1e6


def _numbers(values: list[Any], *width: int) -> Tensor:
    tensor = torch.tensor(values, dtype=torch.float64).reshape(len(values), *width)
    if not tensor.isfinite().all():
        raise ValueError("a number is not finite")
    return tensor
