"""Ground truth and detections as flat arrays, and which detection found which object.

Matching follows COCO's protocol (cocodataset.org, "Detection evaluation"): in each image and class the detections
choose, best score first, the free object that they overlap most; crowds excuse what overlaps them. LVIS (arXiv
1908.03195, section 2.2): a class that nobody looked for in a picture is not judged there.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError

__all__ = ["Case", "Found", "Matches", "Objects", "average_precision", "box_iou", "is_federated", "make_case", "match"]

_RECALLS = np.linspace(0.0, 1.0, 101)


class Objects(NamedTuple):
    """Annotated objects, sorted by image: ``images`` int64 ``[G]`` (row of ``Case.images``), ``boxes`` float64
    ``[G, 4]`` xyxy in pixels, ``classes`` int64 ``[G]``, ``crowd`` bool ``[G]``."""

    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


class Found(NamedTuple):
    """Detections, sorted by image and then by falling score; fields as of :class:`Objects`, ``scores`` float64
    ``[D]``, ``unjudged`` bool ``[D]``: not an error if it finds no object (LVIS: not all objects of its class are
    annotated in the picture)."""

    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    unjudged: np.ndarray


class Case(NamedTuple):
    """A result to judge: ``images`` and ``categories`` are the rows of the COCO JSON file, sorted by id."""

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    objects: Objects
    found: Found

    @property
    def names(self) -> list[str]:
        """Class names."""
        return [str(category.get("name", category["id"])) for category in self.categories]

    @property
    def counts(self) -> np.ndarray:
        """Objects of each class that count, int64 ``[C]``."""
        classes = self.objects.classes[~self.objects.crowd]
        return np.bincount(classes, minlength=len(self.categories))


class Matches(NamedTuple):
    """``target`` int64 ``[D]``: the object that a detection found, -1 none; ``ignored`` bool ``[D]``: neither right
    nor wrong."""

    target: np.ndarray
    ignored: np.ndarray

    @property
    def hit(self) -> np.ndarray:
        """Bool ``[D]``."""
        return self.target >= 0


def is_federated(truth: dict[str, Any]) -> bool:
    """Whether an annotation file says which classes were looked for in each image, as LVIS does."""
    return any("neg_category_ids" in image for image in truth["images"])


def make_case(truth: dict[str, Any], detections: Sequence[dict[str, Any]], *, max_dets: int = 100) -> Case:
    """Arrays of a COCO or LVIS JSON file and of COCO results.

    Args:
        truth: content of the annotation file; ``bbox`` is x, y, width, height in pixels.
        detections: ``image_id``, ``category_id``, ``bbox``, ``score`` each. LVIS: those of classes that the image's
            annotators did not look for are dropped.
        max_dets: best detections of an image and class that count; LVIS: of an image.

    Raises:
        UserError: a detection is of an image or category that the file does not have, or no result at all.
    """
    is_lvis = is_federated(truth)
    images = sorted(truth["images"], key=lambda image: image["id"])
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    row = {image["id"]: k for k, image in enumerate(images)}
    class_of = {category["id"]: k for k, category in enumerate(categories)}
    annotations = truth.get("annotations", [])
    try:
        owner, boxes, classes = _columns(annotations, row, class_of)
        crowd = np.array([bool(item.get("iscrowd", 0)) and not is_lvis for item in annotations], bool)
        order = np.argsort(owner, kind="stable")
        objects = Objects(owner[order], boxes[order], classes[order], crowd[order])
        owner, boxes, classes = _columns(detections, row, class_of)
        scores = np.array([item["score"] for item in detections], np.float64)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"the results do not belong to this annotation file or are no COCO results ({error!r}): name the data they "
            "were made on with --data"
        ) from error
    order = np.lexsort((-scores, owner))
    found = Found(owner[order], boxes[order], classes[order], scores[order], np.zeros(len(order), bool))
    found = _only(found, _within_limit(found, max_dets, over_classes=is_lvis))
    if is_lvis:
        found = _as_lvis_judges(found, objects, images, class_of)
    return Case(images, categories, objects, found)


def _columns(
    items: Sequence[dict[str, Any]], row: dict[Any, int], class_of: dict[Any, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    owner = np.array([row[item["image_id"]] for item in items], np.int64)
    boxes = np.array([item["bbox"] for item in items], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return owner, boxes, np.array([class_of[item["category_id"]] for item in items], np.int64)


def _only(found: Found, keep: np.ndarray) -> Found:
    return Found(*(field[keep] for field in found))


def _within_limit(found: Found, max_dets: int, *, over_classes: bool) -> np.ndarray:
    """The best ``max_dets`` of each image and class, or of each image."""
    group = found.images if over_classes else found.images * (found.classes.max(initial=0) + 1) + found.classes
    order = np.argsort(group, kind="stable")
    starts = np.r_[True, np.diff(group[order]) != 0][: len(order)]
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    keep = np.zeros(len(order), bool)
    keep[order] = rank < max_dets
    return keep


def _as_lvis_judges(
    found: Found, objects: Objects, images: list[dict[str, Any]], class_of: dict[Any, int]
) -> Found:
    present = set(zip(objects.images.tolist(), objects.classes.tolist(), strict=True))

    def pairs(key: str) -> set[tuple[int, int]]:
        return {(k, class_of[c]) for k, image in enumerate(images) for c in image.get(key, ()) if c in class_of}

    checked, partly = present | pairs("neg_category_ids"), pairs("not_exhaustive_category_ids")
    where = list(zip(found.images.tolist(), found.classes.tolist(), strict=True))
    found = found._replace(unjudged=np.array([pair in partly for pair in where], bool))
    return _only(found, np.array([pair in checked for pair in where], bool))


def box_iou(first: np.ndarray, second: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """IoU ``[N, M]`` of xyxy boxes; with a ``crowd`` (bool ``[M]``) the share of the first box inside it."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.prod(first[:, 2:] - first[:, :2], axis=1)[:, None]
    union = area + np.prod(second[:, 2:] - second[:, :2], axis=1)[None] - common
    if crowd is not None:
        union = np.where(crowd[None], area, union)
    return common / np.maximum(union, 1e-12)


