"""What was found in many pictures and frames, in one file: JSON, COCO or CSV, safe from crashes.

Every picture is first appended to a journal beside the file (``.NAME.part``, JSON lines). The file itself is written
from it at the end, whole or not at all; also at an interruption, and then the journal stays for a later run to go on.
"""

import csv
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances

from ..errors import UserError, writing
from .outputs import atomic_path
from .results import Categories, Detections, categories_of
from .visualize import as_predictions

__all__ = ["ResultFile", "check_result_file"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]

_NAMES = "NAME.json, NAME.coco.json or NAME.csv"
_OBJECT = Categories(names=("object",), ids=(1,))  # what a model without classes finds
_COLUMNS = ("file", "frame", "time", "x1", "y1", "x2", "y2", "score", "class_id", "class_name")
_FURTHER_COLUMNS = ("objectness", "track_id")


def check_result_file(path: Path) -> None:
    """Make sure that the name says a format and that no folder is in its place. Nothing is made.

    Raises:
        UserError: it does not, or there is.
    """
    if path.suffix.lower() not in (".json", ".csv"):
        raise UserError(f"{path} has no ending that says how to save results: use {_NAMES}")
    if path.is_dir():
        raise UserError(f"results cannot be saved as {path}: it is a folder; give a file, {_NAMES}")


