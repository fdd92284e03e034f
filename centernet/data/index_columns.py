"""The arrays of an index of annotations, filled one annotation at a time.

Arrays, of ``m`` images and ``n`` annotations, the annotations in the order of the images:

    first        int64 [m + 1]   annotations of image i are first[i] ... first[i + 1] - 1
    name_end     int64 [m]       end of its path in ``name``
    name         uint8 [...]     paths, UTF-8
    size         int32 [m, 2]    height, width, pixels
    image_id     int64 [m]
    image_odd    uint8 [m]       bits: height, width, image_id are not in these arrays but in ``rest``
    box          float64 [n, 4]  ``bbox`` as in the file
    box_kind     uint8 [n]       bits 0 to 3: that number is an integer in the file; 16: see ``rest``
    category     int32 [n]       contiguous
    crowd        uint8 [n]       ``iscrowd``: 0, 1; ABSENT; in ``rest``: ODD_OBJECT, ODD_CROWD
    keypoints    int32 [n]       number of visible keypoints; empty if there are none
    rest_end     int64 [m]       end of the image's JSON in ``rest``; empty if there is none
    rest         uint8 [...]     JSON of each image with more: [image, annotation, ...], null for nothing more
"""

import json
from array import array
from typing import Any

import numpy as np

from .index_file import Table

__all__ = ["ABSENT", "BOX_IN_REST", "ODD_CROWD", "ODD_OBJECT", "Columns", "Unusual"]

ABSENT, ODD_OBJECT, ODD_CROWD = 2, 3, 4
BOX_IN_REST = 16
_INT32, _EXACT = 2**31, 2**53


class Unusual(Exception):
    """The data are not as simple as the index expects; they need not be wrong."""