def rows_of_images(case: Case) -> list[tuple[slice, slice]]:
    """For each image its rows of ``found`` and of ``objects``."""
    ends = np.arange(len(case.images) + 1)
    first, second = np.searchsorted(case.found.images, ends), np.searchsorted(case.objects.images, ends)
    return [
        (slice(a, b), slice(c, d))
        for a, b, c, d in zip(first[:-1], first[1:], second[:-1], second[1:], strict=True)
    ]


def match(
    case: Case,
    iou: float = 0.5,
    *,
    may: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.equal,
) -> Matches:
    """Which detection found which object.

    Args:
        iou: least overlap.
        may: of the classes ``[D, 1]`` of detections and ``[1, G]`` of objects, which pairs may match; by default
            equal ones.
    """
    target = np.full(len(case.found.scores), -1, np.int64)
    ignored = np.zeros(len(target), bool)
    for dets, objs in rows_of_images(case):
        if dets.start == dets.stop or objs.start == objs.stop:
            continue
        crowd = case.objects.crowd[objs]
        overlap = box_iou(case.found.boxes[dets], case.objects.boxes[objs], crowd)
        allowed = may(case.found.classes[dets][:, None], case.objects.classes[objs][None])
        chosen, excused = greedy(overlap, allowed & (overlap >= min(iou, 1 - 1e-10)), crowd)
        target[dets] = np.where(chosen >= 0, chosen + objs.start, -1)
        ignored[dets] = excused
    return Matches(target, ignored | (case.found.unjudged & (target < 0)))


def greedy(overlap: np.ndarray, allowed: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In the order of rows each takes the free column that it overlaps most (the last of equals, as COCO does); what
    only fits a crowd is excused. Returns ``(column or -1, excused)``, both ``[D]``."""
    chosen = np.full(len(overlap), -1, np.int64)
    excused = np.zeros(len(overlap), bool)
    free = ~crowd
    for row in np.flatnonzero(allowed.any(axis=1)):
        usable = np.flatnonzero(allowed[row] & free)
        if len(usable):
            values = overlap[row, usable]
            chosen[row] = usable[np.flatnonzero(values == values.max())[-1]]
            free[chosen[row]] = False
        else:
            excused[row] = bool((allowed[row] & crowd).any())
    return chosen, excused


def average_precision(scores: np.ndarray, hit: np.ndarray, objects: int) -> float:
    """COCO's average precision of one class: precision, made falling, at 101 recalls.

    Args:
        scores: ``[D]``, any order; equal scores keep theirs.
        hit: bool ``[D]``.
        objects: how many there are to find; with 0 the result is NaN.

    Returns:
        In [0, 1].
    """
    if objects <= 0:
        return float("nan")
    hit = hit[np.argsort(-scores, kind="stable")]
    found = np.cumsum(hit)
    precision = found / np.arange(1, len(hit) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(found / objects, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(reached, len(hit))].mean())
