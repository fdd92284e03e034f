"""The intermediate JSON of the published programs (COCO with videos), read and written.

Files made for the published code can be used as they are, and theirs can be made. Boxes are ``xywh`` in which ``w``
counts pixels; angles, sizes and translations are those of :mod:`.records`. Source: QD-3DT's converters.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import BoxMode

from ...errors import UserError, writing
from ..ops.geometry import euler_to_matrix, matrix_to_quaternion, quaternion_to_euler
from .records import Record, in_video_order

_EXTRAS = (
    "sensor_id", "is_key_frame", "key_frame_index", "car_from_cam", "sample_token", "sample_data_token", "scene_token",
    "ignore_regions",
)  # fmt: skip


def read_coco_vid(path: str | Path, image_root: str | Path = "", classes: Sequence[str] | None = None) -> list[Record]:
    """Frame records of a file.

    Args:
        path: the JSON file.
        image_root: what relative ``file_name``s begin at; "" leaves them as they are (relative to the working folder,
            as the published code takes them).
        classes: names of the contiguous classes; annotations of others are left out. Default: the file's categories
            by id.

    Returns:
        In video order. Annotations marked ``ignore`` are left out, as are boxes without area.

    Raises:
        UserError: no such file, no JSON of this layout, or frames that contradict each other.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
        ids = [c["id"] for c in sorted(content["categories"], key=lambda item: item["id"])]
        if classes is not None:
            named = {c["name"]: c["id"] for c in content["categories"]}
            ids = [named.get(name) for name in classes]
        contiguous = {number: row for row, number in enumerate(ids) if number is not None}
        names = {video["id"]: video["name"] for video in content["videos"]}
        of_image: dict[int, list[Record]] = {}
        for annotation in content.get("annotations", []):
            if annotation["category_id"] in contiguous and (made := _annotation(annotation, contiguous)):
                of_image.setdefault(annotation["image_id"], []).append(made)
        labelled = "annotations" in content
        frames = [_frame(image, names, Path(image_root)) for image in content["images"]]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; make it with a reader") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path} is no COCO file with videos and cameras ({type(error).__name__}: {error}): it needs categories, "
            "videos, images with cali and pose, and annotations"
        ) from error
    for frame in frames:
        if labelled:
            frame["annotations"] = of_image.get(frame["image_id"], [])
    return in_video_order(frames)


def _frame(image: dict[str, Any], names: dict[int, str], root: Path) -> Record:
    frame: Record = {
        "file_name": str(root / image["file_name"]),
        "height": int(image["height"]),
        "width": int(image["width"]),
        "image_id": image["id"],
        "video_id": image["video_id"],
        "video": names[image["video_id"]],
        "frame_index": int(image.get("index", image.get("frame_id", 0))),
        "camera": str(image.get("sensor_id", image.get("camera", ""))),
        "intrinsics": image["cali"],
    }
    if image.get("pose") is not None:
        rotation = torch.tensor(image["pose"]["rotation"], dtype=torch.float64)
        matrix = euler_to_matrix(rotation) if rotation.dim() == 1 else rotation
        frame["pose"] = {"rotation": matrix.tolist(), "position": list(image["pose"]["position"])}
    if image.get("timestamp") is not None:
        frame["timestamp"] = image["timestamp"] / 1e6  # microseconds
    frame.update({key: image[key] for key in _EXTRAS if key in image})
    return frame


def _annotation(annotation: dict[str, Any], contiguous: dict[int, int]) -> Record | None:
    x, y, width, height = (float(side) for side in annotation["bbox"])
    if annotation.get("ignore") or width < 1 or height < 1 or annotation.get("area", 1) <= 0:
        return None
    translation = [float(side) for side in annotation["translation"]]
    return {
        "bbox": [x, y, x + width, y + height],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": contiguous[annotation["category_id"]],
        "instance_id": annotation["instance_id"],
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "alpha": float(annotation["alpha"]),
        "yaw": float(annotation["roty"]),
        "dims": [float(side) for side in annotation["dimension"]],
        "translation": translation,
        "center2d": [float(side) for side in annotation["center_2d"]],
        "depth": translation[2],
    }


def write_coco_vid(
    records: Iterable[Record], classes: Sequence[str], path: str | Path, image_root: str | Path = ""
) -> None:
    """Write frame records as the published programs read them.

    Args:
        records: any order; written in video order with image ids 0, 1, ... (their place in the list).
        classes: names of the classes 0, 1, ...; written with ids from 1.
        path: the file; its folder is made.
        image_root: taken off the file names that begin with it.

    Raises:
        UserError: the disk refuses, or frames contradict each other.
    """
    videos: dict[Any, dict[str, Any]] = {}
    content: dict[str, list[Any]] = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "videos": [],
        "images": [],
        "annotations": [],
    }
    for number, record in enumerate(in_video_order(records)):
        if record["video_id"] not in videos:
            name = str(record.get("video", record["video_id"]))
            videos[record["video_id"]] = {"id": len(videos), "name": name, "n_frames": 0}
        video = videos[record["video_id"]]
        video["n_frames"] += 1
        content["images"].append(_image(record, number, video["id"], Path(image_root)))
        for annotation in record.get("annotations", []):
            made = _written(annotation, len(content["annotations"]) + 1, number)
            content["annotations"].append(made)
    content["videos"] = list(videos.values())
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def _image(record: Record, number: int, video: int, root: Path) -> dict[str, Any]:
    name = Path(record["file_name"])
    image: dict[str, Any] = {
        "file_name": str(name.relative_to(root) if name.is_relative_to(root) else name),
        "cali": record["intrinsics"],
        "height": record["height"],
        "width": record["width"],
        "fov": 60,  # read by nobody, as is near_clip
        "near_clip": 0.15,
        "id": number,
        "video_id": video,
        "index": record["frame_index"],
        "camera": record.get("camera", ""),
    }
    if record.get("pose") is not None:
        matrix = torch.tensor(record["pose"]["rotation"], dtype=torch.float64)
        euler = quaternion_to_euler(matrix_to_quaternion(matrix))
        image["pose"] = {"rotation": euler.tolist(), "position": record["pose"]["position"]}
    if record.get("timestamp") is not None:
        image["timestamp"] = round(record["timestamp"] * 1e6)
    return image | {key: record[key] for key in _EXTRAS if key in record}


def _written(annotation: Record, number: int, image: int) -> dict[str, Any]:
    x1, y1, x2, y2 = annotation["bbox"]
    u, v = annotation["center2d"]
    return {
        "id": number,
        "image_id": image,
        "category_id": annotation["category_id"] + 1,
        "instance_id": annotation["instance_id"],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "alpha": annotation["alpha"],
        "roty": annotation["yaw"],
        "dimension": annotation["dims"],
        "translation": annotation["translation"],
        "center_2d": annotation["center2d"],
        "delta_2d": [u - (x1 + x2) / 2, v - (y1 + y2) / 2],
        "is_occluded": 0,
        "is_truncated": 0,
        "iscrowd": annotation.get("iscrowd", 0),
        "ignore": 0,
        "segmentation": [[x1, y1, x1, y2, x2, y2, x2, y1]],
    }
