"""What a report is made from: the files of a run folder and the data set. What is missing is said, not fatal, where the
page can do without."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ...config_file import load_config
from ...data.datasets import check_files, ensure_registered
from ...errors import UserError
from ..build import output_folder
from ..proposals import PROPOSALS_FILE, StoredProposals, read_proposals
from ..result_file import read_ground_truth, read_results
from .curves import metric_rows
from .matching import is_federated

__all__ = ["Frequencies", "ReportInputs", "class_frequencies", "read_inputs", "short_name"]

_RESULTS = ("coco_instances_results.json", "lvis_instances_results.json")


class ReportInputs(NamedTuple):
    """``cfg``, ``proposals``: None if there is none; ``metrics``: rows of metrics.json, maybe none; ``truth``: content
    of the annotation file; ``detections``: COCO results; ``notes``: sentences on what is not there and how to get
    it."""

    folder: Path
    dataset: str
    results_file: Path
    image_root: Path
    cfg: CfgNode | None
    truth: dict[str, Any]
    detections: list[dict[str, Any]]
    proposals: StoredProposals | None
    metrics: list[dict[str, Any]]
    notes: list[str]


def read_inputs(folder: Path, data: str = "", results: str = "") -> ReportInputs:
    """Read a run folder.

    Args:
        folder: of the run; ``config.yaml``, ``metrics.json`` and ``proposals.npz`` may be missing.
        data: a registered name or ``JSON:IMAGE_ROOT``; '' for the data set of ``DATASETS.TEST`` that has results.
        results: COCO results; '' for those in the folder's ``inference_<dataset>``.

    Raises:
        UserError: no run folder, no results, no or unreadable annotations.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}: give OUTPUT_DIR of a run of train_net.py")
    notes: list[str] = []
    cfg = load_config(folder / "config.yaml") if (folder / "config.yaml").is_file() else None
    if cfg is None:
        notes.append(f"No config.yaml in {folder}: the summary of the config is left out (train_net.py writes one).")
    name, results_file = _data_and_results(folder, cfg, data, results)
    truth = read_ground_truth(_annotation_file(name))
    notes += _notes_on_rules(name, is_federated(truth))
    detections, left_out = read_results(results_file, truth)
    if not all("bbox" in detection for detection in detections):
        raise UserError(f"{results_file} has detections without boxes, and the report is about boxes: give it 'bbox'")
    proposals_file = results_file.with_name(PROPOSALS_FILE)
    proposals = read_proposals(str(proposals_file)) if proposals_file.is_file() else None
    if proposals is None:
        notes.append(
            f"No {PROPOSALS_FILE} beside the results: the calibration of the first stage is left out. Evaluate a "
            "two-stage model with TEST.SAVE_PROPOSALS True (train_net.py CONFIG --eval-only ...) to get it."
        )
    metrics = metric_rows(folder / "metrics.json")
    if not metrics:
        notes.append(f"No metrics.json with rows in {folder}, which a training writes: its curves are left out.")
    return ReportInputs(
        folder,
        name,
        results_file,
        Path(MetadataCatalog.get(name).get("image_root") or "."),
        cfg,
        truth,
        detections,
        proposals,
        metrics,
        [*notes, *left_out],
    )


def _notes_on_rules(dataset: str, federated: bool) -> list[str]:
    """Where the page and the evaluation of a run follow different rules."""
    asked = MetadataCatalog.get(dataset).get("evaluator_type")
    if federated and asked == "coco":
        return [
            "The annotations are LVIS's, but under this name they are COCO data: an evaluation by train_net.py, its "
            "log and metrics.json follow COCO's rules, this page LVIS's, so their AP differs."
        ]
    if not federated and asked == "lvis":
        return [
            "The annotation file does not say which classes were looked for in each picture (neg_category_ids), so "
            "this page follows COCO's rules and not LVIS's."
        ]
    return []


