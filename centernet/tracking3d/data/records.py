"""Frame records: detectron2's dataset dict of one picture with its camera, its time and 3D boxes.

Keys beyond detectron2's: ``video_id`` (one camera of one scene), ``video`` its name, ``frame_index`` in it from 0,
``camera`` name, ``intrinsics`` [3][4], ``pose`` ``{"rotation": 3x3 camera to world, "position": [3] metres}`` (absent:
not known), ``timestamp`` in seconds, ``ignore_regions`` (continuous xyxy boxes in which nothing was annotated).
Annotations: ``bbox`` (continuous xyxy), ``bbox_mode``, ``category_id`` (0-based), ``instance_id`` (unique over the
data set), ``alpha``, ``yaw`` (about the camera's Y), ``dims`` [h, w, l], ``translation`` [x, y, z] (geometric centre,
camera frame), ``center2d`` (its projection, may lie outside the picture), ``depth``. All are plain numbers and lists.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.structures import BoxMode
from torch import Tensor

from ...errors import UserError
from ..ops.calibration import make_camera
from ..ops.geometry import Camera, box_corners, pixel_ray, project, wrap_angle, yaw_to_alpha
from ..ops.mode import Mode

Record = dict[str, Any]


class Boxes3D(NamedTuple):
    """Annotated boxes of one or more frames with one calibration.

    Attributes:
        boxes: float64 ``[N, 4]``, continuous xyxy pixels.
        classes: int64 ``[N]``, 0-based.
        instances: int64 ``[N]``.
        xyz: float64 ``[N, 3]``, geometric centres, camera frame, metres.
        yaw: float64 ``[N]``, about Y.
        dims: float64 ``[N, 3]``, h, w, l.
        alpha: float64 ``[N]``.
    """

    boxes: Tensor
    classes: Tensor
    instances: Tensor
    xyz: Tensor
    yaw: Tensor
    dims: Tensor
    alpha: Tensor

    def select(self, index: Tensor) -> "Boxes3D":
        """The rows ``index`` (bool or int64)."""
        return Boxes3D(*(column[index] for column in self))


def annotations_of(boxes: Boxes3D, intrinsics: Tensor) -> list[Record]:
    """Annotations of a frame record; ``intrinsics [3, 4]`` project the centres."""
    centres, _ = project(boxes.xyz, intrinsics)
    # numpy's tolist: torch's takes ten times as long, and there is a call for every frame
    columns = zip(*(column.numpy().tolist() for column in (*boxes, centres)), strict=True)
    return [
        {
            "bbox": box,
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": kind,
            "instance_id": instance,
            "iscrowd": 0,
            "alpha": alpha,
            "yaw": yaw,
            "dims": dims,
            "translation": xyz,
            "center2d": centre,
            "depth": xyz[2],
        }
        for box, kind, instance, xyz, yaw, dims, alpha, centre in columns
    ]


def boxes_of(record: Record) -> Boxes3D:
    """The annotations of a record as columns, in their order; none without annotations."""
    annotations = record.get("annotations", [])

    def column(key: str, dtype: torch.dtype, *width: int) -> Tensor:
        return torch.tensor([a[key] for a in annotations], dtype=dtype).reshape(len(annotations), *width)

    return Boxes3D(
        column("bbox", torch.float64, 4),
        column("category_id", torch.int64),
        column("instance_id", torch.int64),
        column("translation", torch.float64, 3),
        column("yaw", torch.float64),
        column("dims", torch.float64, 3),
        column("alpha", torch.float64),
    )


def camera_of(record: Record) -> Camera:
    """The camera of a record in float64, checked; without a pose, the world is the camera's (X right, Y ahead, Z up).

    Raises:
        UserError: no intrinsics, or they or the pose are broken; the sentence names the file.
    """
    where = str(record.get("file_name", "a frame"))
    if record.get("intrinsics") is None:
        raise UserError(f"{where} has no intrinsics: give its 3x3 camera matrix (focal lengths and centre in pixels)")
    pose = record.get("pose") or {}
    return make_camera(record["intrinsics"], pose.get("rotation"), pose.get("position"), where)


def pose_record(rotation: Tensor, position: Tensor) -> dict[str, Any]:
    """``pose`` of a record from ``[3, 3]`` and ``[3]``."""
    return {"rotation": rotation.numpy().tolist(), "position": position.numpy().tolist()}


def training_alpha(boxes: Tensor, xyz: Tensor, yaw: Tensor, intrinsics: Tensor, mode: Mode) -> Tensor:
    """Observation angles ``[N]``: from the ray of the 3D centre (modern), or of the middle of the 2D box (parity; it
    differs where the picture's border cuts a box).
    """
    if mode == "modern":
        return yaw_to_alpha(yaw, xyz)
    return wrap_angle(yaw - pixel_ray((boxes[..., 0] + boxes[..., 2]) / 2, intrinsics))


def visible_boxes(corners: Tensor, intrinsics: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """2D boxes of 3D boxes.

    Args:
        corners: float64 ``[N, 8, 3]``, camera frame, metres.
        intrinsics: ``[3, 4]``.
        size: height and width of the picture, pixels.

    Returns:
        ``(boxes, visible)``: ``[N, 4]`` continuous xyxy, the bounds of that part of the convex hull of the projected
        corners that lies in the picture; ``visible [N]``: the hull meets the picture, all corners are over 0.1 m in
        front, and a corner over 1 m in front lies in the picture (nuScenes' rule for "any part of it is visible").
    """
    height, width = size
    uv, _ = project(corners, intrinsics)
    inside = (uv > 0).all(-1) & (uv[..., 0] < width) & (uv[..., 1] < height) & (corners[..., 2] > 1)
    visible = inside.any(1) & (corners[..., 2] > 0.1).all(1)
    low, high = uv.amin(1), uv.amax(1)
    limit = uv.new_tensor([width, height])
    boxes = torch.cat((low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)), 1)
    cut = visible & ((low < 0) | (high > limit)).any(1)
    points = uv.numpy().tolist()
    for row in cut.nonzero().flatten().tolist():
        bounds = _hull_bounds(points[row], width, height)
        visible[row] = bounds is not None
        boxes[row] = uv.new_tensor(bounds or (0.0, 0.0, 0.0, 0.0))
    return boxes, visible


def box3d_bounds(
    xyz: Tensor, yaw: Tensor, dims: Tensor, intrinsics: Tensor, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """:func:`visible_boxes` of boxes that stand upright in the camera frame."""
    return visible_boxes(box_corners(xyz, yaw, dims), intrinsics, size)


Point = tuple[float, float]


def _hull_bounds(points: list[list[float]], width: float, height: float) -> tuple[float, float, float, float] | None:
    """Bounds of the convex hull of the points within the picture (Sutherland and Hodgman's clipping)."""
    polygon = _hull([(u, v) for u, v in points])
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        polygon = _clip(polygon, axis, limit, sign)
    if not polygon:
        return None
    # what was cut off can be a rounding away from the border
    us, vs = [min(max(u, 0.0), width) for u, _ in polygon], [min(max(v, 0.0), height) for _, v in polygon]
    return min(us), min(vs), max(us), max(vs)


def _hull(points: list[Point]) -> list[Point]:
    """Convex hull, counter-clockwise (Andrew's monotone chain)."""
    points = sorted(set(points))
    if len(points) < 3:
        return points

    def half(ordered: Iterable[Point]) -> list[Point]:
        chain: list[Point] = []
        for p in ordered:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return half(points) + half(reversed(points))


def _turn(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _clip(polygon: list[Point], axis: int, limit: float, sign: int) -> list[Point]:
    """The part of a convex polygon with ``sign * (coordinate - limit) >= 0``."""
    kept: list[Point] = []
    for a, b in itertools.pairwise([*polygon, *polygon[:1]]):
        before, after = sign * (a[axis] - limit), sign * (b[axis] - limit)
        if before >= 0:
            kept.append(a)
        if (before < 0) != (after < 0):
            share = before / (before - after)
            kept.append((a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])))
    return kept


def unoccluded(boxes: Tensor, depth: Tensor, dims: Tensor) -> Tensor:
    """Bool ``[N]``: False where another box strictly contains the 2D box and is nearer by more than half the smallest
    side of the one and half the largest of the other.
    """
    contains = (boxes[:, None, :2] > boxes[None, :, :2]).all(-1) & (boxes[:, None, 2:] < boxes[None, :, 2:]).all(-1)
    behind = (depth - dims.amin(1) / 2)[:, None] > (depth + dims.amax(1) / 2)[None, :]
    return ~(contains & behind).any(1)


def in_video_order(records: Iterable[Record]) -> list[Record]:
    """Records sorted by video (in the order of their first frames) and frame index; frames may be missing.

    Raises:
        UserError: a video has a frame index twice, or its times do not rise with the index.
    """
    videos: dict[Any, list[Record]] = {}
    for record in records:
        videos.setdefault(record["video_id"], []).append(record)
    ordered = []
    for frames in videos.values():
        frames.sort(key=lambda record: record["frame_index"])
        for before, after in itertools.pairwise(frames):
            name = after.get("video", after["video_id"])
            if before["frame_index"] == after["frame_index"]:
                raise UserError(
                    f"video {name} has frame {after['frame_index']} twice ({before['file_name']}, "
                    f"{after['file_name']}): number the frames of each camera from 0"
                )
            earlier, later = before.get("timestamp"), after.get("timestamp")
            if earlier is not None and later is not None and later <= earlier:
                raise UserError(
                    f"frame {after['frame_index']} of video {name} is not later than the frame before it "
                    f"({later:.6f} s after {earlier:.6f} s): mend its timestamp or its frame index"
                )
        ordered += frames
    return ordered
