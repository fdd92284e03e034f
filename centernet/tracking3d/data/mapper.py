"""Frame records to model inputs: single frames for tests, key and reference pairs for training.

Source: QD-3DT's data pipeline (arXiv 2103.07351, section 4; its configurations).
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray

from ...errors import UserError
from ..ops.geometry import flip_alpha
from ..ops.mode import Mode
from .constants import PAIR_WINDOW
from .records import Boxes3D, Record, boxes_of, camera_of, in_video_order

_TRIES = 100
_SMALLEST = 1.0  # pixels: narrower or lower boxes are no objects

Picture = NDArray[np.uint8]


def resize_factor(height: int, width: int, min_size: int, max_size: int) -> float:
    """Factor by which a picture of this size is resized: both bounds are kept, one is reached."""
    return min(max_size / max(height, width), min_size / min(height, width))


def resize_picture(image: Picture, factor: float, mode: Mode) -> Picture:
    """A picture ``[H, W, 3]`` resized; sides are ``int(side * factor + 0.5)``. Bilinear: OpenCV's in parity mode, as
    published; Pillow's, which averages when it shrinks, in modern mode.
    """
    height, width = (int(side * factor + 0.5) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    if mode == "parity":
        import cv2

        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


class FrameMapper:
    """Test inputs: the picture, resized; what trackers and evaluators need of the record travels along.

    The input dict has the record's keys without the annotations, with "image" (uint8 ``[3, H', W']``), "intrinsics"
    (float64 ``[3, 4]`` of the original picture) and "resize_factor".
    """

    def __init__(self, min_size: int, max_size: int, channels: str = "RGB", mode: Mode = "modern") -> None:
        """
        Args:
            min_size, max_size: bounds of the shorter and the longer side, pixels.
            channels: "RGB" or "BGR", what the model wants.
            mode: of the resizing.
        """
        self.min_size = min_size
        self.max_size = max_size
        self.channels = channels
        self.mode = mode

    def __call__(self, record: Record) -> dict[str, Any]:
        image = _picture(record)
        factor = resize_factor(record["height"], record["width"], self.min_size, self.max_size)
        kept = {key: value for key, value in record.items() if key not in ("annotations", "image")}
        return kept | {
            "image": _to_tensor(resize_picture(image, factor, self.mode), self.channels),
            "intrinsics": camera_of(record).intrinsics,
            "resize_factor": factor,
        }


class PairMapper:
    """Training inputs: a key frame and a reference frame of the same video with an object in common.

    Map the elements of :attr:`rows`, not records. The reference is drawn from the ``window`` frames before and after
    the key (from frames of the same camera, as they stand in the data); a still picture is its own. Where one of the
    two has no object or none is in both, another key of the same orientation is drawn. Draws come from ``random``, as
    the loader seeds it for every sample. One flip holds for both pictures.

    The input dict has "image", "height", "width", "file_name", "instances", "intrinsics" (float32 ``[3, 4]`` of the
    original picture, not flipped), "resize_factor", "flipped" and "reference", a dict of the same kind. ``instances``
    (pixels of the resized picture): gt_boxes, gt_classes int64, gt_depth, gt_alpha, gt_dims ``[N, 3]`` h w l,
    gt_center_offset ``[N, 2]`` (projected 3D centre minus middle of the 2D box, pixels of the ORIGINAL picture),
    gt_instance int64, and on the key gt_match int64: its row in the reference's instances, or -1. Records with
    ``ignore_regions`` give them as Boxes in the resized picture.
    """

    def __init__(
        self,
        records: Sequence[Record],
        min_size: int,
        max_size: int,
        *,
        channels: str = "RGB",
        flip_probability: float = 0.5,
        window: int = PAIR_WINDOW,
        photometric: bool = False,
        mode: Mode = "modern",
    ) -> None:
        """
        Args:
            records: annotated frame records; empty frames count as neighbours, but are no keys.
            min_size, max_size: bounds of the shorter and the longer side, pixels.
            channels: "RGB" or "BGR", what the model wants.
            flip_probability: of mirroring a pair.
            window: frames.
            photometric: change brightness, contrast and saturation of both pictures, each by itself (inert in the
                published programs).
            mode: parity scales boxes by the factor, modern by the sizes as rounded; also of resizing and of unknown
                angles under a flip.

        Raises:
            UserError: no annotations, or videos out of order.
        """
        ordered = in_video_order(records)
        self.min_size, self.max_size = min_size, max_size
        self.channels = channels
        self.flip_probability = flip_probability
        self.window = window
        self.mode = mode
        # brightness by up to 32 of 255; contrast and saturation by half
        self._photometric = (
            [T.RandomContrast(0.5, 1.5), T.RandomSaturation(0.5, 1.5), T.RandomBrightness(0.75, 1.25)]
            if photometric
            else []
        )
        self._records = DatasetFromList(ordered, copy=False)  # serialised: workers share its memory
        self._instances = [{int(a["instance_id"]) for a in _objects(record)} for record in ordered]
        self._neighbours = _neighbours(ordered, window)
        self.rows: list[Record] = [
            {key: record[key] for key in ("file_name", "height", "width")} | {"row": row}
            for row, record in enumerate(ordered)
            if self._instances[row]
        ]
        if not self.rows:
            raise UserError(f"none of the {len(ordered)} frames has an annotated object: there is nothing to train on")
        self._keys: dict[bool, list[int]] = {True: [], False: []}
        for key in self.rows:
            self._keys[key["width"] > key["height"]].append(key["row"])

    def __call__(self, row: Record) -> dict[str, Any] | None:
        key = row["row"]
        for _ in range(_TRIES):
            reference = self._draw_reference(key)
            if self._instances[key] & self._instances[reference]:
                return self._pair(self._records[key], self._records[reference])
            key = random.choice(self._keys[row["width"] > row["height"]])
        return None  # the loader takes another image, and gives up after many

    def _draw_reference(self, key: int) -> int:
        return random.choice(self._neighbours[key] or [key])

    def _pair(self, key: Record, reference: Record) -> dict[str, Any]:
        flip = random.random() < self.flip_probability
        made = self._map(key, flip)
        other = self._map(reference, flip)
        ids = other["instances"].gt_instance
        equal = made["instances"].gt_instance[:, None] == ids[None]
        found = equal.any(1)
        match = equal.long().argmax(1) if len(ids) else torch.zeros(len(found), dtype=torch.int64)
        made["instances"].gt_match = torch.where(found, match, torch.full_like(match, -1))
        made["reference"] = other
        return made

    def _map(self, record: Record, flip: bool) -> dict[str, Any]:
        image = _picture(record)
        factor = resize_factor(record["height"], record["width"], self.min_size, self.max_size)
        image = resize_picture(image, factor, self.mode)
        for augmentation in self._photometric:
            image = augmentation(T.AugInput(image)).apply_image(image)
        if flip:
            image = image[:, ::-1]
        boxes = boxes_of(record | {"annotations": _objects(record)})
        size = image.shape[0], image.shape[1]
        made = {
            "file_name": record["file_name"],
            "height": record["height"],
            "width": record["width"],
            "video_id": record["video_id"],
            "frame_index": record["frame_index"],
            "image": _to_tensor(image, self.channels),
            "instances": self._instances_of(boxes, record, size, factor, flip),
            "intrinsics": camera_of(record).intrinsics.float(),
            "resize_factor": factor,
            "flipped": flip,
        }
        if "ignore_regions" in record:
            regions = torch.tensor(record["ignore_regions"], dtype=torch.float64).reshape(-1, 4)
            made["ignore_regions"] = Boxes(self._placed(regions, record, size, factor, flip))
        return made

    def _instances_of(
        self, boxes: Boxes3D, record: Record, size: tuple[int, int], factor: float, flip: bool
    ) -> Instances:
        centres = torch.tensor([a["center2d"] for a in _objects(record)], dtype=torch.float64).reshape(-1, 2)
        offset = centres - (boxes.boxes[:, :2] + boxes.boxes[:, 2:]) / 2
        alpha = boxes.alpha
        if flip:
            offset = offset * offset.new_tensor([-1, 1])
            alpha = flip_alpha(alpha, mode=self.mode)
        instances = Instances(size)
        instances.gt_boxes = Boxes(self._placed(boxes.boxes, record, size, factor, flip))
        instances.gt_classes = boxes.classes
        instances.gt_depth = boxes.xyz[:, 2].float()
        instances.gt_alpha = alpha.float()
        instances.gt_dims = boxes.dims.float()
        instances.gt_center_offset = offset.float()
        instances.gt_instance = boxes.instances
        return instances

    def _placed(
        self, boxes: torch.Tensor, record: Record, size: tuple[int, int], factor: float, flip: bool
    ) -> torch.Tensor:
        """Original pixels to those of the resized, perhaps mirrored picture; float32, inside it."""
        height, width = size
        scale = (factor, factor) if self.mode == "parity" else (width / record["width"], height / record["height"])
        boxes = boxes * boxes.new_tensor([*scale, *scale])
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
        if flip:
            boxes = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1)
        return boxes.float()


def _neighbours(ordered: Sequence[Record], window: int) -> list[list[int]]:
    """Rows of the frames around each frame in its video, itself left out."""
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}
    for row, record in enumerate(ordered):
        first.setdefault(record["video_id"], row)
        last[record["video_id"]] = row
    return [
        [
            other
            for other in range(
                max(row - window, first[record["video_id"]]), min(row + window, last[record["video_id"]]) + 1
            )
            if other != row
        ]
        for row, record in enumerate(ordered)
    ]


def _objects(record: Record) -> list[Record]:
    """Annotations that train: not ignored, with a box of a pixel or more."""
    return [
        a
        for a in record.get("annotations", [])
        if not a.get("iscrowd")
        and not a.get("ignore")
        and min(a["bbox"][2] - a["bbox"][0], a["bbox"][3] - a["bbox"][1]) >= _SMALLEST
    ]


def _picture(record: Record) -> Picture:
    image = record.get("image")
    if image is None:  # what cannot be read stays an OSError: the loader replaces such pictures in training
        image = read_image(record["file_name"], format="RGB")
    if image.shape[:2] != (record["height"], record["width"]):
        raise UserError(
            f"{record['file_name']} is {image.shape[1]}x{image.shape[0]} pixels, its record and camera matrix are of "
            f"{record['width']}x{record['height']}: give the picture that was calibrated"
        )
    return image


def _to_tensor(image: Picture, channels: str) -> torch.Tensor:
    if channels == "BGR":
        image = image[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
