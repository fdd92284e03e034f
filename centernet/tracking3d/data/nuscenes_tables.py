"""nuScenes' JSON tables and its official splits, without the devkit."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
"""In the order of the published sensor numbers 1 ... 6."""

CATEGORY_CLASSES = {
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "vehicle.truck": "truck",
    "vehicle.trailer": "trailer",
    "vehicle.construction": "construction_vehicle",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
}
"""Classes of the devkit's detection challenge; objects of other categories are left out."""

MINI_TRAIN = (61, 553, 655, 757, 796, 1077, 1094, 1100)
MINI_VAL = (103, 916)
VAL = (
    3, *range(12, 19), 35, 36, 38, 39, *range(92, 111), 221, *range(268, 279), *range(329, 333), *range(344, 347),
    *range(519, 525), *range(552, 566), 625, 626, 627, 629, 630, *range(632, 639), 770, 771, 775, 777, 778,
    *range(780, 785), *range(794, 801), 802, *range(904, 918), *range(919, 932), 962, 963, 966, 967, 968, 969, 971, 972,
    *range(1059, 1074),
)  # fmt: skip
"""Numbers of the 150 scenes of the official validation split."""

SPLITS = {
    # version, offset of the published video numbers
    "train": ("v1.0-trainval", 0),
    "val": ("v1.0-trainval", 700),
    "mini_train": ("v1.0-mini", 850),
    "mini_val": ("v1.0-mini", 858),
    "test": ("v1.0-test", 860),
}

Row = dict[str, Any]


class Tables:
    """The tables of one version that describe cameras and boxes, indexed by token."""

    def __init__(self, root: str | Path, version: str) -> None:
        """
        Args:
            root: the folder that holds ``samples`` and the version's folder.
            version: such as "v1.0-trainval".

        Raises:
            UserError: a table is missing or broken.
        """
        self.folder = Path(root) / version
        self.samples = self._indexed("sample")
        self.scenes = self._rows("scene")
        self.annotations: dict[str, list[Row]] = {}
        for annotation in self._rows("sample_annotation"):
            self.annotations.setdefault(annotation["sample_token"], []).append(annotation)
        self._calibrations = self._indexed("calibrated_sensor")
        self._poses = self._indexed("ego_pose")
        categories = {row["token"]: row["name"] for row in self._rows("category")}
        self._category_of = {row["token"]: categories[row["category_token"]] for row in self._rows("instance")}
        channels = {row["token"]: row["channel"] for row in self._rows("sensor")}
        self.pictures: dict[tuple[str, str], list[Row]] = {}  # by scene and camera
        for row in self._rows("sample_data"):
            channel = channels[self._row(self._calibrations, row, "calibrated_sensor_token")["sensor_token"]]
            if channel in CAMERAS:
                scene = self._row(self.samples, row, "sample_token")["scene_token"]
                self.pictures.setdefault((scene, channel), []).append(row)

    def scenes_of(self, split: str) -> list[Row]:
        """Scenes of an official split that the tables hold, in the tables' order."""
        chosen = {"mini_train": MINI_TRAIN, "mini_val": MINI_VAL, "val": VAL}.get(split)
        numbers = [int(scene["name"].split("-")[-1]) for scene in self.scenes]
        if chosen is not None:
            return [scene for scene, number in zip(self.scenes, numbers, strict=True) if number in chosen]
        left_out = () if split == "test" else VAL
        return [scene for scene, number in zip(self.scenes, numbers, strict=True) if number not in left_out]

    def class_of(self, annotation: Row) -> str | None:
        """Class of an annotation's object; None if it is of no class."""
        return CATEGORY_CLASSES.get(self._row(self._category_of, annotation, "instance_token"))

    def calibration_of(self, picture: Row) -> Row:
        """Row of ``calibrated_sensor``."""
        return self._row(self._calibrations, picture, "calibrated_sensor_token")

    def camera_to_world(self, picture: Row) -> tuple[Tensor, Tensor]:
        """float64 rotation ``[3, 3]`` and position ``[3]`` of the camera in the map at the picture's own time."""
        ego = _transform(self._row(self._poses, picture, "ego_pose_token"))
        sensor = _transform(self.calibration_of(picture))
        return ego[0] @ sensor[0], ego[0] @ sensor[1] + ego[1]

    def _row(self, table: dict[str, Any], row: Row, key: str) -> Any:
        try:
            return table[row[key]]
        except KeyError as error:
            raise UserError(
                f"the tables in {self.folder} do not fit together: {key} of {row.get('filename', row.get('token'))} "
                f"names {error.args[0]!r}, which is in no table; download the version's tables again"
            ) from error

    def _indexed(self, name: str) -> dict[str, Row]:
        return {row["token"]: row for row in self._rows(name)}

    def _rows(self, name: str) -> list[Row]:
        path = self.folder / f"{name}.json"
        try:
            rows = json.loads(path.read_text())
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): put nuScenes' folders (samples, sweeps, "
                f"{self.folder.name}) there, or set DETECTRON2_DATASETS to the folder above"
            ) from error
        except ValueError as error:
            raise UserError(f"{path} is no JSON ({error}): download the tables again") from error
        if not isinstance(rows, list):
            raise UserError(f"{path} is no table of nuScenes (a list of rows): download the tables again")
        return rows


def _transform(row: Row) -> tuple[Tensor, Tensor]:
    w, x, y, z = row["rotation"]
    return quaternion_to_matrix(torch.tensor([w, x, y, z], dtype=torch.float64)), torch.tensor(
        row["translation"], dtype=torch.float64
    )


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """Rotations ``[..., 3, 3]`` of quaternions ``(w, x, y, z)``, ``[..., 4]``, made unit first."""
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
