"""Waymo Open Dataset as frame records, from the ``Frame`` messages of its TFRecord files.

Neither TensorFlow nor ``waymo-open-dataset`` is needed: the fields used are read from the wire format
(:mod:`.protobuf_wire`), their numbers are those of the published ``dataset.proto`` and ``label.proto`` (Apache-2.0).
Source: QD-3DT's converter; Sun et al., CVPR 2020.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UserError, writing
from ..ops.geometry import yaw_to_alpha
from .constants import WAYMO_CLASSES
from .protobuf_wire import Message, read_tfrecords
from .records import Boxes3D, Record, annotations_of, in_video_order, pose_record, unoccluded

CAMERAS = {1: "FRONT", 2: "FRONT_LEFT", 3: "FRONT_RIGHT", 4: "SIDE_LEFT", 5: "SIDE_RIGHT"}
_TYPES = {1: "car", 2: "pedestrian", 4: "cyclist"}  # unknown (0) and sign (3) are left out
# Waymo's camera frame is forward, left, up; columns: our right, down, forward in it
_AXES = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


class _Lidar(NamedTuple):
    """Lidar boxes of a frame in the vehicle's frame: ids, classes, ``xyz``, h w l, and the length axis."""

    ids: list[str]
    classes: Tensor
    xyz: Tensor
    dims: Tensor
    ahead: Tensor


def read_waymo(files: Iterable[str | Path], picture_folder: str | Path) -> list[Record]:
    """Frame records of TFRecord files (one segment each); pictures are written once.

    Args:
        files: ``.tfrecord`` files.
        picture_folder: pictures go to ``{segment}_{camera}/{frame:06d}.jpg``, the bytes that the file holds.

    Returns:
        Camera by camera, each camera of a segment a video. ``car_from_cam`` (4x4) takes our camera frame to the
        vehicle's. Alpha is that of the 3D centre. Lens distortion and rolling shutter are not modelled.

    Raises:
        UserError: a file is missing or broken, or the disk refuses.
    """
    records: list[Record] = []
    instances: dict[str, int] = {}
    for path in files:
        for index, data in enumerate(read_tfrecords(path)):
            try:
                records += _frames(Message(data), index, Path(picture_folder), instances)
            except (ValueError, IndexError, RuntimeError) as error:
                raise UserError(
                    f"record {index} of {path} is no Frame of the Waymo Open Dataset ({error}): download the file again"
                ) from error
    numbers = {name: i for i, name in enumerate(dict.fromkeys((r["sensor_id"], r["video"]) for r in records))}
    for record in records:
        record["video_id"] = numbers[record["sensor_id"], record["video"]]
    records.sort(key=lambda record: (record["sensor_id"], record["video_id"]))
    records = in_video_order(records)
    for number, record in enumerate(records):
        record["image_id"] = number
    return records


def _frames(frame: Message, index: int, folder: Path, instances: dict[str, int]) -> Iterator[Record]:
    context = frame.message(1)
    car_to_world = _transform(frame.message(3))
    pictures = {picture.integer(1): picture.content(2) for picture in frame.messages(4)}
    projected = {labels.integer(1): labels.messages(2) for labels in frame.messages(9)}
    lidar = _lidar(frame.messages(6))
    for calibration in context.messages(2):
        sensor = calibration.integer(1)
        if sensor not in pictures or sensor not in CAMERAS:
            continue  # a camera that dropped out
        fu, fv, cu, cv = calibration.doubles(2)[:4]
        intrinsics = torch.tensor([[fu, 0, cu, 0], [0, fv, cv, 0], [0, 0, 1, 0]], dtype=torch.float64)
        turn = torch.eye(4, dtype=torch.float64)
        turn[:3, :3] = torch.tensor(_AXES)
        car_from_cam = _transform(calibration.message(3)) @ turn
        pose = car_to_world @ car_from_cam
        video = f"{context.text(1)}_{sensor}"
        path = folder / video / f"{index:06d}.jpg"
        _write(path, pictures[sensor])
        yield {
            "file_name": str(path),
            "height": calibration.integer(5),
            "width": calibration.integer(4),
            "video": video,
            "frame_index": index,
            "camera": CAMERAS[sensor],
            "sensor_id": sensor,
            "scene": context.text(1),
            "intrinsics": intrinsics.tolist(),
            "pose": pose_record(pose[:3, :3], pose[:3, 3]),
            "car_from_cam": car_from_cam.tolist(),
            "timestamp": frame.integer(2) / 1e6,
            "annotations": _annotations(lidar, projected.get(sensor, []), car_from_cam, intrinsics, instances),
        }


def _lidar(labels: list[Message]) -> _Lidar:
    ids, classes, rows = [], [], []
    for label in labels:
        if (kind := _TYPES.get(label.integer(3))) is None:
            continue
        box = label.message(1)
        ids.append(label.text(4))
        classes.append(WAYMO_CLASSES.index(kind))
        rows.append([(box.doubles(number) or [0.0])[0] for number in range(1, 8)])
    x, y, z, width, length, height, heading = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7).unbind(1)
    return _Lidar(
        ids,
        torch.tensor(classes, dtype=torch.int64),
        torch.stack((x, y, z), 1),
        torch.stack((height, width, length), 1),
        torch.stack((heading.cos(), heading.sin(), torch.zeros_like(heading)), 1),
    )


def _annotations(
    lidar: _Lidar, projected: list[Message], car_from_cam: Tensor, intrinsics: Tensor, instances: dict[str, int]
) -> list[Record]:
    """Boxes of the objects that have a projected label in this camera."""
    in_picture: dict[str, list[float]] = {}
    for label in projected:
        box = label.message(1)
        u, v, length, width = ((box.doubles(number) or [0.0])[0] for number in (1, 2, 5, 4))
        in_picture[_object_id(label.text(4))] = [u - length / 2, v - width / 2, u + length / 2, v + width / 2]
    rows = [row for row, name in enumerate(lidar.ids) if name in in_picture]
    if not rows:
        return []
    rotation, position = car_from_cam[:3, :3], car_from_cam[:3, 3]
    xyz = (lidar.xyz[rows] - position) @ rotation
    ahead = lidar.ahead[rows] @ rotation
    yaw = -torch.atan2(ahead[:, 2], ahead[:, 0])
    boxes = Boxes3D(
        torch.tensor([in_picture[lidar.ids[row]] for row in rows], dtype=torch.float64),
        lidar.classes[rows],
        torch.tensor([instances.setdefault(lidar.ids[row], len(instances)) for row in rows]),
        xyz,
        yaw,
        lidar.dims[rows],
        yaw_to_alpha(yaw, xyz),
    )
    keep = unoccluded(boxes.boxes, boxes.xyz[:, 2], boxes.dims) & (boxes.xyz[:, 2] > 0)
    return annotations_of(boxes.select(keep), intrinsics)


def _object_id(text: str) -> str:
    """The object's id of a projected label's, which ends with the camera's name."""
    for camera in sorted(CAMERAS.values(), key=len, reverse=True):
        text = text.removesuffix(f"_{camera}")
    return text


def _transform(message: Message) -> Tensor:
    return torch.tensor(message.doubles(1), dtype=torch.float64).reshape(4, 4)


def _write(path: Path, data: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(data):
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
