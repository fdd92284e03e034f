"""A part of the result: what was found in the pictures of one shard, as a Parquet file that says whose it is.

One row a picture, in the order of the input:

==================  ======================================  ==============================================
``image_id``        int64 or string                         of the list, or 1, 2, 3 ...
``key``             string                                  name: path below the input folder, tar member ...
``width, height``   int32                                   pixels, upright by EXIF
``boxes``           list of float32 [4]                     x1, y1, x2, y2 in pixels, best score first
``scores``          list of float32                         in [0, 1]
``class_ids``       list of int32                           class of the model, from 0
``class_names``     list of string
``masks``           list of string                          COCO's run-length ``counts``; models with masks only
==================  ======================================  ==============================================

Pictures that cannot be read are no rows; they are in the file's metadata.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.structures import Instances

from ..results import encode_mask
from .arrow import pyarrow

__all__ = ["Label", "encode_part", "read_label", "row_of", "table_schema"]

_KEY = b"centernet"


class Label(NamedTuple):
    """What a part says of itself.

    Attributes:
        job: digest of the run that it belongs to.
        shard: its number.
        pictures: in the shard, with the broken ones.
        broken: ``image_id``, ``key`` and ``reason`` of each picture that cannot be read.
        detections: in all of its rows.
    """

    job: str
    shard: int
    pictures: int
    broken: list[dict[str, Any]]
    detections: int


def table_schema(*, text_ids: bool, masks: bool) -> Any:
    """Columns of a part (``pyarrow.Schema``)."""
    arrow, _ = pyarrow()
    columns = [
        ("image_id", arrow.string() if text_ids else arrow.int64()),
        ("key", arrow.string()),
        ("width", arrow.int32()),
        ("height", arrow.int32()),
        ("boxes", arrow.list_(arrow.list_(arrow.float32(), 4))),
        ("scores", arrow.list_(arrow.float32())),
        ("class_ids", arrow.list_(arrow.int32())),
        ("class_names", arrow.list_(arrow.string())),
    ]
    return arrow.schema(columns + ([("masks", arrow.list_(arrow.string()))] if masks else []))


def row_of(image_id: int | str, key: str, found: Instances, names: Sequence[str]) -> dict[str, Any]:
    """The row of a picture with the detections ``found`` and the class names ``names``."""
    classes = found.pred_classes.tolist()
    row = {
        "image_id": image_id,
        "key": key,
        "width": found.image_size[1],
        "height": found.image_size[0],
        "boxes": found.pred_boxes.tensor.float().tolist(),
        "scores": found.scores.float().tolist(),
        "class_ids": classes,
        "class_names": [names[label] for label in classes],
    }
    if found.has("pred_masks"):
        row["masks"] = [encode_mask(mask)["counts"] for mask in found.pred_masks]
    return row


def encode_part(rows: Sequence[Mapping[str, Any]], schema: Any, label: Label) -> bytes:
    """The Parquet file of a part."""
    arrow, parquet = pyarrow()
    text_ids = arrow.types.is_string(schema.field("image_id").type)
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in schema.names}
    if text_ids:
        columns["image_id"] = [str(value) for value in columns["image_id"]]
    table = arrow.Table.from_pydict(columns, schema=schema)
    table = table.replace_schema_metadata({_KEY: json.dumps(label._asdict())})
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_label(part: Path) -> Label | None:
    """The label of a part; None of a file that is damaged or no part."""
    arrow, parquet = pyarrow()
    try:
        file = parquet.ParquetFile(part)
        label = Label(**json.loads(file.schema_arrow.metadata[_KEY]))
        whole = file.metadata.num_rows + len(label.broken) == label.pictures
    except (OSError, ValueError, KeyError, TypeError, arrow.ArrowException):
        return None
    return label if whole else None
