"""Batches on disk, as the model got them, for ``tools/replay_batch.py``.

Tensors and plain values only: the file is read with ``torch.load(weights_only=True)``, and no code of it runs.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks, RotatedBoxes
from torch import Tensor

from ..errors import UserError
from .atomic_file import write_atomically

__all__ = ["read_batch_dump", "write_batch_dump"]

FORMAT = 1
_KIND = "kind of structure"  # key that marks a structure among plain dicts
_TENSOR_STRUCTURES = {"Boxes": Boxes, "RotatedBoxes": RotatedBoxes, "BitMasks": BitMasks, "Keypoints": Keypoints}
_logger = logging.getLogger(__name__)


def write_batch_dump(path: Path, batch: list[dict[str, Any]], **entries: Any) -> None:
    """Write a batch of detectron2's format and further plain entries. What is of a kind unknown here is left out.

    Raises:
        UserError: the file cannot be written.
    """
    content = {"format": FORMAT, "batch": [_encode(sample) for sample in batch], **entries}
    write_atomically(path, lambda stream: torch.save(content, stream))


def read_batch_dump(path: str | Path) -> dict[str, Any]:
    """What :func:`write_batch_dump` wrote; ``batch`` is a batch again.

    Raises:
        UserError: there is no such file, it is damaged, or it is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise UserError(f"{path} is a dump of format {content['format']}, and this version reads format {FORMAT}")
        return {**content, "batch": [_decode(sample) for sample in content["batch"]]}
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except UserError:
        raise
    except Exception as error:  # a damaged zip, a refused pickle, an entry that is missing
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{path} is not a whole dump of a batch ({reason})") from error


def _encode(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value).copy())
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, Instances):
        return {_KIND: "Instances", "image_size": list(value.image_size), "fields": _encode(value.get_fields())}
    if isinstance(value, PolygonMasks):
        return {_KIND: "PolygonMasks", "polygons": _encode(value.polygons)}
    for name, kind in _TENSOR_STRUCTURES.items():
        if type(value) is kind:
            return {_KIND: name, "tensor": _encode(value.tensor)}
    _logger.warning("%s in the batch is not kept: it is neither a number, a text nor a tensor", type(value).__name__)
    return None


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {key: _decode(item) for key, item in value.items()}
    if kind == "Instances":
        height, width = value["image_size"]
        fields = {name: _decode(field) for name, field in value["fields"].items()}
        return Instances((height, width), **{name: field for name, field in fields.items() if field is not None})
    if kind == "PolygonMasks":
        return PolygonMasks([[part.numpy() for part in polygons] for polygons in value["polygons"]])
    return _TENSOR_STRUCTURES[kind](value["tensor"])
