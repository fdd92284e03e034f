"""nuScenes as frame records, from its JSON tables: six cameras, each of a scene's a video.

Source: QD-3DT's converter (order of videos, classes, occlusion rule); nuScenes (arXiv 1903.11027).
"""

from pathlib import Path

import torch
from torch import Tensor

from ...errors import UserError
from ..ops.mode import Mode
from .constants import NUSCENES_CLASSES
from .nuscenes_tables import CAMERAS, SPLITS, Row, Tables, quaternion_to_matrix
from .records import (
    Boxes3D,
    Record,
    annotations_of,
    in_video_order,
    pose_record,
    training_alpha,
    unoccluded,
    visible_boxes,
)

_CLASS_IDS = {name: number for number, name in enumerate(NUSCENES_CLASSES)}


def read_nuscenes(
    root: str | Path,
    split: str,
    *,
    keyframes_only: bool = True,
    occlusion_filter: bool = True,
    mode: Mode = "modern",
    require_pictures: bool = False,
) -> list[Record]:
    """Frame records of a split.

    Args:
        root: the folder with ``samples``, ``sweeps`` and the version's tables.
        split: train, val, test, mini_train or mini_val.
        keyframes_only: pictures of the 2 Hz samples, annotated. False: all pictures from the first sample on (12 Hz),
            without annotations, each with ``is_key_frame`` and, where that is true, ``key_frame_index``.
        occlusion_filter: leave out boxes that a nearer box hides (:func:`.records.unoccluded`).
        mode: parity takes alpha from the middle of the 2D box, modern from the 3D centre.
        require_pictures: leave out pictures whose files are missing (partial downloads).

    Returns:
        Videos sensor by sensor (front, then clockwise), each a camera of a scene, numbered as published; records also
        have ``scene``, ``scene_token``, ``sample_token``, ``sample_data_token`` and ``sensor_id`` (1 ... 6).

    Raises:
        UserError: unknown split, missing or broken tables, broken calibration.
    """
    if split not in SPLITS:
        raise UserError(f"nuScenes has no split '{split}': take one of {', '.join(SPLITS)}")
    version, offset = SPLITS[split]
    tables = Tables(root, version)
    reader = _Reader(Path(root), tables, keyframes_only, occlusion_filter, mode)
    scenes = tables.scenes_of(split)
    records: list[Record] = []
    for sensor, camera in enumerate(CAMERAS, 1):
        for number, scene in enumerate(scenes):
            video = {
                "video_id": (sensor - 1) * len(scenes) + number,
                "video": f"{offset + number:05d}_{sensor}",
                "camera": camera,
                "sensor_id": sensor,
                "scene": scene["name"],
                "scene_token": scene["token"],
            }
            records += reader.frames(scene, camera, video)
    if require_pictures:
        records = [record for record in records if Path(record["file_name"]).is_file()]
    for number, record in enumerate(records):
        record["image_id"] = number
    return in_video_order(records)


class _Reader:
    def __init__(
        self, root: Path, tables: Tables, keyframes_only: bool, occlusion_filter: bool, mode: Mode
    ) -> None:
        self.root = root
        self.tables = tables
        self.keyframes_only = keyframes_only
        self.occlusion_filter = occlusion_filter
        self.mode = mode
        self._instances: dict[str, int] = {}

    def frames(self, scene: Row, camera: str, video: Record) -> list[Record]:
        pictures = sorted(self.tables.pictures.get((scene["token"], camera), []), key=lambda row: row["timestamp"])
        if self.keyframes_only:
            pictures = [picture for picture in pictures if picture["is_key_frame"]]
        else:
            first = next((row["timestamp"] for row in pictures if row["is_key_frame"]), 0)
            pictures = [picture for picture in pictures if picture["timestamp"] >= first]
        records, keys = [], 0
        for index, picture in enumerate(pictures):
            record = self._frame(picture, index, video)
            if picture["is_key_frame"]:
                record["key_frame_index"] = keys
                keys += 1
            records.append(record)
        return records

    def _frame(self, picture: Row, index: int, video: Record) -> Record:
        intrinsics = self._intrinsics(picture)
        rotation, position = self.tables.camera_to_world(picture)
        record = {
            "file_name": str(self.root / picture["filename"]),
            "height": picture["height"],
            "width": picture["width"],
            **video,
            "frame_index": index,
            "intrinsics": intrinsics.tolist(),
            "pose": pose_record(rotation, position),
            "timestamp": picture["timestamp"] / 1e6,
            "sample_token": picture["sample_token"],
            "sample_data_token": picture["token"],
            "is_key_frame": picture["is_key_frame"],
        }
        if self.keyframes_only:
            rows = [
                (row, _CLASS_IDS[name])
                for row in self.tables.annotations.get(picture["sample_token"], [])
                if (name := self.tables.class_of(row)) is not None
            ]
            record["annotations"] = self._annotations(rows, record, intrinsics, rotation, position) if rows else []
        return record

    def _intrinsics(self, picture: Row) -> Tensor:
        matrix = torch.tensor(self.tables.calibration_of(picture)["camera_intrinsic"], dtype=torch.float64)
        if matrix.shape != (3, 3) or not matrix.isfinite().all() or min(matrix[0, 0], matrix[1, 1]) <= 0:
            raise UserError(
                f"the calibration of {picture['filename']} in {self.tables.folder / 'calibrated_sensor.json'} is no "
                "3x3 camera matrix: download the tables again"
            )
        return torch.cat((matrix, matrix.new_zeros(3, 1)), 1)

    def _annotations(
        self, rows: list[tuple[Row, int]], record: Record, intrinsics: Tensor, rotation: Tensor, position: Tensor
    ) -> list[Record]:
        def column(key: str) -> Tensor:
            return torch.tensor([row[key] for row, _ in rows], dtype=torch.float64)

        ahead = (column("translation") - position) @ rotation[:, 2] > 0
        rows = [row for row, is_ahead in zip(rows, ahead.tolist(), strict=True) if is_ahead]
        if not rows:
            return []
        turn = rotation.T @ quaternion_to_matrix(column("rotation"))
        xyz = (column("translation") - position) @ rotation
        width, length, height = column("size").unbind(1)
        yaw = -torch.atan2(turn[:, 2, 0], turn[:, 0, 0])  # of the length axis
        # the corners of the tilted box, not of one upright in the camera
        signs = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5], dtype=torch.float64)] * 3)
        offsets = signs * torch.stack((length, width, height), 1)[:, None]
        corners = xyz[:, None] + offsets @ turn.transpose(1, 2)
        bounds, keep = visible_boxes(corners, intrinsics, (record["height"], record["width"]))
        seen = Boxes3D(
            bounds,
            torch.tensor([number for _, number in rows]),
            torch.tensor([self._instance(row) for row, _ in rows]),
            xyz,
            yaw,
            torch.stack((height, width, length), 1),
            training_alpha(bounds, xyz, yaw, intrinsics, self.mode),
        ).select(keep)
        if self.occlusion_filter:
            seen = seen.select(unoccluded(seen.boxes, seen.xyz[:, 2], seen.dims))
        return annotations_of(seen, intrinsics)

    def _instance(self, row: Row) -> int:
        return self._instances.setdefault(row["instance_token"], len(self._instances))
