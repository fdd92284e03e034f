"""Pseudo labels: what a trained detector finds in unlabelled pictures, as a COCO file to train on.

Self-training with a hard score threshold as in "Probabilistic two-stage detection" (arXiv 2103.07461) section 5.1:
a teacher labels the pictures, a student learns from these and from the labelled ones.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import Instances

from ..errors import UserError
from ..progress import progress
from .batch.identity import check_same_run, fingerprint, instances_of
from .batch.lists import listed_by_json, listed_by_text, refuse_repeats
from .batching import in_batches
from .outputs import atomic_path
from .predictor import Predictor
from .results import encode_mask
from .sources import SourceError, find_inputs, load_image

__all__ = ["Journal", "Unlabelled", "find_unlabelled", "label_images", "write_labels"]

logger = logging.getLogger(__name__)

_SYNC_EVERY = 64  # pictures between two waits for the disk


class Unlabelled(NamedTuple):
    """A picture to label: its entry of COCO's ``images``, with ``id`` and ``file_name``, and the file."""

    record: dict[str, Any]
    path: Path


def find_unlabelled(names: Sequence[str], image_root: Path | None = None) -> list[Unlabelled]:
    """Pictures that the user named.

    Args:
        names: one COCO JSON file, of which only ``images`` is read; or one text file with a path a line; or pictures,
            folders and globs as in :func:`~.sources.find_inputs`.
        image_root: the folder that ``file_name`` is relative to. Default: of a JSON or text file, its own folder; of
            pictures, the deepest folder that holds them all.

    Raises:
        UserError: nothing there, an unreadable list, a picture outside ``image_root``, an id or name twice.
    """
    if len(names) == 1 and names[0].endswith(".json"):
        found = [Unlabelled(record, path) for record, path in listed_by_json(Path(names[0]), image_root)]
    else:
        if _is_text_list(names):
            paths = tuple(path for _, path in listed_by_text(Path(names[0]), image_root))
        else:
            paths = find_inputs(names).images
        if not paths:
            raise UserError(f"{' '.join(names)} names no picture")
        root = image_root or Path(os.path.commonpath([path.absolute().parent for path in paths]))
        found = [
            Unlabelled({"id": number, "file_name": _relative(path, root)}, path)
            for number, path in enumerate(paths, start=1)
        ]
    for key in ("id", "file_name"):
        refuse_repeats((image.record[key] for image in found), key, " ".join(names))
    return found


def _is_text_list(names: Sequence[str]) -> bool:
    return len(names) == 1 and names[0].endswith(".txt")


def _relative(path: Path, root: Path) -> str:
    try:
        return path.absolute().relative_to(root.absolute()).as_posix()
    except ValueError as error:
        raise UserError(f"picture {path} is not in the image folder {root}") from error


class Journal:
    """An append-only file of finished pictures, so that a killed run goes on where it was.

    The first line says what the run is; then comes one JSON line a picture, in the order of the pictures.

    Attributes:
        path: the file.
        header: what must be the same for the lines to be of use.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.header = dict(header)

    def resume(self, ids: Sequence[Any], batch_size: int) -> int:
        """Number of pictures done, a multiple of ``batch_size`` or all; what a kill left after them is cut off.

        A batch is done again as a whole: results of other batches differ in rounding.

        Raises:
            UserError: the file belongs to another run, or cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists() or not self.path.stat().st_size:
                self._append([self.header], sync=True)
                return 0
            done, ends = 0, []
            with self.path.open("rb") as file:
                header = _parse(file.readline())
                if header is not None:
                    check_same_run(self.path, self.header, header)
                ends.append(file.tell() if header else 0)
                for line in file if header else ():
                    entry = _parse(line)
                    if entry is None or done == len(ids) or entry.get("id") != ids[done]:
                        break
                    done += 1
                    ends.append(ends[-1] + len(line))
            if done < len(ids):
                done -= done % batch_size
            os.truncate(self.path, ends[done])
            if header is None:
                self._append([self.header], sync=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error
        return done

    def append(self, entries: Sequence[Mapping[str, Any]], *, sync: bool) -> None:
        """Write finished pictures; with ``sync``, wait until they are on the disk.

        Raises:
            UserError: the disk is full or the folder gone.
        """
        try:
            self._append(entries, sync=sync)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error

    def _append(self, entries: Sequence[Mapping[str, Any]], *, sync: bool) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in entries))
            file.flush()
            if sync:
                os.fsync(file.fileno())

    def entries(self) -> Iterator[dict[str, Any]]:
        """Finished pictures: ``id`` and either ``broken`` (a sentence) or ``height``, ``width``, ``detections``."""
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                yield json.loads(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object of a whole line; None of a torn one."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def label_images(
    predictor: Predictor, images: Sequence[Unlabelled], journal: Path, *, floor: float, batch_size: int
) -> Journal:
    """Run a teacher over pictures into a journal; goes on with one that a killed run left.

    Args:
        predictor: the teacher.
        images: in the order of the journal.
        journal: its file.
        floor: smallest score that is written down.
        batch_size: pictures at a time.

    Returns:
        The whole journal. Unreadable pictures are logged and have an entry ``broken``.

    Raises:
        UserError: see :class:`Journal`.
    """
    listed = hashlib.sha256(json.dumps([[image.record, str(image.path)] for image in images]).encode()).hexdigest()
    header = {"teacher": fingerprint(predictor), "pictures": listed, "batch size": batch_size, "floor": floor}
    book = Journal(journal, header)
    done = book.resume([image.record["id"] for image in images], batch_size)
    if done:
        logger.info("%s: %d of %d pictures are done already", journal, done, len(images))
    starts = range(done, len(images), batch_size)
    unsynced = 0
    with progress("pictures", len(images), unit="picture", done=done) as bar, ThreadPoolExecutor(1) as reader:
        pending = reader.submit(_read, predictor, images[done : done + batch_size])
        for start in starts:
            batch, pictures = images[start : start + batch_size], pending.result()
            pending = reader.submit(_read, predictor, images[start + batch_size : start + 2 * batch_size])
            unsynced += len(batch)
            last = start + batch_size >= len(images)
            book.append(_label(predictor, batch, pictures, floor), sync=last or unsynced >= _SYNC_EVERY)
            unsynced %= _SYNC_EVERY
            bar.advance(len(batch))
    return book


