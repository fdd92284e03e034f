"""Evaluation of a model on whole videos: tracks of every frame, a result file, scores by distance of the centres."""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import print_csv_format
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..data.datasets import ensure_registered
from ..errors import UserError
from ..evaluation import output_folder
from .data.loader import build_video_test_loader, load_frames
from .data.records import Record
from .evaluation.distance_metric import RANGES, ScoredFrame, distance_scores
from .evaluation.layouts import layout
from .evaluation.records import ResultFile, TrackedFrame, TrackingResults
from .inference.video_tracker import VideoTracker
from .ops.mode import Mode
from .ops.overlaps import iou_2d

__all__ = ["RESULT_FILE", "evaluate", "metric_names", "score_results"]

RESULT_FILE = "tracks.json"
TASK = "tracking3d"
_PERCENT = ("MOTA", "IDF1", "MT", "ML")
_COUNTS = ("IDSW", "Frag", "TP", "FP", "FN", "GT")
_WHOLE, *_PARTS = (f"{low:g}-{high:g}" for low, high in RANGES)
_SAME_BOX = 0.5  # IoU
Scores = dict[str, dict[str, dict[str, float]]]
_logger = logging.getLogger(__name__)


class _Share(NamedTuple):
    """Of one process: places in the test set, and the tracks of these frames."""

    places: list[int]
    tracked: list[TrackedFrame]


def evaluate(cfg: CfgNode, model: nn.Module) -> OrderedDict[str, dict[str, Any]]:
    """Track every video of ``DATASETS.TEST`` and score the tracks.

    Tracks go to ``OUTPUT_DIR/inference_<data set>/tracks.json``. All processes must call this, each takes whole videos;
    the model is in eval mode meanwhile.

    Returns:
        ``{data set: {"tracking3d": figures}}``, see :func:`score_results`; the same on all processes. Empty for a data
        set without annotations.

    Raises:
        UserError: no test data set, one that is missing or empty, a picture that cannot be read, a full disk.
    """
    if not cfg.DATASETS.TEST:
        raise UserError("nothing to evaluate on: DATASETS.TEST is empty")
    results: OrderedDict[str, dict[str, Any]] = OrderedDict()
    for name in cfg.DATASETS.TEST:
        records = load_frames(name)
        with inference_context(model):
            shares = comm.gather(_track(cfg, model, name, records))
        results[name] = {}
        if comm.is_main_process():
            results[name] = _finish(cfg, name, records, shares)
    return results if comm.get_world_size() == 1 else comm.all_gather(results)[0]


def _track(cfg: CfgNode, model: nn.Module, name: str, records: list[Record]) -> _Share:
    """This process's videos."""
    loader = build_video_test_loader(cfg, name, records=records)
    place = {_key(record): index for index, record in enumerate(records)}
    share = _Share([], [])
    tracker = VideoTracker(cfg, model)
    for frame, tracked in tracker.track_video(batch[0] for batch in loader):
        share.places.append(place[_key(frame)])
        fields = tracked._asdict()
        on_cpu: dict[str, Any] = {k: value.cpu() if isinstance(value, Tensor) else value for k, value in fields.items()}
        share.tracked.append(TrackedFrame(**on_cpu))
        if len(share.places) % 100 == 0:
            _logger.info("%s: %d of %d frames tracked", name, len(share.places), len(loader))
    return share


def _key(record: Record) -> tuple[Any, ...]:
    return record["video_id"], record.get("camera"), record["frame_index"]


def _joined(shares: Iterable[_Share]) -> dict[int, TrackedFrame]:
    """Tracks by place in the test set. Each process has counted its ids from 0: they become one sequence, in the order
    in which the tracks appear in the test set, whatever the number of processes."""
    numbers: dict[tuple[int, int], int] = {}
    joined = {}
    frames = [(index, rank, one) for rank, share in enumerate(shares) for index, one in zip(*share, strict=True)]
    for index, rank, one in sorted(frames, key=lambda frame: frame[0]):
        for track in sorted(one.ids.tolist()):
            numbers.setdefault((rank, track), len(numbers))
        ids = [numbers[rank, track] for track in one.ids.tolist()]
        joined[index] = one._replace(ids=torch.tensor(ids, dtype=torch.int64))
    return joined


