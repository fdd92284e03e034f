"""The rules of a benchmark: thresholds, object sizes, how many detections count.

Source: the parameters of pycocotools 2.0 (COCO) and of lvis 0.5 (Gupta et al., LVIS, 2019, section 4: federated
ground truth).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import UserError

__all__ = ["TASKS", "Protocol", "coco_protocol", "lvis_protocol"]

TASKS = ("bbox", "segm", "keypoints")
_SMALL, _MEDIUM, _LARGE = (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e5**2)
_COCO_SIGMAS = (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89)


def _thresholds(first: float, last: float, count: int) -> np.ndarray:
    return np.linspace(first, last, count, endpoint=True)


@dataclass(frozen=True)
class Protocol:
    """Parameters of a benchmark.

    Attributes:
        task: 'bbox', 'segm' (overlap of masks) or 'keypoints' (object keypoint similarity).
        max_dets: rising limits on detections per image *and category*; the last one is that of AP.
        max_dets_per_image: limit on detections per image over all categories; None: none.
        areas: name -> closed interval of object areas in square pixels; the first holds every object.
        federated: LVIS: a detection counts only where the image says whether its category is there, a false one
            does not count where the category is not exhaustively annotated, objects and detections without area
            are left out, and no object is a crowd.
        sigmas: float64 ``[keypoints]``: standard deviations of the keypoints, as fractions of the object's size.
        iou_thresholds, recall_thresholds: float64 ``[10]`` from 0.5 to 0.95, float64 ``[101]`` from 0 to 1.
    """

    task: str
    max_dets: tuple[int, ...]
    max_dets_per_image: int | None
    areas: dict[str, tuple[float, float]]
    federated: bool = False
    sigmas: np.ndarray = field(default_factory=lambda: np.array(_COCO_SIGMAS) / 10.0)
    iou_thresholds: np.ndarray = field(default_factory=lambda: _thresholds(0.5, 0.95, 10))
    recall_thresholds: np.ndarray = field(default_factory=lambda: _thresholds(0.0, 1.0, 101))

    @property
    def area_ranges(self) -> np.ndarray:
        """Lower and upper limits: float64 ``[A, 2]``."""
        return np.array(list(self.areas.values()), dtype=np.float64)


def coco_protocol(task: str, max_dets: Sequence[int] | None = None, sigmas: Sequence[float] = ()) -> Protocol:
    """COCO's rules.

    Args:
        task: one of :data:`TASKS`.
        max_dets: limits on detections per image and category; default 1, 10, 100, and 20 for keypoints.
        sigmas: of the keypoints; default those of COCO's 17.

    Raises:
        UserError: another task.
    """
    if task not in TASKS:
        raise UserError(f"unknown evaluation task '{task}': choose one of {', '.join(TASKS)}")
    areas = {"all": (0.0, 1e5**2), "small": _SMALL, "medium": _MEDIUM, "large": _LARGE}
    if task == "keypoints":
        del areas["small"]
    default = (20,) if task == "keypoints" else (1, 10, 100)
    protocol = Protocol(task, tuple(sorted(max_dets or default)), None, areas)
    return replace(protocol, sigmas=np.asarray(sigmas, dtype=np.float64)) if len(sigmas) else protocol


def lvis_protocol(task: str, max_dets: int | None = None) -> Protocol:
    """LVIS's rules.

    Args:
        task: 'bbox' or 'segm'.
        max_dets: limit on detections per image; default 300.

    Raises:
        UserError: another task.
    """
    if task not in ("bbox", "segm"):
        raise UserError(f"LVIS has no evaluation task '{task}': choose bbox or segm")
    limit = max_dets or 300
    areas = {"all": (0.0, 1e5**2), "small": _SMALL, "medium": _MEDIUM, "large": _LARGE}
    return Protocol(task, (limit,), limit, areas, federated=True)
