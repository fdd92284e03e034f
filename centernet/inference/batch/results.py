"""From the parts of a run to what the user asked for: one Parquet file, COCO JSON, and the list of broken pictures."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ...errors import UserError
from ..outputs import atomic_path
from ..results import Categories
from .arrow import pyarrow
from .job import Job

__all__ = ["write_broken", "write_coco", "write_parquet"]


def write_broken(output: Path, job: Job) -> None:
    """One JSON line a broken picture: ``image_id``, ``key``, ``reason``; an empty file if there is none."""
    with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        for _, label in job.parts():
            file.writelines(json.dumps(entry) + "\n" for entry in label.broken)
        _sync(file)


def write_parquet(output: Path, job: Job) -> None:
    """All rows in one file, a row group a shard."""
    _, parquet = pyarrow()
    with atomic_path(output) as temporary, temporary.open("wb") as file:
        writer = None
        try:
            for part, _ in job.parts():
                table = _table(part).replace_schema_metadata(None)
                writer = writer or parquet.ParquetWriter(file, table.schema, compression="zstd")
                writer.write_table(table)
        finally:  # before the file is closed
            if writer is not None:
                writer.close()
        _sync(file)


def write_coco(output: Path, job: Job, categories: Categories, *, results_only: bool) -> None:
    """COCO JSON, written piece by piece.

    Args:
        categories: of the model.
        results_only: the list that COCO's evaluation takes, of ``image_id``, ``category_id``, ``bbox`` and ``score``;
            else a data set: ``info``, ``categories``, ``images``, and ``annotations`` with their ``score``.
    """
    ids = categories.ids
    with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        if results_only:
            _write_list(file, _results(job, ids))
        else:
            info = {"description": "predictions", **job.header}
            file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories.as_coco())},\n"images": ')
            _write_list(file, _images(job))
            file.write(',\n"annotations": ')
            _write_list(file, _annotations(job, ids))
            file.write("}\n")
        _sync(file)


def _write_list(file: TextIO, entries: Iterable[Mapping[str, Any]]) -> None:
    before = "["
    for entry in entries:
        file.write(f"{before}{json.dumps(entry)}")
        before = ",\n"
    file.write("[]" if before == "[" else "]")


def _rows(job: Job, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    for part, _ in job.parts():
        yield from _table(part, columns).to_pylist()


def _table(part: Path, columns: list[str] | None = None) -> Any:
    arrow, parquet = pyarrow()
    try:
        return parquet.read_table(part, columns=columns)
    except (OSError, arrow.ArrowException) as error:  # whose label was whole
        reason = " ".join(str(error).split())
        raise UserError(f"{part} is damaged ({reason}): delete it and give the same command once more") from error


def _images(job: Job) -> Iterator[dict[str, Any]]:
    for row in _rows(job, ["image_id", "key", "width", "height"]):
        yield {"id": row["image_id"], "file_name": row["key"], "width": row["width"], "height": row["height"]}


def _results(job: Job, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    for row in _rows(job):
        found = zip(row["boxes"], row["scores"], row["class_ids"], strict=True)
        for index, ((x1, y1, x2, y2), score, label) in enumerate(found):
            box = [round(side, 2) for side in (x1, y1, x2 - x1, y2 - y1)]
            entry = {"image_id": row["image_id"], "category_id": ids[label], "bbox": box, "score": round(score, 5)}
            if row.get("masks"):
                entry["segmentation"] = {"size": [row["height"], row["width"]], "counts": row["masks"][index]}
            yield entry


def _annotations(job: Job, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    for number, entry in enumerate(_results(job, ids), start=1):
        area = round(entry["bbox"][2] * entry["bbox"][3], 2)
        yield {"id": number, **entry, "area": area, "iscrowd": 0}


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
