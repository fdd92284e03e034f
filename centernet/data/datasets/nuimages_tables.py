"""The tables of nuImages as one COCO JSON value.

Tables: https://github.com/nutonomy/nuscenes-devkit, docs/schema_nuimages.md. Only key frames of cameras carry objects.
Their 23 kinds become the ten classes of the nuScenes detection task (Caesar et al., arXiv 1903.11027, table of
detection classes); the others (animals, wheelchairs, police cars, debris, bicycle racks, ...) are left out, as there.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError
from ..index_build import take_elements
from ..index_columns import Unusual
from .nuimages import categories

__all__ = ["CLASS_OF", "Converted", "convert_tables"]

CLASS_OF = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.trailer": "trailer",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.construction": "construction_vehicle",
    "vehicle.bicycle": "bicycle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
}
_IDS = {category["name"]: category["id"] for category in categories}
Row = dict[str, Any]


class Converted(NamedTuple):
    """``content``: of the COCO JSON file; ``left_out``: objects of each kind that is no class; ``no_area``: objects
    whose box has no area inside the image, left out too; ``no_mask``: objects whose box stands in for a mask."""

    content: dict[str, Any]
    left_out: Counter[str]
    no_area: int
    no_mask: int


def convert_tables(folder: Path) -> Converted:
    """Read the tables of one part.

    ``bbox`` is clipped to the image, ``area`` that of the box, ``segmentation`` COCO's compressed run-length code (the
    box where an object has none, since training with masks needs one each), ``file_name`` relative to the folder above
    the tables. Images and objects are numbered from 1 in the order of ``sample.json`` and ``object_ann.json``.

    Args:
        folder: with ``category.json``, ``sample.json``, ``sample_data.json`` and ``object_ann.json``, such as
            ``nuimages/v1.0-train``.

    Raises:
        UserError: a table is missing, cut off, or names what no other table has.
    """
    kinds: dict[str, str] = {}
    frames: dict[str, int] = {}  # token of a key frame of a camera -> number of its image
    images: dict[int, Row] = {}
    _each_row(folder / "category.json", lambda row: kinds.__setitem__(row["token"], row["name"]))
    _each_row(folder / "sample.json", lambda row: frames.setdefault(row["key_camera_token"], len(frames) + 1))

    def add_image(row: Row) -> None:
        if (number := frames.get(row["token"])) is not None:
            names = {"file_name": row["filename"], "token": row["token"]}
            images[number] = {"id": number, **names, "width": int(row["width"]), "height": int(row["height"])}

    _each_row(folder / "sample_data.json", add_image)
    for token, number in frames.items():
        if number not in images:
            raise UserError(f"{folder / 'sample_data.json'} lacks the image {token} of sample.json: {_REMEDY}")
    objects = _Objects(kinds, frames, images)
    _each_row(folder / "object_ann.json", objects.add)
    content = {
        "images": [images[number] for number in sorted(images)],
        "annotations": objects.annotations,
        "categories": categories,
    }
    return Converted(content, objects.left_out, objects.no_area, objects.no_mask)


class _Objects:
    def __init__(self, kinds: dict[str, str], frames: dict[str, int], images: dict[int, Row]) -> None:
        self.kinds, self.frames, self.images = kinds, frames, images
        self.annotations: list[Row] = []
        self.left_out = Counter[str]()
        self.no_area = self.no_mask = 0

    def add(self, row: Row) -> None:
        kind = self.kinds.get(row["category_token"])
        number = self.frames.get(row["sample_data_token"])
        if kind is None or number is None:
            what = f"category {row['category_token']}" if kind is None else f"image {row['sample_data_token']}"
            raise ValueError(f"object {row['token']} is of {what}, which no other table has")
        if kind not in CLASS_OF:
            self.left_out[kind] += 1
            return
        image = self.images[number]
        x0, y0, x1, y1 = (float(value) for value in row["bbox"])
        x0, x1 = max(0.0, x0), min(float(image["width"]), x1)
        y0, y1 = max(0.0, y0), min(float(image["height"]), y1)
        if not (x1 > x0 and y1 > y0):  # NaN is left out too
            self.no_area += 1
            return
        size = [image["height"], image["width"]]
        mask = _decoded(row["mask"], size, row["token"])
        self.no_mask += mask is None
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": number,
                "category_id": _IDS[CLASS_OF[kind]],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "segmentation": mask or _rectangle((x0, y0, x1, y1), size),
            }
        )


def _decoded(mask: Row | None, size: list[int], token: str) -> Row | None:
    """The code's bytes, which nuImages has in base 64, as the text that COCO has; None if there is no mask."""
    if not mask:
        return None
    if mask["size"] != size:
        raise ValueError(f"the mask of object {token} has size {mask['size']}, its image {size} (height, width)")
    return {"size": size, "counts": base64.b64decode(mask["counts"], validate=True).decode("ascii")}


def _rectangle(box: tuple[float, float, float, float], size: list[int]) -> Row:
    import pycocotools.mask

    x0, y0, x1, y1 = box
    code = pycocotools.mask.frPyObjects([[x0, y0, x1, y0, x1, y1, x0, y1]], *size)[0]
    return {"size": size, "counts": code["counts"].decode("ascii")}


_REMEDY = "unpack nuimages-v1.0-all-metadata again"


def _each_row(path: Path, take: Callable[[Row], object]) -> None:
    """Pass the rows of a table on, one at a time: sample_data.json has millions."""
    try:
        text = path.read_text("utf-8")
        end = take_elements(text, 0, take)
        if text[end:].strip():
            raise ValueError("there is more behind the list")
    except FileNotFoundError:
        raise UserError(f"there is no table {path}: {_REMEDY}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (Unusual, IndexError, json.JSONDecodeError):
        raise UserError(f"{path} is not a JSON list of rows, or is cut off: {_REMEDY}") from None
    except KeyError as error:
        raise UserError(f"{path} has a row without {error}: {_REMEDY}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a table of nuImages: {error} - {_REMEDY}") from None