class ResultFile:
    """Collects detections of pictures and video frames; a context manager.

    Formats, by the name:

    - ``NAME.csv``: one row a detection: ``file, frame, time, x1, y1, x2, y2, score, class_id, class_name`` and
      ``objectness``, ``track_id``, empty where there is none. ``class_id`` counts the model's classes from 0.
    - ``NAME.coco.json`` and ``coco.json``: ``images`` (``id`` 1, 2, ...; ``file_name``, ``width``, ``height``; of
      frames ``frame`` and ``time``), ``categories``, and ``annotations``, which are COCO's result entries and more.
    - any other ``NAME.json``: ``categories``, and ``images``, each with its ``detections``.

    Boxes are in pixels of the picture; ``bbox`` is x, y, width, height. Frames count from 0, ``time`` is in seconds.

    Args:
        path: the file to be.
        metadata: of the model, for names and ids of the classes.
        settings: what makes results of two runs belong together, such as the weights' name; must be JSON.
        resume: go on with the journal of an interrupted run, if there is one.

    Raises:
        UserError: the name says no format, the file cannot be written, or (``resume``) the interrupted run had other
            settings or classes.

    Attributes:
        finished: files that the interrupted run was through with.
    """

    def __init__(self, path: Path, metadata: Metadata, settings: Mapping[str, Any], *, resume: bool = False) -> None:
        check_result_file(path)
        self._path = path
        self._journal = path.with_name(f".{path.name}.part")
        self._categories = categories_of(metadata)
        self._header = {"settings": dict(settings), "categories": self._categories.as_coco()}
        self.finished: frozenset[str] = frozenset()
        kept: list[Record] = []
        if self._journal.exists():
            if resume:
                kept = self._read_finished()
            else:
                logger.info("what an interrupted run left for %s is thrown away (--resume would go on)", path)
        elif resume:
            logger.info("there is no interrupted run for %s to go on with: all inputs are predicted", path)
        with atomic_path(self._journal) as temporary, temporary.open("w", encoding="utf-8") as stream:
            for record in (self._header, *kept):
                _write_line(stream, record)
        self._stream = self._journal.open("a", encoding="utf-8")

    def _read_finished(self) -> list[Record]:
        records = _read_journal(self._journal)
        header = next(records, {})
        if header != self._header:
            raise UserError(
                f"the interrupted run that left {self._journal} had another model or other settings "
                f"({header.get('settings')}, now {self._header['settings']}): repeat its command, or leave out --resume"
            )
        unfinished: dict[str, list[Record]] = {}
        kept: list[Record] = []
        for record in records:
            of_this_file = unfinished.setdefault(record["file"], [])
            of_this_file.append(record)
            if "finished" in record:
                kept += unfinished.pop(record["file"])
        self.finished = frozenset(record["file"] for record in kept)
        return kept

    def add(
        self,
        file: str,
        image_size: tuple[int, int],
        predictions: Mapping[str, Any],
        frame: int | None = None,
        time: float | None = None,
    ) -> None:
        """Append what was found in a picture or a frame.

        Args:
            file: name of the picture or video.
            image_size: height and width, pixels.
            predictions: of a detectron2 model; ``instances`` and ``proposals`` are saved.
            frame: position in the video, from 0.
            time: seconds from the start of the video.
        """
        record: Record = {"file": file, "height": image_size[0], "width": image_size[1]}
        if frame is not None:
            record |= {"frame": frame, "time": None if time is None else round(time, 4)}
        record["detections"] = self._detections(predictions)
        self._append(record)

    def finish(self, file: str) -> None:
        """Everything of ``file`` has been added: a resumed run leaves it out."""
        self._append({"file": file, "finished": True})

    def _append(self, record: Record) -> None:
        with writing(self._path):
            _write_line(self._stream, record)

    def _detections(self, predictions: Mapping[str, Any]) -> list[Record]:
        found: Instances | None = predictions.get("instances", predictions.get("proposals"))
        if found is None:
            return []
        instances, categories = as_predictions(found).to("cpu"), self._categories
        if "instances" not in predictions:
            instances.pred_classes = torch.zeros_like(instances.pred_classes)
            categories = _OBJECT
        labels = instances.pred_classes.tolist()
        entries = Detections.of(instances, categories).to_coco(0)
        for entry, label in zip(entries, labels, strict=True):
            del entry["image_id"]
            entry |= {"class_id": label, "class_name": categories.names[label]}
        return entries

    def close(self, complete: bool) -> None:
        """Write the file. ``complete``: nothing is left to do, so the journal goes."""
        self._stream.close()
        with atomic_path(self._path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            stream.writelines(_format_of(self._path)(self._pictures, self._categories))
        if complete:
            self._journal.unlink()

    def _pictures(self) -> Iterator[Record]:
        records = _read_journal(self._journal)
        next(records)
        return (record for record in records if "detections" in record)

    def __enter__(self) -> "ResultFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close(complete=True)
            return
        with suppress(UserError):  # a full disk led here, perhaps: its own sentence counts
            self.close(complete=False)


def _write_line(stream: TextIO, record: Record) -> None:
    stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    stream.flush()  # what is done outlives a kill


def _read_journal(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:  # cut off by a kill: the last line
                return


def _format_of(path: Path) -> Callable[[Callable[[], Iterator[Record]], Categories], Iterable[str]]:
    name = path.name.lower()
    if name.endswith(".csv"):
        return _csv
    return _coco if name == "coco.json" or name.endswith(".coco.json") else _json


def _csv(pictures: Callable[[], Iterator[Record]], _: Categories) -> Iterator[str]:
    line = _Line()
    writer = csv.writer(line)
    writer.writerow((*_COLUMNS, *_FURTHER_COLUMNS))
    yield line.text
    for picture in pictures():
        place = [picture["file"], picture.get("frame"), picture.get("time")]
        for entry in picture["detections"]:
            x, y, width, height = entry["bbox"]
            further = [entry.get(name) for name in _FURTHER_COLUMNS]
            box = [x, y, x + width, y + height]
            writer.writerow([*place, *box, entry["score"], entry["class_id"], entry["class_name"], *further])
            yield line.text


class _Line:
    """A stream that remembers the last line written to it."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


def _json(pictures: Callable[[], Iterator[Record]], categories: Categories) -> Iterator[str]:
    yield f'{{"categories": {json.dumps(categories.as_coco())},\n"images": [\n'
    yield from _list(pictures())
    yield "]}\n"


def _coco(pictures: Callable[[], Iterator[Record]], categories: Categories) -> Iterator[str]:
    yield f'{{"categories": {json.dumps(categories.as_coco())},\n"images": [\n'
    yield from _list(_coco_image(number, picture) for number, picture in enumerate(pictures(), start=1))
    yield '],\n"annotations": [\n'
    entries = chain.from_iterable(
        ({"image_id": number, **entry} for entry in picture["detections"])
        for number, picture in enumerate(pictures(), start=1)
    )
    yield from _list(_coco_annotation(number, entry) for number, entry in enumerate(entries, start=1))
    yield "]}\n"


def _coco_image(number: int, picture: Record) -> Record:
    image = {key: value for key, value in picture.items() if key not in ("file", "detections")}
    return {"id": number, "file_name": picture["file"], **image}


def _coco_annotation(number: int, entry: Record) -> Record:
    left_out = ("class_id", "class_name")  # the category says it
    kept = {key: value for key, value in entry.items() if key not in left_out}
    return {"id": number, **kept, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}


def _list(items: Iterable[Record]) -> Iterator[str]:
    """The inside of a JSON list, one line an item."""
    separator = ""
    for item in items:
        yield separator + json.dumps(item, ensure_ascii=False)
        separator = ",\n"
    yield "\n"