def short_name(dataset: str) -> str:
    """A data set's name; of ``coco_json:JSON:IMAGE_ROOT`` the JSON file's."""
    return Path(dataset.split(":")[-2]).name if dataset.startswith("coco_json:") else dataset


def _annotation_file(dataset: str) -> str:
    """The images need not be there."""
    json_file = MetadataCatalog.get(dataset).get("json_file")
    if not json_file:
        raise UserError(f"dataset '{dataset}' has no COCO JSON file, which the report needs: give --data JSON:ROOT")
    if not Path(json_file).is_file():
        check_files(dataset)  # says how to get it
    return str(json_file)


def _data_and_results(folder: Path, cfg: CfgNode | None, data: str, results: str) -> tuple[str, Path]:
    names = [_dataset_name(data)] if data else list(cfg.DATASETS.TEST) if cfg else []
    if not names:
        raise UserError(f"{folder} does not tell which data it was evaluated on: name them with --data")
    ensure_registered(names)
    if results:
        if not Path(results).is_file():
            raise UserError(f"there is no results file {results}: give the JSON file that an evaluation wrote")
        return names[0], Path(results)
    for name in names:
        if found := _results_file(folder, name):
            return name, found
    raise UserError(
        f"{folder} has no results on {', '.join(names)}: evaluate with train_net.py CONFIG --eval-only "
        "MODEL.WEIGHTS FILE, or give --results FILE"
    )


def _results_file(folder: Path, name: str) -> Path | None:
    # the run may have been moved: OUTPUT_DIR of its config is not asked
    here = CfgNode({"OUTPUT_DIR": str(folder)})
    inference = Path(output_folder(here, name))
    return next((inference / file for file in _RESULTS if (inference / file).is_file()), None)


def _dataset_name(data: str) -> str:
    if data in DatasetCatalog.list() or data.startswith("coco_json:") or ":" not in data:
        return data
    return f"coco_json:{data}"


class Frequencies(NamedTuple):
    """``counts`` int64 ``[C]``; ``unit``: what they count, and where; ``groups``: 'rare', 'common' or 'frequent' of
    each class (LVIS), or None."""

    counts: np.ndarray
    unit: str
    groups: list[str] | None


def class_frequencies(inputs: ReportInputs) -> Frequencies:
    """How often each class occurs in training; in the judged data themselves if the training data are not there."""
    categories = sorted(inputs.truth["categories"], key=lambda category: category["id"])
    if categories and all("image_count" in category for category in categories):  # LVIS
        counts = np.array([category["image_count"] for category in categories], np.int64)
        groups = ["rare" if n <= 10 else "common" if n <= 100 else "frequent" for n in counts.tolist()]
        named = {"r": "rare", "c": "common", "f": "frequent"}
        if all(category.get("frequency") in named for category in categories):  # the groups that are scored
            groups = [named[category["frequency"]] for category in categories]
        return Frequencies(counts, "images (as the annotation file counts them)", groups)
    names = Counter[str]()
    for dataset in inputs.cfg.DATASETS.TRAIN if inputs.cfg else ():
        names.update(_boxes_by_name(dataset))
    if names:
        counts = np.array([names[str(category["name"])] for category in categories], np.int64)
        return Frequencies(counts, "training boxes", None)
    ids = Counter(annotation["category_id"] for annotation in inputs.truth["annotations"])
    counts = np.array([ids[category["id"]] for category in categories], np.int64)
    return Frequencies(counts, "boxes in these data (the training data are not there)", None)


def _boxes_by_name(dataset: str) -> Counter[str]:
    try:
        ensure_registered([dataset])
        truth = read_ground_truth(_annotation_file(dataset))
    except UserError:
        return Counter()
    name_of = {category["id"]: str(category.get("name", category["id"])) for category in truth["categories"]}
    return Counter(name_of.get(annotation["category_id"], "") for annotation in truth["annotations"])