def _finish(cfg: CfgNode, name: str, records: list[Record], shares: Iterable[_Share]) -> dict[str, Any]:
    """Write the result file and score it."""
    mode = cfg.MODEL.TRACKING3D.MODE
    tracked = _joined(shares)
    results = TrackingResults(layout(MetadataCatalog.get(name).sheet), mode)
    for index, record in enumerate(records):
        results.add(record, tracked[index])
    path = Path(output_folder(cfg, name)) / RESULT_FILE
    results.save(path)
    _logger.info("%s: %d frames tracked, see %s", name, len(records), path)
    if not any("annotations" in record for record in records):
        _logger.info("%s has no annotations: nothing is scored", name)
        return {}
    names = MetadataCatalog.get(name).thing_classes[: cfg.MODEL.ROI_HEADS.NUM_CLASSES]
    scores = {TASK: score_results(results.as_dict(), records, names, mode)}
    _logger.info("Evaluation results for %s in csv format:", name)
    print_csv_format(OrderedDict(scores))
    return scores


def score_results(results: ResultFile, records: Sequence[Record], names: Sequence[str], mode: Mode) -> dict[str, float]:
    """Figures of a result file by the distance metric (:mod:`.evaluation.distance_metric`).

    Args:
        results: of :class:`.evaluation.records.TrackingResults`.
        records: its frames with annotations, in the order in which they were added; those that say that they are no
            key frames do not count.
        names: of the model's classes.
        mode: modern scores each class for itself and leaves out tracks that lie, with most of their 2D box, in
            ``ignore_regions`` and on no annotated object (KITTI's rule for DontCare); parity pools the classes.

    Returns:
        MOTA, IDF1, MT, ML, Recall and Precision in percent; MOTP-C (metres), MOTP-O (degrees); IDSW, Frag, TP, FP, FN
        and GT; Depth (metres), DepthShare (percent of the depth) and Yaw (degrees), median errors of tracks whose 2D
        boxes are on those of objects of their class (IoU above 0.5), wherever they are in space; MOTA by distance
        (``MOTA@0-30``) and, in modern mode, by class (``MOTA-car``), percent. NaN where nothing was to be found.
    """
    records = [record for record in records if record.get("is_key_frame") is not False]
    found: list[list[dict[str, Any]]] = [[] for _ in records]
    for annotation in results["annotations"]:
        found[annotation["image_id"]].append(annotation)
    videos: dict[Any, list[tuple[ScoredFrame, ScoredFrame]]] = {}
    errors = []
    for record, tracks in zip(records, found, strict=True):
        objects = _objects(record)
        if mode == "modern":
            tracks = _on_annotated_ground(record, objects, tracks)
        pair = _scored(objects, "category_id", "yaw", "dims"), _scored(tracks, "category_id", "roty", "dimension", 1)
        videos.setdefault((record["video_id"], record.get("camera")), []).append(pair)
        errors.append(_errors(objects, tracks, pair))
    by_class = distance_scores([*videos.values()], names, mode)
    return _figures(by_class, np.concatenate(errors) if errors else np.zeros((0, 3)), names)


def _objects(record: Record) -> list[Record]:
    return [a for a in record.get("annotations", []) if not a.get("iscrowd") and not a.get("ignore")]