def _read(predictor: Predictor, images: Sequence[Unlabelled]) -> list[dict[str, Any] | SourceError]:
    """Entries for the network, or what is wrong with a picture."""
    entries: list[dict[str, Any] | SourceError] = []
    for image in images:
        try:
            entries.append(predictor.prepare(load_image(image.path), name=f"picture {image.path}"))
        except SourceError as error:
            entries.append(error)
    return entries


def _label(
    predictor: Predictor, batch: Sequence[Unlabelled], pictures: Sequence[dict[str, Any] | SourceError], floor: float
) -> list[dict[str, Any]]:
    """Journal entries of a batch; only pictures that are padded alike are shown to the teacher together."""
    good = ((predictor.network.canvas(p["image"]), p) for p in pictures if not isinstance(p, SourceError))
    results: Iterator[Any] = in_batches(good, predictor.predict_prepared, len(batch))
    entries: list[dict[str, Any]] = []
    for image, picture in zip(batch, pictures, strict=True):
        if isinstance(picture, SourceError):
            logger.error("error: %s", picture)
            entries.append({"id": image.record["id"], "broken": str(picture)})
            continue
        prediction = next(results)
        instances = instances_of(prediction, floor)
        size = {"height": picture["height"], "width": picture["width"]}
        entries.append({"id": image.record["id"], **size, "detections": _detections(instances)})
    return entries


def _detections(instances: Instances) -> list[dict[str, Any]]:
    """``bbox`` (x, y, w, h in pixels, to a hundredth), ``score``, ``class`` and, of masks, ``segmentation`` as RLE."""
    boxes = instances.pred_boxes.tensor.double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    found = []
    for row, (box, score, label) in enumerate(
        zip(boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist(), strict=True)
    ):
        entry = {"bbox": [round(side, 2) for side in box], "score": round(score, 5), "class": label}
        if instances.has("pred_masks"):
            entry["segmentation"] = encode_mask(instances.pred_masks[row])
        found.append(entry)
    return found


def write_labels(
    output: Path,
    images: Sequence[Unlabelled],
    journal: Journal,
    categories: Sequence[dict[str, Any]],
    thresholds: Sequence[float],
) -> tuple[int, list[str]]:
    """Write the COCO file: each annotation with its ``score``; broken pictures are left out.

    Args:
        output: the file; whole or not at all.
        images: as in :func:`label_images`, which made ``journal``.
        categories: of the classes in their order.
        thresholds: smallest score of a label, one a class.

    Returns:
        Number of labels; a sentence for each broken picture.

    Raises:
        UserError: the file cannot be written.
    """
    kept: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    broken: list[str] = []
    for image, entry in zip(images, journal.entries(), strict=True):
        if "broken" in entry:
            broken.append(entry["broken"])
            continue
        kept.append({**image.record, "height": entry["height"], "width": entry["width"]})
        for found in entry["detections"]:
            label, (_, _, w, h) = found.pop("class"), found["bbox"]
            if found["score"] >= thresholds[label] and w > 0 and h > 0:
                where = {"id": len(labels) + 1, "image_id": entry["id"], "category_id": categories[label]["id"]}
                labels.append({**where, "area": round(w * h, 2), "iscrowd": 0, **found})
    limits = {c["name"]: t if np.isfinite(t) else None for c, t in zip(categories, thresholds, strict=True)}
    info = {"description": "pseudo labels", "teacher": journal.header["teacher"], "thresholds": limits}
    content = {"info": info, "images": kept, "annotations": labels, "categories": list(categories)}
    with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    return len(labels), broken
