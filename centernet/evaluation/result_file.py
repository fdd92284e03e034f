"""Scores of detections that are in a file, without a model: COCO's result format."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from ..data.datasets import ensure_registered
from ..errors import UserError
from .coco import Detections, complete_annotations, score_detections
from .columns import places
from .lvis import check_lvis, score_lvis_detections
from .protocol import TASKS
from .scores import Scores

__all__ = ["FileScores", "read_ground_truth", "read_results", "score_result_file"]

FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


@dataclass(frozen=True)
class FileScores:
    """Scores of a result file.

    Attributes:
        rules: 'COCO' or 'LVIS'.
        class_names: by rising category id.
        objects: annotations of each class, in the same order, int64 ``[K]``.
        scores: by task.
        notes: one sentence each about what was left out or looks wrong.
    """

    rules: str
    class_names: list[str]
    objects: np.ndarray
    scores: dict[str, Scores]
    notes: list[str]

    def metrics(self) -> dict[str, dict[str, float]]:
        """Percent by task and figure, NaN: not defined; see ``Scores.metrics``."""
        return {task: scores.metrics(self.class_names) for task, scores in self.scores.items()}

    def as_json(self) -> dict[str, Any]:
        """Figures and every class's AP, AP50, AP75, AR and number of objects; percent, None: not defined."""
        classes = {task: self._classes(scores) for task, scores in self.scores.items()}
        figures = {
            task: {name: _or_none(value) for name, value in figures.items()} for task, figures in self.metrics().items()
        }
        return {"rules": self.rules, "notes": self.notes, "metrics": figures, "classes": classes}

    def _classes(self, scores: Scores) -> list[dict[str, Any]]:
        each = scores.per_class()
        return [
            {"id": number, "name": name, "objects": int(self.objects[place])}
            | {figure: None if each[figure][place] < 0 else 100 * float(each[figure][place]) for figure in each}
            for place, (number, name) in enumerate(zip(scores.category_ids.tolist(), self.class_names, strict=True))
        ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def score_result_file(data: str, results: str | Path, *, lvis: bool = False) -> FileScores:
    """Score a result file.

    Boxes are scored, masks and keypoints too where the file has them. Left out and counted in the notes: detections
    with a number that is not finite and those of categories that the data do not have.

    Args:
        data: a registered dataset, ``JSON`` or ``JSON:IMAGE_FOLDER`` (the folder is not looked at).
        results: path of a list of COCO results.
        lvis: LVIS's rules; always for datasets that are registered with them.

    Raises:
        UserError: see :func:`read_ground_truth` and :func:`read_results`.
    """
    path, wants_lvis = _annotation_file(data)
    lvis = lvis or wants_lvis
    truth = read_ground_truth(path)
    detections, notes = read_results(Path(results), truth)
    tasks = [task for task in TASKS if any(FIELDS[task] in item for item in detections)] or ["bbox"]
    if lvis:
        check_lvis(truth)
        tasks = [task for task in tasks if task != "keypoints"] or tasks
    elif any("neg_category_ids" in image for image in truth["images"][:1]):
        notes.append("The annotations are LVIS's, scored by COCO's rules here: ask for LVIS's with --lvis")
    score: Callable[..., Scores] = score_lvis_detections if lvis else score_detections
    scores = {}
    for task in tasks:
        _check_field(detections, FIELDS[task], results)
        try:
            scores[task] = score(truth, detections, task)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{results} or {path} cannot be scored as {task}: {_reason(error)}") from error
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    place = places([item["category_id"] for item in truth["annotations"]], np.array([c["id"] for c in categories]))
    objects = np.bincount(place[place >= 0], minlength=len(categories))
    return FileScores("LVIS" if lvis else "COCO", [str(c["name"]) for c in categories], objects, scores, notes)


def _annotation_file(data: str) -> tuple[str, bool]:
    """Path of the annotations and whether the dataset is registered with LVIS's rules."""
    data = data.removeprefix("coco_json:")
    for path in (data, data.rpartition(":")[0]):
        if path and Path(path).is_file():
            return path, False
    if data.partition(":")[0].endswith(".json"):
        raise UserError(f"there is no annotation file {data}")
    ensure_registered([data])
    metadata = MetadataCatalog.get(data)
    path = metadata.get("json_file")
    if not path or not Path(path).is_file():
        how = metadata.get("how_to_get") or "name an annotation file instead"
        raise UserError(f"dataset '{data}' has no annotation file {path or ''}: {how}")
    return path, metadata.get("evaluator_type") == "lvis"


def read_ground_truth(path: str) -> dict[str, Any]:
    """A COCO or LVIS annotation file, each annotation with ``area`` and ``iscrowd``.

    Raises:
        UserError: the file is no such file, or has no images, categories or annotations.
    """
    content = _read_json(Path(path))
    for part in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or not content.get(part):
            raise UserError(f"{path} cannot be scored against, since it has no {part}")
    try:
        complete_annotations(content)
        for part, keys in (("images", ["id"]), ("categories", ["id", "name"])):
            [[entry[key] for key in keys] for entry in content[part]]
        [(item["image_id"], item["category_id"]) for item in content["annotations"]]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a COCO annotation file: {_reason(error)}") from error
    return content


def read_results(path: Path, truth: dict[str, Any]) -> tuple[Detections, list[str]]:
    """The usable detections of a file, and a sentence about each kind of others.

    Raises:
        UserError: the file is not JSON or not a list, an entry is no detection, an image id is not in ``truth``, or
        none of the categories is.
    """
    content = _read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} must be a list of detections, [{{...}}, ...], and is a {type(content).__name__}")
    if not content:
        return [], [f"{path} has no detections: every class that has objects scores 0"]
    for place, item in enumerate(content):
        problem = _problem(item)
        if problem:
            raise UserError(f"{path}: detection {place} {problem}")
    notes: list[str] = []
    _check_images(content, truth, path)
    detections = _keep(content, _finite(content), "with a number that is not finite in box or score", notes)
    known = np.unique(np.array([category["id"] for category in truth["categories"]]))
    has_category = places([item["category_id"] for item in detections], known) >= 0
    if detections and not has_category.any():
        raise UserError(
            f"no detection of {path} has a category id of the data (the first has {detections[0]['category_id']!r}, "
            f"the data have {known[0]} to {known[-1]}): write the ids of the annotation file, not class numbers"
        )
    detections = _keep(detections, has_category, "of categories that the data do not have", notes)
    return detections, notes


