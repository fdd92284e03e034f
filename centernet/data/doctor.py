"""The dataset doctor: everything that is known to spoil a training, looked for before it starts.

An *error* would break the training or make its score meaningless; a *warning* is worth a look; a *note* is a fact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from .datasets import check_files, class_names, ensure_registered
from .doctor_images import Fingerprint, fingerprints, near_pairs, same_groups
from .doctor_sizes import Sizes, measure_sizes
from .joining import join_sources
from .readers import KINDS, Problems, Record, Source, expand_lists, read_sources
from .readers.coco import read_coco_json
from .readers.source import part_of

__all__ = ["Finding", "Report", "examine", "examine_data", "examine_registered"]

_LEVELS = ("error", "warning", "note")
_SAME_BOX = 1e-3  # pixels
Progress = Callable[[int, int], None]


class Finding(NamedTuple):
    """Something that was found: ``level`` 'error', 'warning' or 'note', what it is, and where, one entry each."""

    level: str
    what: str
    where: list[str]


@dataclass
class Report:
    """What :func:`examine` found.

    Attributes:
        title: what was examined.
        classes: names.
        parts: 'train' and 'val' -> dataset dicts.
        findings: errors first.
        boxes, images: part -> int [classes], how many boxes and images each class has (crowds are not counted).
        sizes: of the objects of all parts.
    """

    title: str
    classes: list[str]
    parts: dict[str, list[Record]]
    findings: list[Finding]
    boxes: dict[str, np.ndarray]
    images: dict[str, np.ndarray]
    sizes: Sizes

    def count(self, level: str) -> int:
        """Number of findings of one level."""
        return sum(finding.level == level for finding in self.findings)


def examine_data(paths: Sequence[str], cfg: CfgNode, *, progress: Progress | None = None) -> Report:
    """Examine what ``train_net.py --data`` would read.

    Raises:
        UserError: nothing can be read at all.
    """
    problems = Problems()
    sources = [source for path in expand_lists(paths) for source in read_sources(path, problems)]
    return examine(", ".join(paths), sources, problems, cfg, progress=progress)


def examine_registered(names: Sequence[str], cfg: CfgNode, *, progress: Progress | None = None) -> Report:
    """Examine registered data sets and ``coco_json:`` names; those with 'val' or 'test' in their name are validation.

    Raises:
        UserError: a name is unknown, its files are missing, or nothing in them can be used.
    """
    problems = Problems()
    ensure_registered(names)
    sources = [_registered(name, problems) for name in names]
    return examine(", ".join(names), sources, problems, cfg, progress=progress)


def _registered(name: str, problems: Problems) -> Source:
    check_files(name)
    metadata = MetadataCatalog.get(name)
    file = Path(metadata.get("json_file") or name)
    said = part_of(file.stem) or part_of(file.parent.name) if name.startswith("coco_json:") else part_of(name)
    part = "val" if said in ("val", "test") else "train"
    if metadata.get("json_file") and metadata.get("evaluator_type") in ("coco", "lvis"):
        root = Path(metadata.image_root)
        return read_coco_json(file, problems, part=part, image_root=root)
    source = Source(Path(name), "registered", class_names(name) or [], declared=True)
    source.parts[part] = [_as_record(record) for record in DatasetCatalog.get(name)]
    if not source.classes:
        largest = max((e["category_id"] for r in source.parts[part] for e in r["annotations"]), default=-1)
        source.classes = [str(number) for number in range(largest + 1)]
    return source


def _as_record(record: dict[str, Any]) -> Record:
    """A dataset dict of any loader with boxes XYXY and the keys that may be left out."""
    annotations = []
    for entry in record.get("annotations", ()):
        box = BoxMode.convert(list(entry["bbox"]), BoxMode(entry["bbox_mode"]), BoxMode.XYXY_ABS)
        annotations.append({**entry, "bbox": box, "iscrowd": entry.get("iscrowd", 0)})
    return {**record, "name": Path(record["file_name"]).name, "annotations": annotations}


def examine(
    title: str, sources: list[Source], problems: Problems, cfg: CfgNode, *, progress: Progress | None = None
) -> Report:
    """Examine sources that were read.

    Args:
        title: names them for the user.
        problems: what reading them brought up.
        cfg: ``INPUT`` and ``MODEL.CENTERNET`` say how large objects are for the model.
        progress: called with (images decoded, images in all).
    """
    joined = join_sources(sources, problems)
    parts = {"train": joined.train, "val": joined.val}
    findings = [
        Finding("error" if KINDS[kind].error else "note", f"{KINDS[kind].what} ({KINDS[kind].remedy})", list(names))
        for kind, names in problems.found.items()
    ]
    findings += _pixel_findings(parts, progress)
    findings += _box_findings(parts)
    counts = {part: _class_counts(records, len(joined.classes)) for part, records in parts.items()}
    boxes = {part: count[0] for part, count in counts.items()}
    findings += _class_findings(joined.classes, parts, boxes)
    sizes = measure_sizes(cfg, joined.train + joined.val)
    findings += [Finding(advice.level, advice.text, []) for advice in sizes.advice]
    findings.sort(key=lambda finding: _LEVELS.index(finding.level))
    images = {part: count[1] for part, count in counts.items()}
    return Report(title, joined.classes, parts, findings, boxes, images, sizes)


def _pixel_findings(parts: dict[str, list[Record]], progress: Progress | None) -> list[Finding]:
    files = [(part, record["file_name"]) for part, records in parts.items() for record in records]
    prints = fingerprints([file for _, file in files], progress=progress)
    broken = [
        f"{file}: {words}" for (_, file), words in zip(files, prints, strict=True) if not isinstance(words, Fingerprint)
    ]
    repeated: list[str] = []
    leaked: list[str] = []
    near: list[str] = []
    near_leaked: list[str] = []
    for group in same_groups(prints):
        across = len({files[index][0] for index in group}) > 1
        (leaked if across else repeated).append(" = ".join(files[index][1] for index in group))
    for first, second in near_pairs(prints):
        across = files[first][0] != files[second][0]
        (near_leaked if across else near).append(f"{files[first][1]} ~ {files[second][1]}")
    found = [
        Finding("error", "images that cannot be decoded", broken),
        Finding("error", "the same picture in training and in validation: the score would be too good", leaked),
        Finding("warning", "nearly the same picture in training and in validation", near_leaked),
        Finding("warning", "the same picture several times in one part", repeated),
        Finding("note", "nearly the same picture twice in one part", near),
    ]
    return [finding for finding in found if finding.where]


def _box_findings(parts: dict[str, list[Record]]) -> list[Finding]:
    """Images without boxes, with crowds only, and objects that are annotated twice."""
    empty, crowds, twice = [], [], []
    for record in (record for records in parts.values() for record in records):
        annotations = record["annotations"]
        if not annotations:
            empty.append(record["file_name"])
        elif all(entry["iscrowd"] for entry in annotations):
            crowds.append(record["file_name"])
        repeats = _repeated_boxes(annotations)
        if repeats:
            twice.append(f"{record['file_name']}: {repeats}")
    found = [
        Finding("warning", "images in which an object of one class is annotated several times", twice),
        Finding(
            "note", "images without boxes (not trained on unless DATALOADER.FILTER_EMPTY_ANNOTATIONS False)", empty
        ),
        Finding("note", "images with crowds or difficult objects only (not trained on)", crowds),
    ]
    return [finding for finding in found if finding.where]


def _repeated_boxes(annotations: list[dict[str, Any]]) -> int:
    keys = [(e["category_id"], *(round(number / _SAME_BOX) for number in e["bbox"])) for e in annotations]
    return len(keys) - len(set(keys))


def _class_counts(records: list[Record], classes: int) -> tuple[np.ndarray, np.ndarray]:
    boxes, images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for record in records:
        ids = [entry["category_id"] for entry in record["annotations"] if not entry["iscrowd"]]
        np.add.at(boxes, ids, 1)
        images[sorted(set(ids))] += 1
    return boxes, images


def _class_findings(classes: list[str], parts: dict[str, list[Record]], boxes: dict[str, np.ndarray]) -> list[Finding]:
    train, val = boxes["train"], boxes["val"]
    absent = [name for name, here, there in zip(classes, train, val, strict=True) if not here and there]
    unused = [name for name, here, there in zip(classes, train, val, strict=True) if not here and not there]
    unscored = [name for name, here, there in zip(classes, train, val, strict=True) if here and not there]
    found = [
        Finding("warning", "classes with boxes in validation but not in training: they cannot be learnt", absent),
        Finding("warning", "classes without a single box", unused),
        Finding(
            "warning", "classes without boxes in validation: they are not scored", unscored if parts["val"] else []
        ),
    ]
    if not train.sum():
        found.insert(
            0, Finding("error", "no box to learn from in the training part", [f"{len(parts['train'])} images"])
        )
    return [finding for finding in found if finding.where]