class Columns:
    """Annotations in the order of the file, column by column."""

    def __init__(self) -> None:
        self.ids, self.image, self.category = array("q"), array("q"), array("q")
        self.box, self.box_kind, self.crowd = array("d"), bytearray(), bytearray()
        self.keypoints, self.rest_length, self.rest = array("i"), array("q"), bytearray()

    def add(self, image: int, category: int, entry: dict[str, Any]) -> None:
        """Add one; ``entry`` is taken apart."""
        if type(category) is not int or type(image) is not int:
            raise Unusual
        box = entry.pop("bbox", None)
        kind = _box_kind(box)
        if kind == BOX_IN_REST:
            if box is not None:
                entry["bbox"] = box
            if box == []:
                raise Unusual  # an error of load_coco_json
            box = (0.0, 0.0, 0.0, 0.0)
        crowd = entry.get("iscrowd", 0)
        if type(crowd) is not int or not 0 <= crowd <= 1:
            crowd = ODD_OBJECT if crowd == 0 else ODD_CROWD
        elif "iscrowd" in entry:
            del entry["iscrowd"]
        else:
            crowd = ABSENT
        self.image.append(image)
        self.category.append(category)
        self.box.extend(box)
        self.box_kind.append(kind)
        self.crowd.append(crowd)
        self.keypoints.append(_visible(entry["keypoints"]) if "keypoints" in entry else 0)
        length = len(self.rest)
        if entry:
            self.rest += _json(entry)
        self.rest_length.append(len(self.rest) - length)

    def finish(
        self,
        images: list[dict[str, Any]],
        category_map: dict[int, int] | None,
        *,
        unique: bool,
        offset: int = -1,
        keys: np.ndarray | None = None,
    ) -> Table:
        """Bring images and annotations into the order of image ids.

        Args:
            images: records without annotations.
            category_map: see :func:`stream_lvis`; None adds ``offset`` instead.
            unique: annotation ids must be.
            keys: what :meth:`add` calls the images; default their ids.
        """
        if keys is None:
            if any(type(image["image_id"]) is not int for image in images):
                raise Unusual
            images.sort(key=lambda image: image["image_id"])
            keys = np.array([image["image_id"] for image in images], np.int64)
            if (np.diff(keys) == 0).any():
                raise Unusual
        order, owner = self._order(keys)
        if unique and len(np.unique(np.frombuffer(self.ids, np.int64))) != len(self.ids):
            raise Unusual
        counts = np.bincount(owner, minlength=len(keys))
        keypoints = np.frombuffer(self.keypoints, np.int32)[order]
        arrays = {
            "first": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "box": np.frombuffer(self.box, np.float64).reshape(-1, 4)[order],
            "box_kind": np.frombuffer(self.box_kind, np.uint8)[order],
            "category": _contiguous(np.frombuffer(self.category, np.int64)[order], category_map, offset),
            "crowd": np.frombuffer(self.crowd, np.uint8)[order],
            "keypoints": keypoints if keypoints.any() else keypoints[:0],
        }
        rests = _image_arrays(images, arrays)
        self._join_rests(rests, order, arrays)
        return Table(arrays, {"unmatched": len(self.image) - len(order)})

    def _order(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Annotations that belong to an image, image by image, and the numbers of their images."""
        image = np.frombuffer(self.image, np.int64)
        if not len(keys):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        owner = np.minimum(np.searchsorted(keys, image), len(keys) - 1)
        order = np.flatnonzero(keys[owner] == image)
        order = order[np.argsort(owner[order], kind="stable")]
        return order, owner[order]

    def _join_rests(self, of_images: list[bytes], order: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        first = arrays["first"]
        end = np.cumsum(np.frombuffer(self.rest_length, np.int64))[order]
        length = np.frombuffer(self.rest_length, np.int64)[order]
        has_rest = np.concatenate([[0], np.cumsum(length > 0)])
        more = has_rest[first[1:]] > has_rest[first[:-1]]
        text, ends = bytearray(), np.zeros(len(of_images), np.int64)
        for number, own in enumerate(of_images):
            if own or more[number]:
                a, b = int(first[number]), int(first[number + 1])
                parts = [own or b"null"]
                for stop, size in zip(end[a:b].tolist(), length[a:b].tolist(), strict=True):
                    parts.append(bytes(self.rest[stop - size : stop]) if size else b"null")
                text += b"[" + b",".join(parts) + b"]"
            ends[number] = len(text)
        arrays["rest_end"] = ends if text else ends[:0]
        arrays["rest"] = np.frombuffer(text, np.uint8)


def _box_kind(box: Any) -> int:
    if type(box) is not list or len(box) != 4:
        return BOX_IN_REST
    a, b, c, d = box
    if type(a) is type(b) is type(c) is type(d) is float:
        return 0
    kind = 0
    for bit, value in enumerate(box):
        if type(value) is int and -_EXACT <= value <= _EXACT:
            kind |= 1 << bit
        elif type(value) is not float:
            return BOX_IN_REST
    return kind


def _visible(keypoints: Any) -> int:
    if type(keypoints) is not list:
        raise Unusual
    return sum(value > 0 for value in keypoints[2::3])


def _contiguous(category: np.ndarray, category_map: dict[int, int] | None, offset: int) -> np.ndarray:
    if category_map is None:
        result = category + offset
        if len(result) and not -_INT32 <= result.min() <= result.max() < _INT32:
            raise Unusual
        return result.astype(np.int32)
    found, inverse = np.unique(category, return_inverse=True)
    try:
        mapped = [category_map[value] for value in found.tolist()]
    except KeyError as error:
        raise Unusual from error
    return np.array(mapped, np.int32)[inverse]


def _image_arrays(images: list[dict[str, Any]], arrays: dict[str, np.ndarray]) -> list[bytes]:
    """Fill in the arrays of images; returns the JSON of what does not fit into them."""
    size, ids, odd = np.zeros((len(images), 2), np.int32), np.zeros(len(images), np.int64), bytearray(len(images))
    name, name_end, rests = bytearray(), np.zeros(len(images), np.int64), []
    for number, image in enumerate(images):
        rest = dict(image)
        name += rest.pop("file_name").encode(errors="surrogatepass")
        name_end[number] = len(name)
        for bit, key in enumerate(("height", "width", "image_id")):
            value, limit = rest.get(key), _INT32 if bit < 2 else 2**63
            if type(value) is not int or not -limit <= value < limit:
                odd[number] |= 1 << bit
                continue
            del rest[key]
            if bit < 2:
                size[number, bit] = value
            else:
                ids[number] = value
        rests.append(_json(rest) if rest else b"")
    arrays |= {"size": size, "image_id": ids, "image_odd": np.frombuffer(odd, np.uint8)}
    arrays |= {"name": np.frombuffer(name, np.uint8), "name_end": name_end}
    return rests


def _json(value: dict[str, Any]) -> bytes:
    # the one thing that JSON cannot hold are the bytes of a run-length code
    return json.dumps(value, separators=(",", ":"), default=lambda code: {"ascii": code.decode("ascii")}).encode()