def _problem(item: Any) -> str:
    """What is wrong with an entry of a result file; '' if nothing."""
    if not isinstance(item, dict):
        return f"is a {type(item).__name__} and not an object {{...}}"
    for key in ("image_id", "category_id", "score"):
        if key not in item:
            return f"has no '{key}'"
    if not _is_number(item["score"]):
        return f"has a score that is no number: {item['score']!r}"
    for key in ("image_id", "category_id"):
        if not isinstance(item[key], int | str | float) or isinstance(item[key], bool):
            return f"has a '{key}' that is no id: {item[key]!r}"
    box = item.get("bbox")
    if "bbox" in item and not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        return f"has a 'bbox' that is not four numbers x, y, width, height: {str(box)[:80]}"
    if not any(field in item for field in FIELDS.values()):
        return "has neither 'bbox' nor 'segmentation' nor 'keypoints'"
    return ""


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float)


def _check_images(detections: Detections, truth: dict[str, Any], path: Path) -> None:
    known = {image["id"] for image in truth["images"]}
    unknown = [item["image_id"] for item in detections if item["image_id"] not in known]
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(detections)} detections of {path} are on images that the data do not have, the "
            f"first on image id {unknown[0]!r}: name the data that the results were made from"
        )


def _check_field(detections: Detections, field: str, results: str | Path) -> None:
    missing = sum(field not in item for item in detections)
    if missing:
        raise UserError(
            f"{missing} of {len(detections)} detections of {results} have no '{field}' and others do: give it to all"
        )


def _finite(detections: Detections) -> np.ndarray:
    """Whether score and box are finite: bool ``[N]``."""
    numbers = np.fromiter((item["score"] for item in detections), dtype=np.float64, count=len(detections))
    boxes = chain.from_iterable(item.get("bbox", (0, 0, 0, 0)) for item in detections)
    box_numbers = np.fromiter(boxes, dtype=np.float64, count=4 * len(detections)).reshape(-1, 4)
    return np.isfinite(numbers) & np.isfinite(box_numbers).all(axis=1)


def _keep(detections: Detections, which: np.ndarray, what: str, notes: list[str]) -> Detections:
    if which.all():
        return detections
    notes.append(f"Left out: {int((~which).sum())} of {len(detections)} detections {what}")
    return [item for item, good in zip(detections, which.tolist(), strict=True) if good]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {' '.join(str(error).split())[:120]}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:120]
    return f"key {text} is missing" if isinstance(error, KeyError) else text
