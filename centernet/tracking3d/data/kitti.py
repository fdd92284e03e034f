"""KITTI's tracking and object benchmarks as frame records.

Source: QD-3DT's converters; Geiger et al., CVPR 2012.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError
from ..ops.mode import Mode
from .kitti_files import Calibration, Labels, parse_labels, read_calibration
from .oxts import camera_poses, read_oxts
from .records import Record, annotations_of, pose_record

SUBVAL = (1, 4, 11, 12, 13, 14, 15, 18)
SEQUENCES = {
    "train": tuple(range(21)),
    "subtrain": tuple(number for number in range(21) if number not in SUBVAL),
    "subval": SUBVAL,
    "mini": (1,),
    "test": tuple(range(29)),
}
FRAMES_PER_SECOND = 10.0
_PICTURES = (".png", ".jpg")


def read_kitti_tracking(
    root: str | Path,
    split: str = "train",
    *,
    sequences: Sequence[int] | None = None,
    mode: Mode = "modern",
    missing_pose: str = "error",
) -> list[Record]:
    """Frame records of the tracking benchmark, one video a sequence.

    Args:
        root: the folder that holds ``training`` and ``testing``.
        split: train, subtrain, subval, mini (all in ``training``) or test.
        sequences: numbers to read in place of the split's. Those of the split that have no pictures are left out.
        mode: of the poses (:func:`.oxts.camera_poses`). Parity gives no ``ignore_regions``: DontCare counts as
            background, as published.
        missing_pose: "error", or "none": frames of a sequence without oxts file have no pose.

    Returns:
        Records of all pictures (a sequence may lack some), annotated where there is a label file.

    Raises:
        UserError: nothing there, or a file is missing or broken.
    """
    if split not in SEQUENCES:
        raise UserError(f"KITTI tracking has no split '{split}': take one of {', '.join(SEQUENCES)}")
    folder = Path(root) / ("testing" if split == "test" else "training")
    records: list[Record] = []
    offset = 0
    for number in SEQUENCES[split] if sequences is None else sequences:
        pictures = _pictures(folder / "image_02" / f"{number:04d}")
        if not pictures:
            continue
        labels = folder / "label_02" / f"{number:04d}.txt"
        found = parse_labels(labels.read_text(), str(labels), tracking=True) if labels.is_file() else None
        frames = _sequence(folder, number, pictures, found, mode, missing_pose)
        offset = _shift_instances(frames, offset)
        records += frames
    if not records:
        raise UserError(
            f"{folder / 'image_02'} has no pictures of KITTI tracking '{split}': put the benchmark there, or set "
            "DETECTRON2_DATASETS to the folder that holds it"
        )
    return _numbered(records)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in _PICTURES and path.stem.isdigit())


def _sequence(
    folder: Path, number: int, pictures: list[Path], labels: Labels | None, mode: Mode, missing_pose: str
) -> list[Record]:
    calibration = read_calibration(folder / "calib" / f"{number:04d}.txt")
    oxts = folder / "oxts" / f"{number:04d}.txt"
    poses = None
    if missing_pose == "error" or oxts.is_file():
        poses = camera_poses(read_oxts(oxts), calibration.camera_from_imu, mode)
    records = []
    for path in pictures:
        index = int(path.stem)
        record = _frame(path, calibration, labels, index, mode)
        record |= {"video_id": number, "video": f"{number:04d}", "frame_index": index}
        record["timestamp"] = index / FRAMES_PER_SECOND
        if poses is not None:
            if index >= len(poses[0]):
                raise UserError(f"{oxts} ends after {len(poses[0])} frames, {path} has no pose: get the file again")
            record["pose"] = pose_record(poses[0][index], poses[1][index])
        records.append(record)
    return records


def _frame(path: Path, calibration: Calibration, labels: Labels | None, index: int, mode: Mode) -> Record:
    width, height = picture_size(path)
    record: dict[str, Any] = {
        "file_name": str(path),
        "height": height,
        "width": width,
        "camera": "image_02",
        "intrinsics": calibration.intrinsics.tolist(),
    }
    if labels is not None:
        record["annotations"] = annotations_of(labels.boxes.select(labels.frames == index), calibration.intrinsics)
        if mode == "modern":
            record["ignore_regions"] = labels.ignored[labels.ignored_frames == index].tolist()
    return record


def read_kitti_object(
    root: str | Path, *, numbers: Sequence[int] | None = None, testing: bool = False, mode: Mode = "modern"
) -> list[Record]:
    """Frame records of the object benchmark: still pictures, each a video of its own in the window of pairs.

    Args:
        root: the folder that holds ``training`` and ``testing``.
        numbers: of the pictures; default all that are there.
        testing: the pictures without labels.
        mode: as in :func:`read_kitti_tracking`.

    Returns:
        Records with the identity as pose (the published zero pose) and ``frame_index`` 0; instances number the rows.

    Raises:
        UserError: nothing there, or a file is missing or broken.
    """
    folder = Path(root) / ("testing" if testing else "training")
    pictures = _pictures(folder / "image_2")
    if numbers is not None:
        wanted = set(numbers)
        pictures = [path for path in pictures if int(path.stem) in wanted]
    if not pictures:
        raise UserError(f"{folder / 'image_2'} has no pictures of KITTI's object benchmark: put them there")
    records: list[Record] = []
    offset = 0
    for path in pictures:
        calibration = read_calibration(folder / "calib" / f"{path.stem}.txt")
        label = folder / "label_2" / f"{path.stem}.txt"
        labels = parse_labels(label.read_text(), str(label), tracking=False) if label.is_file() else None
        record = _frame(path, calibration, labels, 0, mode)
        video = f"object_{path.stem}"
        record |= {"video_id": video, "video": video, "frame_index": 0, "timestamp": 0.0}
        record["pose"] = pose_record(torch.eye(3), torch.zeros(3))
        offset = _shift_instances([record], offset)
        records.append(record)
    return _numbered(records)


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture file, from its header.

    Raises:
        UserError: it is missing or no picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path} is no picture that can be read ({error}): get the file again") from error


def _shift_instances(records: list[Record], offset: int) -> int:
    """Make instances unique over the data set; returns the first number that is free afterwards."""
    annotations = [annotation for record in records for annotation in record.get("annotations", [])]
    for annotation in annotations:
        annotation["instance_id"] += offset
    return max((annotation["instance_id"] + 1 for annotation in annotations), default=offset)


def _numbered(records: list[Record]) -> list[Record]:
    for number, record in enumerate(records):
        record["image_id"] = number
    return records
