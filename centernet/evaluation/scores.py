"""Scores of one task: the curves, the figures that are made of them, and the table."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .accumulation import Curves
from .protocol import Protocol

__all__ = ["Scores"]


@dataclass(frozen=True)
class Scores:
    """Result of ``score_detections`` and ``score_lvis_detections``.

    The axes of all curves: ``T`` thresholds of overlap, ``R`` recall thresholds, ``K`` categories (by rising id),
    ``A`` ranges of areas, ``M`` limits on detections.

    Attributes:
        protocol: thresholds, ranges and limits.
        image_ids, category_ids: what was scored, rising.
        curves: ``precision``, ``recall``, ``scores``.
        frequency_groups: LVIS: places of the rare ('r'), common ('c') and frequent ('f') categories.
    """

    protocol: Protocol
    image_ids: np.ndarray
    category_ids: np.ndarray
    curves: Curves
    frequency_groups: dict[str, np.ndarray] | None = None

    @property
    def eval(self) -> dict[str, Any]:
        """Under pycocotools' names: 'precision' and 'scores' ``[T, R, K, A, M]``, 'recall' ``[T, K, A, M]``."""
        counts = list(self.curves.precision.shape)
        return {**vars(self.curves), "counts": counts}

    @property
    def stats(self) -> np.ndarray:
        """Figures in [0, 1] in pycocotools' order, -1: not defined.

        Boxes and masks (12 for three limits): AP, AP50, AP75, AP by size, AR by limit, AR by size. Keypoints (10):
        AP, AP50, AP75, AP by size, AR, AR50, AR75, AR by size.
        """
        sizes = list(self.protocol.areas)[1:]
        precision = [self.precision(), self.precision(0.5), self.precision(0.75)]
        precision += [self.precision(area=size) for size in sizes]
        if self.protocol.task == "keypoints":
            recall = [self.recall(), self.recall(0.5), self.recall(0.75)]
        else:
            recall = [self.recall(max_dets=limit) for limit in self.protocol.max_dets]
        recall += [self.recall(area=size) for size in sizes]
        return np.array(precision + recall)

    def precision(self, iou: float | None = None, area: str = "all", categories: np.ndarray | None = None) -> float:
        """Mean precision over recall thresholds and categories, in [0, 1]; -1: not defined.

        Args:
            iou: at this threshold of overlap; None: mean over all.
            area: name of a range of areas.
            categories: places of the categories that count, int64; None: all.
        """
        values = self.curves.precision[self._thresholds(iou), :, :, self._area(area), -1]
        return _mean(values if categories is None else values[:, :, categories])

    def recall(self, iou: float | None = None, area: str = "all", max_dets: int | None = None) -> float:
        """Mean recall over categories, in [0, 1]; -1: not defined.

        Args:
            iou: at this threshold of overlap; None: mean over all.
            area: name of a range of areas.
            max_dets: one of the protocol's limits; None: the last.
        """
        limit = -1 if max_dets is None else self.protocol.max_dets.index(max_dets)
        return _mean(self.curves.recall[self._thresholds(iou), :, self._area(area), limit])

    def metrics(self, class_names: list[str] | None = None) -> dict[str, float]:
        """Everything in percent; NaN: not defined.

        Names are those of detectron2 and lvis: AP, AP50, AP75, APs, APm, APl, for LVIS APr, APc, APf; AR@1, AR@10,
        AR@100 (LVIS: AR@300, keypoints: AR@20), ARs@100, ...; then ``AP-<class>`` if there is more than one class.

        Args:
            class_names: in the order of ``category_ids``.
        """
        sizes = list(self.protocol.areas)[1:]
        last = self.protocol.max_dets[-1]
        values = {"AP": self.precision(), "AP50": self.precision(0.5), "AP75": self.precision(0.75)}
        values |= {f"AP{size[0]}": self.precision(area=size) for size in sizes}
        for name, places in (self.frequency_groups or {}).items():
            values[f"AP{name}"] = self.precision(categories=places)
        values |= {f"AR@{limit}": self.recall(max_dets=limit) for limit in self.protocol.max_dets}
        values |= {f"AR{size[0]}@{last}": self.recall(area=size) for size in sizes}
        if class_names is not None and len(class_names) > 1:
            each = self.per_class()
            values |= {f"AP-{name}": value for name, value in zip(class_names, each["AP"], strict=True)}
        return {name: _percent(value) for name, value in values.items()}

    def per_class(self) -> dict[str, np.ndarray]:
        """AP, AP50, AP75 and AR of each category, float64 ``[K]`` in [0, 1]; -1: it has no objects."""
        precision, recall = self.curves.precision[..., 0, -1], self.curves.recall[..., 0, -1]
        names = {"AP": None, "AP50": 0.5, "AP75": 0.75}
        columns = {name: precision[self._thresholds(iou)] for name, iou in names.items()}
        kinds = range(len(self.category_ids))
        each = {name: np.array([_mean(values[:, :, k]) for k in kinds]) for name, values in columns.items()}
        return {**each, "AR": np.array([_mean(recall[:, k]) for k in kinds])}

    def _thresholds(self, iou: float | None) -> slice:
        if iou is None:
            return slice(None)
        place = int(np.flatnonzero(np.isclose(self.protocol.iou_thresholds, iou))[0])
        return slice(place, place + 1)

    def _area(self, name: str) -> int:
        return list(self.protocol.areas).index(name)


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def _percent(value: float) -> float:
    return float("nan") if value < 0 else 100 * float(value)
