"""Names of the wing's data sets in detectron2's catalogs; nothing is read before the first use.

Folders under ``DETECTRON2_DATASETS`` (default ``datasets``): ``nuscenes``, ``nuscenes_mini``, ``kitti`` (``tracking``
and ``object``), ``waymo`` and ``synthetic3d``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...data.datasets import data_root
from ...errors import UserError
from .coco_vid import read_coco_vid
from .constants import SHEETS
from .kitti import SEQUENCES, read_kitti_object, read_kitti_tracking
from .nuscenes import read_nuscenes
from .records import Record
from .synthetic import ANNOTATIONS
from .waymo import read_waymo

EVALUATOR = "tracking3d"


def register_frames(name: str, read: Callable[[], list[Record]], sheet: str, **metadata: object) -> None:
    """Register frame records under ``name``; a name that is taken is left as it is.

    Args:
        name: for ``DATASETS.TRAIN`` / ``DATASETS.TEST``.
        read: gives the records.
        sheet: row of :data:`.constants.SHEETS` whose classes hold.
        metadata: more for detectron2's catalog.
    """
    if name in DatasetCatalog.list():
        return
    DatasetCatalog.register(name, read)
    classes = list(SHEETS[sheet].classes)
    MetadataCatalog.get(name).set(thing_classes=classes, evaluator_type=EVALUATOR, sheet=sheet, **metadata)


def register_coco_vid(name: str, json_file: str, image_root: str, sheet: str) -> None:
    """Register a COCO-with-videos JSON, such as the published converters write."""
    classes = SHEETS[sheet].classes
    register_frames(name, lambda: read_coco_vid(json_file, image_root, classes), sheet)


def register_all(root: Callable[[], str] = data_root) -> None:
    """Register every data set of the wing; harmless when repeated.

    Args:
        root: the folder of all data sets, asked for at first use.
    """
    _register_nuscenes(root)
    _register_kitti(root)
    for split in ("train", "val"):
        register_frames(
            f"waymo_{split}",
            lambda split=split: _waymo(Path(root()) / "waymo", split),  # type: ignore[misc]
            "waymo",
            split=split,
        )
        register_frames(
            f"synthetic3d_{split}",
            lambda split=split: _synthetic(Path(root()) / "synthetic3d" / split),  # type: ignore[misc]
            "synthetic3d",
            split=split,
        )


def _register_nuscenes(root: Callable[[], str]) -> None:
    for split in ("train", "val", "test", "mini_train", "mini_val"):
        folder = "nuscenes_mini" if split.startswith("mini") else "nuscenes"
        for suffix, keyframes in (("", True), ("_full_frames", False)):
            register_frames(
                f"nuscenes_{split}{suffix}",
                lambda split=split, folder=folder, keyframes=keyframes: read_nuscenes(  # type: ignore[misc]
                    Path(root()) / folder, split, keyframes_only=keyframes, require_pictures=split.startswith("mini")
                ),
                "nuscenes",
                split=split,
                folder=folder,
            )


def _register_kitti(root: Callable[[], str]) -> None:
    for split in SEQUENCES:
        register_frames(
            f"kitti_tracking_{split}",
            lambda split=split: read_kitti_tracking(Path(root()) / "kitti" / "tracking", split),  # type: ignore[misc]
            "kitti",
            split=split,
        )
    register_frames("kitti_object_train", lambda: read_kitti_object(Path(root()) / "kitti" / "object"), "kitti")


def _waymo(folder: Path, split: str) -> list[Record]:
    name = {"train": "training", "val": "validation"}[split]
    files: Sequence[Path] = sorted((folder / name).glob("*.tfrecord"))
    if not files:
        raise UserError(
            f"{folder / name} holds no .tfrecord files: put segments of the Waymo Open Dataset (perception, v1) there"
        )
    return read_waymo(files, folder / "pictures" / name)


def _synthetic(folder: Path) -> list[Record]:
    if not (folder / ANNOTATIONS).is_file():
        raise UserError(f"{folder / ANNOTATIONS} is not there: run `python tools/make_synthetic3d.py`")
    return read_coco_vid(folder / ANNOTATIONS, folder, SHEETS["synthetic3d"].classes)
