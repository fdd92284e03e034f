"""Annotations of a data set as a sequence of dataset dicts that are made when they are asked for.

A JSON file is parsed once, into arrays on disk (:mod:`.index_columns`, :mod:`.index_file`), which all processes map
into memory. What loaders and samplers want to know of all images at once is computed on the arrays.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_lvis_json
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from .index_build import stream_coco, stream_lvis, table_of_records
from .index_columns import ABSENT, BOX_IN_REST, ODD_CROWD, ODD_OBJECT
from .index_file import Table, open_or_build

__all__ = ["Records", "open_index"]

_logger = logging.getLogger(__name__)
_CATEGORY_MAP = "thing_dataset_id_to_contiguous_id"


def open_index(
    json_file: str,
    image_root: str,
    name: str,
    *,
    lvis: bool = False,
    extra_annotation_keys: Sequence[str] = (),
) -> "Records":
    """The dataset dicts of a JSON file, equal to those of detectron2's ``load_coco_json`` or ``load_lvis_json``.

    As these do, it sets the classes in the metadata of ``name``. The index lies in the cache folder
    (:func:`~.index_file.open_or_build`); it is made at the first call and after a change of the file.

    Args:
        json_file, image_root, name, extra_annotation_keys: as for detectron2's functions.
        lvis: the file is in LVIS format.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, TypeError, AssertionError: it is not in this format; from detectron2.
        Unusual: detectron2 can read it but an index cannot hold it.
    """
    local, keys = Path(PathManager.get_local_path(json_file)), tuple(extra_annotation_keys)
    options: dict[str, Any] = {"image_root": str(image_root), "keys": keys, "format": "lvis" if lvis else "coco"}
    meta: dict[str, Any] = get_lvis_instances_meta(name) if lvis else {}
    if _CATEGORY_MAP in meta:
        options["categories"] = sorted(meta[_CATEGORY_MAP].items())
    # as it comes back from a header
    options = json.loads(json.dumps(options))

    def build() -> Table:
        try:
            if lvis:
                return stream_lvis(local, str(image_root), keys, meta.get(_CATEGORY_MAP))
            return stream_coco(local, str(image_root), keys)
        except Exception as error:  # whatever is wrong with the file, detectron2 has the last word on it
            _logger.debug("%s is read by detectron2: %s %s", local, type(error).__name__, error)
        load = load_lvis_json if lvis else load_coco_json
        table = table_of_records(load(json_file, image_root, name, extra_annotation_keys=list(keys)))
        if not lvis:
            metadata = MetadataCatalog.get(name)
            table.notes |= {"classes": metadata.thing_classes, "category_ids": list(metadata.get(_CATEGORY_MAP))}
        return table

    table = open_or_build(local, options, build)
    if lvis:
        MetadataCatalog.get(name).set(**meta)
    else:
        _tell(json_file, name, table.notes)
    return Records([table])


def _tell(json_file: str, name: str, notes: dict[str, Any]) -> None:
    metadata = MetadataCatalog.get(name)
    metadata.thing_classes = notes["classes"]
    ids = sorted(notes["category_ids"])
    metadata.thing_dataset_id_to_contiguous_id = {number: index for index, number in enumerate(ids)}
    if notes.get("unmatched"):
        _logger.warning("%s has %d annotations of images that it does not list", json_file, notes["unmatched"])
    if notes.get("without_segmentation"):
        _logger.warning("%s: left out %d objects whose polygons have no area", json_file, notes["without_segmentation"])


class Records(Sequence[dict[str, Any]]):
    """Dataset dicts of one or several tables; each access makes a dict of its own.

    To send one to another process costs 6 bytes an image; the tables are mapped there.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        *,
        source: np.ndarray | None = None,
        row: np.ndarray | None = None,
        tell_source: bool = False,
    ) -> None:
        """
        Args:
            tables: see :mod:`.index_columns`.
            source, row: int [n], table and image in it of each record; default all images of all tables.
            tell_source: the dicts have ``dataset_source``, the number of their table.
        """
        self._tables = list(tables)
        sizes = [len(table.arrays["image_id"]) for table in self._tables]
        if source is None:
            source = np.repeat(np.arange(len(sizes)), sizes)
        if row is None:
            row = np.concatenate([np.arange(size) for size in sizes])
        self._source, self._row = source.astype(np.int16), row.astype(np.int32)
        self._tell_source = tell_source

    @classmethod
    def join(cls, several: Sequence["Records"]) -> "Records":
        """Data sets one after the other; the dicts tell by ``dataset_source`` which one (0, 1, ...) they are from.

        Args:
            several: of one table each, as :func:`open_index` gives them.
        """
        assert all(len(records._tables) == 1 for records in several)
        return cls(
            [records._tables[0] for records in several],
            source=np.repeat(np.arange(len(several)), [len(records) for records in several]),
            row=np.concatenate([records._row for records in several]),
            tell_source=True,
        )

    def select(self, chosen: np.ndarray) -> "Records":
        """The records at ``chosen``, bool [n] or int [k]."""
        source, row = self._source[chosen], self._row[chosen]
        return Records(self._tables, source=source, row=row, tell_source=self._tell_source)

    def __len__(self) -> int:
        return len(self._row)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> "Records": ...

    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Records":
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        source = int(self._source[index])  # IndexError ends an iteration
        record = _record(self._tables[source].arrays, int(self._row[index]))
        if self._tell_source:
            record["dataset_source"] = source
        return record

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    # ----------------------------------------------------------------------------------------- of all images at once

    @property
    def sources(self) -> np.ndarray:
        """Table of each record, int16 [n]."""
        return self._source

    def sizes(self) -> np.ndarray | None:
        """Height and width of each record, int32 [n, 2]; None if some image does not tell them."""
        if any((rows["image_odd"][chosen] & 3).any() for _, rows, chosen in self._parts()):
            return None
        return self._gather(lambda arrays: arrays["size"], (2,), np.int32)

    def has_objects(self) -> np.ndarray:
        """Records with an annotation that is not a crowd, bool [n]."""
        return self._gather(lambda arrays: _per_image(arrays, _is_object(arrays)) > 0, (), bool)

    def visible_keypoints(self) -> np.ndarray:
        """Number of visible keypoints of each record, int64 [n]."""
        return self._gather(lambda arrays: _per_image(arrays, arrays["keypoints"]), (), np.int64)

    def class_counts(self, classes: int) -> np.ndarray:
        """Number of annotations of each class that are not crowds, int64 [max(classes, largest class + 1)].

        Raises:
            ValueError: there is a negative class.
        """
        counts = np.zeros(classes, np.int64)
        for _, arrays, chosen in self._parts():
            times = np.bincount(chosen, minlength=len(arrays["image_id"]))
            weight = np.repeat(times, np.diff(arrays["first"])) * _is_object(arrays)
            own = np.bincount(np.repeat(arrays["category"], weight), minlength=classes)
            counts = np.pad(counts, (0, len(own) - len(counts))) if len(own) > len(counts) else counts
            counts[: len(own)] += own
        return counts

    def image_classes(self, *, crowds: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Each class of each record once: records int64 [k], ascending, and classes int64 [k].

        Args:
            crowds: a crowd, too, makes a class present.
        """
        records, classes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for positions, arrays, chosen in self._parts():
            begin, count = arrays["first"][chosen], np.diff(arrays["first"])[chosen]
            owner = np.repeat(np.arange(len(chosen)), count)
            step = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
            entries = np.repeat(begin, count) + step
            if not crowds:
                objects = _is_object(arrays)[entries]
                owner, entries = owner[objects], entries[objects]
            category = arrays["category"][entries].astype(np.int64)
            if not len(category):
                continue
            low, span = int(category.min()), int(category.max()) - int(category.min()) + 1
            pairs = np.sort(owner * span + (category - low))  # np.unique takes ten times as long
            pairs = pairs[np.diff(pairs, prepend=-1) > 0]
            records.append(positions[pairs // span])
            classes.append(pairs % span + low)
        owners, found = np.concatenate(records), np.concatenate(classes)
        order = np.argsort(owners, kind="stable")
        return owners[order], found[order]

    def _parts(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]]:
        """Of each table: positions of its records, its arrays, rows of the records."""
        for number, table in enumerate(self._tables):
            positions = np.flatnonzero(self._source == number)
            yield positions, table.arrays, self._row[positions]

    def _gather(self, values: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        result = np.zeros((len(self), *shape), dtype)
        for positions, arrays, chosen in self._parts():
            result[positions] = values(arrays)[chosen]
        return result


def _is_object(arrays: dict[str, np.ndarray]) -> np.ndarray:
    crowd = arrays["crowd"]
    return (crowd == 0) | (crowd == ABSENT) | (crowd == ODD_OBJECT)


def _per_image(arrays: dict[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    """Sums of values of the annotations, [n] or empty for zeros, over each image."""
    first = arrays["first"]
    if not len(values):
        return np.zeros(len(first) - 1, np.int64)
    total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return total[first[1:]] - total[first[:-1]]


def _record(arrays: dict[str, np.ndarray], row: int) -> dict[str, Any]:
    rests = _rests(arrays, row)
    record: dict[str, Any] = {"file_name": _text(arrays, "name", row).decode(errors="surrogatepass")}
    odd = int(arrays["image_odd"][row])
    height, width = arrays["size"][row].tolist()
    known = {"height": height, "width": width, "image_id": int(arrays["image_id"][row])}
    record.update((key, value) for bit, (key, value) in enumerate(known.items()) if not odd >> bit & 1)
    if rests and rests[0]:
        record.update(rests[0])
    begin, end = arrays["first"][row : row + 2].tolist()
    columns = (arrays[name][begin:end].tolist() for name in ("box", "box_kind", "category", "crowd"))
    entries = zip(*columns, rests[1:] if rests else [None] * (end - begin), strict=True)
    record["annotations"] = [_annotation(*entry) for entry in entries]
    return record


def _annotation(box: list[float], kind: int, category: int, crowd: int, rest: dict[str, Any] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if crowd not in (ABSENT, ODD_OBJECT, ODD_CROWD):
        entry["iscrowd"] = crowd
    if kind == 0:
        entry["bbox"] = box
    elif kind != BOX_IN_REST:
        # detectron2 rounds resized boxes of integers, so what was an integer must stay one
        entry["bbox"] = [int(value) if kind >> bit & 1 else value for bit, value in enumerate(box)]
    entry["category_id"] = category
    if rest:
        entry.update(rest)
        code = entry.get("segmentation")
        if isinstance(code, dict) and isinstance(code["counts"], dict):
            code["counts"] = code["counts"]["ascii"].encode()
    entry["bbox_mode"] = BoxMode.XYWH_ABS
    return entry


def _text(arrays: dict[str, np.ndarray], name: str, row: int) -> bytes:
    ends = arrays[f"{name}_end"]
    return arrays[name][int(ends[row - 1]) if row else 0 : int(ends[row])].tobytes()


def _rests(arrays: dict[str, np.ndarray], row: int) -> list[Any] | None:
    if not len(arrays["rest_end"]):
        return None
    text = _text(arrays, "rest", row)
    return json.loads(text) if text else None
