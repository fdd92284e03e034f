"""One table per data set: what the published models were trained and run with.

Source: QD-3DT (arXiv 2103.07351), its configurations as of 2024. Rows are looked up by :func:`sheet`.
"""

from dataclasses import dataclass, field

from ...errors import UserError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

PAIR_WINDOW = 3
"""A reference is at most this many frames of its camera before or after the key."""

KITTI_CLASSES = ("pedestrian", "cyclist", "car", "truck", "tram", "misc")
NUSCENES_CLASSES = (
    "bicycle",
    "motorcycle",
    "pedestrian",
    "bus",
    "car",
    "trailer",
    "truck",
    "construction_vehicle",
    "traffic_cone",
    "barrier",
    "ignore",
)
WAYMO_CLASSES = ("pedestrian", "cyclist", "car", "dontcare")
SYNTHETIC_CLASSES = ("pedestrian", "cyclist", "car", "truck")


@dataclass(frozen=True)
class DatasetSheet:
    """Constants of a data set and of the published training on it.

    Attributes:
        name: of the row.
        classes: foreground classes in the order of their 0-based ids.
        backbone, neck: of the published model.
        anchor_scales: multiples of the stride.
        max_size, min_size: bounds of the longer and the shorter side after resizing, pixels.
        pixel_mean, pixel_std: of RGB pixels in 0 ... 255.
        pairs_per_gpu, gpus: of the published training; None where unknown.
        base_lr, epochs, steps, gamma, warmup_factor: schedule; steps in epochs; warm-up of 1000 iterations.
        initial_weights: what training starts from.
        cameras: of a scene.
        train_hz, test_hz: frames a second of one camera; None where unknown.
        init_score_threshold, duplicate_iou: of the tracker, where they differ between data sets.
        submission_score: "score" or "score*confidence".
        merge_radius: metres within which boxes of one class from two cameras are one, by class; key "" for the others.
        published_merge_radius: the same as published, with the class mix-up of Waymo.
    """

    name: str
    classes: tuple[str, ...]
    backbone: str = "R101"
    neck: str = "FPN"
    anchor_scales: tuple[int, ...] = (4, 8)
    anchor_ratios: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    max_size: int = 1600
    min_size: int = 900
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    pairs_per_gpu: int = 4
    gpus: int | None = None
    base_lr: float = 0.01
    epochs: int = 24
    steps: tuple[int, ...] = (16, 22)
    gamma: float = 0.1
    warmup_factor: float = 0.1
    initial_weights: str = "ImageNet"
    cameras: int = 1
    train_hz: float | None = None
    test_hz: float | None = None
    init_score_threshold: float = 0.8
    duplicate_iou: float = 0.7
    submission_score: str = "score"
    merge_radius: dict[str, float] = field(default_factory=dict)
    published_merge_radius: dict[str, float] = field(default_factory=dict)


_HALVINGS = (8, 12, 16, 20, 22)

SHEETS = {
    row.name: row
    for row in (
        DatasetSheet(
            "nuscenes",
            NUSCENES_CLASSES,
            pixel_mean=(106.07, 127.705, 128.08),  # looks like BGR statistics; used on RGB as published
            pixel_std=(73.458, 70.129, 70.463),
            gpus=8,
            cameras=6,
            train_hz=2,
            test_hz=12,
            submission_score="score*confidence",
            merge_radius={"pedestrian": 1.0, "": 2.0},
            published_merge_radius={"pedestrian": 1.0, "": 2.0},
        ),
        DatasetSheet(
            "waymo",
            WAYMO_CLASSES,
            max_size=1280,
            min_size=854,
            pairs_per_gpu=2,
            gpus=8,
            base_lr=0.005,
            steps=_HALVINGS,
            gamma=0.5,
            cameras=5,
            train_hz=10,
            test_hz=10,
            submission_score="score*confidence",
            merge_radius={"pedestrian": 1.0, "": 2.0},
            published_merge_radius={"car": 1.0, "": 2.0},
        ),
        DatasetSheet(
            "kitti",
            KITTI_CLASSES,
            backbone="DLA34",
            neck="DLAUp",
            anchor_scales=(2, 4, 8, 16),
            max_size=1485,
            min_size=448,
            pairs_per_gpu=2,
            gpus=4,
            base_lr=0.005,
            initial_weights="gta_dla34",
            train_hz=10,
            test_hz=10,
            init_score_threshold=0.5,
            duplicate_iou=0.8,
        ),
        DatasetSheet(
            "gta_r101", KITTI_CLASSES, max_size=1920, min_size=1088, pairs_per_gpu=3, steps=_HALVINGS, gamma=0.5
        ),
        DatasetSheet(
            "gta_dla34",
            KITTI_CLASSES,
            backbone="DLA34",
            neck="DLAUp",
            max_size=1920,
            min_size=1088,
            pairs_per_gpu=3,
            epochs=12,
            steps=(8, 11),
            warmup_factor=0.001,
        ),
        DatasetSheet(
            "synthetic3d", SYNTHETIC_CLASSES, max_size=448, min_size=192, pairs_per_gpu=8, train_hz=10, test_hz=10
        ),
    )
}


def sheet(name: str) -> DatasetSheet:
    """The row ``name`` of the table.

    Raises:
        UserError: there is none.
    """
    if name not in SHEETS:
        raise UserError(f"there is no data set sheet '{name}': take one of {', '.join(SHEETS)}")
    return SHEETS[name]
