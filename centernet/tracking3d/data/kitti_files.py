"""KITTI's text files: labels and calibrations, of the tracking and the object benchmark.

Source: the benchmarks' development kits (Geiger et al., CVPR 2012).
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UserError
from .constants import KITTI_CLASSES
from .records import Boxes3D

TYPE_CLASSES = {
    "pedestrian": "pedestrian",
    "person": "pedestrian",
    "person_sitting": "pedestrian",
    "cyclist": "cyclist",
    "car": "car",
    "van": "car",
    "truck": "truck",
    "tram": "tram",
    "misc": "misc",
}
_DONT_CARE = "dontcare"
_NUMBERS = 14  # after the type: truncated, occluded, alpha, 4 of the box, h w l, x y z, yaw


class Labels(NamedTuple):
    """Rows of a label file.

    Attributes:
        frames: int64 ``[N]``; 0 in the object benchmark.
        boxes: ``N`` boxes; centres are geometric (half a height above the file's), instances are the file's track ids
            or, in the object benchmark, numbers of rows.
        ignored_frames: int64 ``[D]`` of the regions in which nobody labelled.
        ignored: float64 ``[D, 4]``, xyxy.
    """

    frames: Tensor
    boxes: Boxes3D
    ignored_frames: Tensor
    ignored: Tensor


def parse_labels(text: str, where: str, *, tracking: bool) -> Labels:
    """Labels of a file's text.

    Args:
        text: lines of the benchmark; a score at a line's end is passed over.
        where: the file, for messages.
        tracking: lines begin with frame and track id.

    Raises:
        UserError: a line has too few columns, something else than numbers, or an unknown type.
    """
    frames, kinds, tracks, numbers, ignored_frames, ignored = [], [], [], [], [], []
    lead = 2 if tracking else 0
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            frame, track = (int(words[0]), int(words[1])) if tracking else (0, number - 1)
            kind, values = words[lead].lower(), [float(word) for word in words[lead + 1 : lead + 1 + _NUMBERS]]
        except (ValueError, IndexError):
            kind, values = "", []
        if len(values) < _NUMBERS or not all(map(math.isfinite, values)):
            raise UserError(f"line {number} of {where} is no label of KITTI ({line[:40]!r}): get the file again")
        if kind == _DONT_CARE:
            ignored_frames.append(frame)
            ignored.append(values[3:7])
        elif kind not in TYPE_CLASSES:
            raise UserError(f"line {number} of {where} has the unknown type '{words[lead]}': get the file again")
        else:
            frames.append(frame)
            tracks.append(track)
            kinds.append(KITTI_CLASSES.index(TYPE_CLASSES[kind]))
            numbers.append(values)
    table = torch.tensor(numbers, dtype=torch.float64).reshape(-1, _NUMBERS)
    dims, xyz = table[:, 7:10], table[:, 10:13].clone()
    xyz[:, 1] -= dims[:, 0] / 2  # the file tells the middle of the bottom; Y goes down
    boxes = Boxes3D(
        table[:, 3:7],
        torch.tensor(kinds, dtype=torch.int64),
        torch.tensor(tracks, dtype=torch.int64),
        xyz,
        table[:, 13],
        dims,
        table[:, 2],
    )
    return Labels(
        torch.tensor(frames, dtype=torch.int64),
        boxes,
        torch.tensor(ignored_frames, dtype=torch.int64),
        torch.tensor(ignored, dtype=torch.float64).reshape(-1, 4),
    )


class Calibration(NamedTuple):
    """What a calibration file tells of the left colour camera.

    Attributes:
        intrinsics: float64 ``[3, 4]``, P2.
        camera_from_imu: float64 ``[4, 4]``, or None if the file does not tell all of its parts.
    """

    intrinsics: Tensor
    camera_from_imu: Tensor | None


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration file of either benchmark.

    Raises:
        UserError: it is missing, has no P2, or has other than finite numbers in a matrix.
    """
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): put KITTI's calibration file there") from error
    entries = {words[0].rstrip(":"): words[1:] for line in lines if (words := line.split())}
    intrinsics = _matrix(entries, "P2", path)
    if intrinsics is None or intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0 or intrinsics[2, 2] != 1:
        raise UserError(f"{path} has no usable P2 (12 numbers, focal lengths above 0): get the calibration file again")
    turn = _first(entries, ("R0_rect", "R_rect"), path)
    velodyne = _first(entries, ("Tr_velo_to_cam", "Tr_velo_cam"), path)
    imu = _first(entries, ("Tr_imu_to_velo", "Tr_imu_velo"), path)
    if turn is None or velodyne is None or imu is None:
        return Calibration(intrinsics, None)
    return Calibration(intrinsics, _square(turn) @ _square(velodyne) @ _square(imu))


def _first(entries: dict[str, list[str]], names: tuple[str, ...], path: Path) -> Tensor | None:
    found = [matrix for name in names if (matrix := _matrix(entries, name, path)) is not None]
    return found[0] if found else None


def _matrix(entries: dict[str, list[str]], name: str, path: Path) -> Tensor | None:
    if name not in entries:
        return None
    try:
        values = torch.tensor([float(word) for word in entries[name]], dtype=torch.float64)
    except ValueError:
        values = torch.empty(0, dtype=torch.float64)
    if len(values) not in (9, 12) or not values.isfinite().all():
        raise UserError(f"{name} in {path} is not 9 or 12 finite numbers: get the calibration file again")
    return values.reshape(3, -1)


def _square(matrix: Tensor) -> Tensor:
    square = torch.eye(4, dtype=matrix.dtype)
    square[:3, : matrix.shape[1]] = matrix
    return square