def _on_annotated_ground(
    record: Record, objects: Sequence[Record], tracks: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Tracks but for those in regions where nothing was annotated."""
    regions = torch.tensor(record.get("ignore_regions", []), dtype=torch.float64).reshape(-1, 4)
    if not len(regions) or not tracks:
        return tracks
    boxes = _boxes_of(tracks)
    corner = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    shared = (torch.minimum(boxes[:, None, 2:], regions[None, :, 2:]) - corner).clamp(min=0).prod(2)
    ignored = (shared > 0.5 * (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]).any(1)
    if objects:
        annotated = torch.tensor([a["bbox"] for a in objects], dtype=torch.float64)
        ignored &= ~(iou_2d(boxes, annotated) > _SAME_BOX).any(1)
    return [track for track, out in zip(tracks, ignored.tolist(), strict=True) if not out]


def _boxes_of(tracks: Sequence[dict[str, Any]]) -> Tensor:
    """xyxy, float64 ``[T, 4]``."""
    boxes = torch.tensor([track["bbox"] for track in tracks], dtype=torch.float64)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _scored(rows: Sequence[dict[str, Any]], label: str, yaw: str, dims: str, first_label: int = 0) -> ScoredFrame:
    def column(key: str, dtype: type, *width: int) -> NDArray[Any]:
        return np.array([row[key] for row in rows], dtype).reshape(len(rows), *width)

    return ScoredFrame(
        ids=column("instance_id", np.int64),
        labels=column(label, np.int64) - first_label,
        xyz=column("translation", np.float64, 3),
        yaw=column(yaw, np.float64),
        dims=column(dims, np.float64, 3),
    )


def _errors(
    objects: Sequence[Record], tracks: Sequence[dict[str, Any]], pair: tuple[ScoredFrame, ScoredFrame]
) -> NDArray[np.float64]:
    """Errors ``[P, 3]`` of depth (metres, share of the depth) and yaw (radians) of tracks that lie on objects."""
    truth, seen = pair
    if not objects or not tracks:
        return np.zeros((0, 3))
    overlap = iou_2d(torch.tensor([a["bbox"] for a in objects], dtype=torch.float64), _boxes_of(tracks)).numpy()
    overlap = np.where(truth.labels[:, None] == seen.labels[None], overlap, 0.0)
    row, column = linear_sum_assignment(-overlap)
    on = overlap[row, column] > _SAME_BOX
    row, column = row[on], column[on]
    away = np.abs(truth.xyz[row, 2] - seen.xyz[column, 2])
    turned = np.abs((truth.yaw[row] - seen.yaw[column] + np.pi) % (2 * np.pi) - np.pi)
    return np.stack((away, away / truth.xyz[row, 2], turned), 1)


def _figures(by_class: Scores, errors: NDArray[np.float64], names: Sequence[str]) -> dict[str, float]:
    whole = by_class["all"][_WHOLE]
    depth, share, yaw = np.median(errors, axis=0).tolist() if len(errors) else (float("nan"),) * 3
    figures = {
        **{key: 100 * whole[key] for key in _PERCENT},
        "Recall": 100 * whole["TP"] / whole["GT"] if whole["GT"] else float("nan"),
        "Precision": 100 * whole["TP"] / max(whole["TP"] + whole["FP"], 1),
        **{key: whole[key] for key in ("MOTP-C", "MOTP-O", *_COUNTS)},
        "Depth": depth,
        "DepthShare": 100 * share,
        "Yaw": float(np.degrees(yaw)),
    }
    figures |= {f"MOTA@{where}": 100 * by_class["all"][where]["MOTA"] for where in _PARTS}
    return figures | {f"MOTA-{name}": 100 * by_class[name][_WHOLE]["MOTA"] for name in names if name in by_class}


def metric_names(cfg: CfgNode) -> list[str]:
    """Names of the figures of :func:`evaluate` as the writers get them: ``tracking3d/MOTA``; with several data sets
    ``<data set>/tracking3d/MOTA``.

    Raises:
        UserError: a data set of ``DATASETS.TEST`` is unknown.
    """
    figures = [*_PERCENT, "Recall", "Precision", "MOTP-C", "MOTP-O", *_COUNTS, "Depth", "DepthShare", "Yaw"]
    figures += [f"MOTA@{where}" for where in _PARTS]
    ensure_registered(cfg.DATASETS.TEST)
    names = []
    for dataset in cfg.DATASETS.TEST:
        prefix = f"{dataset}/" if len(cfg.DATASETS.TEST) > 1 else ""
        classes = MetadataCatalog.get(dataset).thing_classes[: cfg.MODEL.ROI_HEADS.NUM_CLASSES]
        own = [f"MOTA-{name}" for name in classes] if cfg.MODEL.TRACKING3D.MODE == "modern" else []
        names += [f"{prefix}{TASK}/{figure}" for figure in (*figures, *own)]
    return names
