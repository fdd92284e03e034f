"""What was found in one picture, and the forms that others want it in."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances

from ..errors import UserError
from .images import Channels, Picture, Source, read_picture
from .outputs import atomic_path, save_image
from .visualize import draw_predictions

__all__ = ["Categories", "Detections", "categories_of", "encode_mask"]

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Categories:
    """The classes of a model, in its order.

    Attributes:
        names: one a class.
        ids: of the data set (COCO's ``category_id``); 1, 2, ... where it has none.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def as_coco(self) -> list[dict[str, Any]]:
        """COCO's ``categories``."""
        return [{"id": number, "name": name} for number, name in zip(self.ids, self.names, strict=True)]


def categories_of(metadata: Metadata) -> Categories:
    """The classes that ``metadata`` names, with the ids of their data set where it or its annotation file tells
    them."""
    names = tuple(metadata.thing_classes)
    by_id = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = sorted(by_id, key=by_id.__getitem__) or _ids_of_file(metadata.get("json_file"))
    return Categories(names, tuple(ids) if len(ids) == len(names) else tuple(range(1, len(names) + 1)))


def _ids_of_file(json_file: str | None) -> list[int]:
    if not json_file or not Path(json_file).is_file():
        return []
    return sorted(category["id"] for category in json.loads(Path(json_file).read_bytes())["categories"])


class Detections(Instances):
    """detectron2's ``Instances`` of one picture, on the CPU, best first, and what they can be turned into.

    Indexing (``found[found.scores > 0.5]``) and ``to`` give ``Detections`` again.

    Fields:
        pred_boxes: ``Boxes``, float32 [N, 4], x1 y1 x2 y2 in pixels of the picture as given (upright by its EXIF data).
        scores: float32 [N] in [0, 1].
        pred_classes: int64 [N], index into :attr:`class_names`.
        objectness: float32 [N] in [0, 1], the first stage's P(object); only of this package's box models.
        pred_masks: bool [N, H, W], of models that have masks; pred_keypoints: [N, K, 3] likewise.
        track_ids: int64 [N], where a tracker has given them.
    """

    _categories: Categories
    _picture: Picture | None
    _position: int

    @classmethod
    def of(
        cls,
        instances: Instances,
        categories: Categories,
        picture: Picture | None = None,
        position: int = 0,
    ) -> "Detections":
        """``instances`` with names, and the picture that :meth:`plot` draws on, whose pixels are not kept: results of
        a folder would hold all of its photos."""
        result = cls(instances.image_size, **instances.get_fields())
        if picture is not None:
            picture = picture._replace(pixels=_NO_PIXELS)
        result._categories, result._picture, result._position = categories, picture, position
        return result

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes that the model tells apart."""
        return self._categories.names

    @property
    def source(self) -> str | None:
        """Path or address of the picture; None of what has none."""
        return self._picture.source if self._picture else None

    @property
    def position(self) -> int:
        """Of the picture in the list or iterator that was given, from 0."""
        return self._position

    def __getitem__(self, item: Any) -> "Detections":
        return self._like(super().__getitem__(item))

    def to(self, *args: Any, **kwargs: Any) -> "Detections":
        """All fields on another device."""
        return self._like(super().to(*args, **kwargs))

    def _like(self, instances: Instances) -> "Detections":
        return self.of(instances, self._categories, self._picture, self._position)

    def to_coco(self, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """COCO's result entries: ``image_id``, ``category_id``, ``bbox`` (x, y, w, h in pixels), ``score``, and of
        models that have them ``segmentation`` (run lengths), ``keypoints``, ``objectness``, ``track_id``.

        Args:
            image_id: of the picture in its data set; None: :attr:`position`.
        """
        boxes = self.pred_boxes.tensor.double().cpu().clone()
        boxes[:, 2:] -= boxes[:, :2]
        number = self.position if image_id is None else image_id
        entries: list[dict[str, Any]] = [
            {"image_id": number, "category_id": self._categories.ids[label], "bbox": box, "score": score}
            for box, score, label in zip(boxes.tolist(), self.scores.tolist(), self.pred_classes.tolist(), strict=True)
        ]
        for key, values in self._further_columns().items():
            for entry, value in zip(entries, values, strict=True):
                entry[key] = value
        if self.has("pred_masks"):
            for entry, mask in zip(entries, self.pred_masks.cpu().numpy(), strict=True):
                entry["segmentation"] = encode_mask(mask)
        if self.has("pred_keypoints"):
            for entry, points in zip(entries, self.pred_keypoints.flatten(1).tolist(), strict=True):
                entry["keypoints"] = points
        return entries

    def to_supervision(self) -> Any:
        """``supervision.Detections``, with ``data["class_name"]`` and, where there is one, ``data["objectness"]``.

        Raises:
            UserError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise _missing("supervision", "to_supervision()") from error
        labels = self.pred_classes.cpu().numpy()
        data: dict[str, Any] = {"class_name": np.array(self.class_names, dtype=str)[labels]}
        if self.has("objectness"):
            data["objectness"] = self.objectness.cpu().numpy()
        return supervision.Detections(
            xyxy=self.pred_boxes.tensor.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=labels,
            mask=self.pred_masks.cpu().numpy().astype(bool) if self.has("pred_masks") else None,
            tracker_id=self.track_ids.cpu().numpy() if self.has("track_ids") else None,
            data=data,
        )

    def to_dataframe(self) -> Any:
        """``pandas.DataFrame``, one row a detection: ``x1, y1, x2, y2`` (pixels), ``score``, ``class_id``,
        ``class_name`` and, where there are such, ``objectness`` and ``track_id``.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise _missing("pandas", "to_dataframe()") from error
        return pandas.DataFrame(self._columns())

    def plot(self, image: Source | None = None, *, channels: Channels | None = None) -> np.ndarray:
        """Draw boxes, names and scores.

        Args:
            image: what to draw on, of any kind that the predictor takes and of this picture's size; None: the picture
                that was given to the predictor (a file is read again; an array must not have been changed since).
            channels: of ``image`` where that is an array or tensor; None: as said to the predictor.

        Returns:
            uint8 [H, W, 3], **RGB**.

        Raises:
            UserError: there is no picture, it cannot be read, or is of another size.
        """
        if image is None:
            if self._picture is None:
                raise UserError("these detections do not know their picture: give it, plot(image)")
            image = self._picture.origin
        known = self._picture.channels if self._picture else None
        pixels = read_picture(image, channels or known).pixels
        if pixels.shape[:2] != tuple(self.image_size):
            raise UserError(
                f"the detections are of a picture of {self.image_size[1]} x {self.image_size[0]} pixels, and the one "
                f"to draw on has {pixels.shape[1]} x {pixels.shape[0]}: give the same picture"
            )
        metadata = Metadata(name="detections", thing_classes=list(self.class_names))
        drawn = draw_predictions(np.ascontiguousarray(pixels[:, :, ::-1]), {"instances": self}, metadata)
        return drawn.get_image()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path``, whole or not at all, by its extension: a picture (:meth:`plot`), ``.json`` (one object:
        ``source``, ``height``, ``width``, ``categories``, ``detections`` as :meth:`to_coco`) or ``.csv`` (the columns
        of :meth:`to_dataframe`).

        Raises:
            UserError: another extension, or it cannot be written.
        """
        file = Path(path).expanduser()
        suffix = file.suffix.lower()
        if suffix in _PICTURES:
            save_image(self.plot(), file)
        elif suffix == ".json":
            height, width = self.image_size
            content = {"source": self.source, "height": height, "width": width}
            content |= {"categories": self._categories.as_coco(), "detections": self.to_coco()}
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps(content), encoding="utf-8")
        elif suffix == ".csv":
            columns = self._columns()
            with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(columns)
                writer.writerows(zip(*columns.values(), strict=True))
        else:
            raise UserError(f"{file} has no ending that says what to write: use {', '.join(_PICTURES)}, .json or .csv")

    def _columns(self) -> Mapping[str, Sequence[Any]]:
        sides = self.pred_boxes.tensor.cpu().unbind(dim=1)
        columns: dict[str, Sequence[Any]] = {
            name: side.tolist() for name, side in zip(("x1", "y1", "x2", "y2"), sides, strict=True)
        }
        labels = self.pred_classes.tolist()
        columns |= {"score": self.scores.tolist(), "class_id": labels}
        columns["class_name"] = [self.class_names[label] for label in labels]
        return columns | self._further_columns()

    def _further_columns(self) -> dict[str, list[Any]]:
        fields = {"objectness": "objectness", "track_id": "track_ids"}
        return {name: self.get(field).tolist() for name, field in fields.items() if self.has(field)}


def encode_mask(mask: np.ndarray | torch.Tensor) -> dict[str, Any]:
    """COCO's run lengths of a mask, bool [H, W]: ``{"size": [H, W], "counts": text}``."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(np.asarray(mask).astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def _missing(package: str, method: str) -> UserError:
    return UserError(f"{method} needs {package}, which is not installed: pip install -e '.[results]'")
