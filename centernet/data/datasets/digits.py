"""The embedded demonstration data: real handwritten digits on crops of real photographs, in COCO format.

``digits_train`` and ``digits_val`` are made on the user's machine from what the scikit-learn and scikit-image
wheels contain, so no download is needed (see :mod:`.digits_render` for the sources and their licences, which
are also written beside the data). No handwriting sample and no part of a photograph is in both splits.
Generation is deterministic from the seed.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import UserError
from .digits_render import PHOTOS, Scene, draw_scene, load_source
from .registration import data_root, register_coco_json

__all__ = ["CLASSES", "generate_digits"]

CLASSES = [str(digit) for digit in range(10)]
FOLDER = "digits"
VERSION = 3  # raise it when the drawing changes: existing data is then made anew
JPEG_QUALITY = 90
MARKER = "made_by_centernet.json"  # written last; says what the folder holds

_LICENCE_TEXT = """\
The images in this folder were drawn by `python tools/make_demo_data.py` from:

handwritten digits: UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak;
doi.org/10.24432/C50P49),
    CC BY 4.0, as shipped by scikit-learn
photographs, as shipped by scikit-learn (sklearn.datasets) and scikit-image (skimage), cropped, scaled and
drawn on:
"""


def generate_digits(
    root: str | os.PathLike[str] | None = None,
    *,
    train: int = 1500,
    val: int = 200,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make the embedded data in ``root/digits``; if it is there already, complete and made the same way, do
    nothing.

    The folder appears all at once, by a rename, so an interrupted generation leaves nothing that could pass
    for complete. The JSON files are byte-identical for the same arguments, the JPEG pixels for the same
    Pillow.

    Args:
        root: the datasets folder; default :func:`data_root`.
        train, val: number of images of each split.
        seed: of everything random.
        progress: called with (images done, images in all).

    Returns:
        The folder, which holds ``train/``, ``val/``, ``annotations/digits_{train,val}.json`` and
        ``LICENSES.txt``.

    Raises:
        UserError: the folder exists but was not made by this function, or a source package is missing.
    """
    target = Path(data_root() if root is None else root) / FOLDER
    marker = {"version": VERSION, "seed": seed, "train": train, "val": val}
    existing = _read_marker(target)
    if existing == marker:
        return target
    if existing is None and target.exists() and any(target.iterdir()):
        raise UserError(
            f"{target} exists but was not made by this tool: move it away or choose another --root"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-partial-", dir=target.parent))
    try:
        done = 0
        for number, (split, count) in enumerate({"train": train, "val": val}.items()):

            def report(index: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + index, train + val)

            _write_split(partial, split, count, (seed, number), report)
            done += count
        _write_text(partial / "LICENSES.txt", _licences())
        _write_text(partial / MARKER, json.dumps(marker))
        partial.chmod(0o755)  # mkdtemp makes it private
        _replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write_split(
    folder: Path, split: str, count: int, seeds: tuple[int, int], report: Callable[[int], None]
) -> None:
    (folder / split).mkdir()
    source = load_source(split)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        # one generator an image: image k is the same whatever the number of images
        scene = draw_scene(source, np.random.default_rng([*seeds, index]))
        image = _image_record(index + 1, scene)
        Image.fromarray(scene.pixels).save(folder / split / image["file_name"], quality=JPEG_QUALITY)
        images.append(image)
        annotations += _annotation_records(index + 1, len(annotations) + 1, scene)
        report(index + 1)
    content = {
        "info": {"description": "handwritten digits on photographs", "version": str(VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": digit + 1, "name": name} for digit, name in enumerate(CLASSES)],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    _write_text(folder / "annotations" / f"digits_{split}.json", json.dumps(content))


def _image_record(image_id: int, scene: Scene) -> dict[str, Any]:
    height, width = scene.pixels.shape[:2]
    return {
        "id": image_id,
        "file_name": f"{image_id:06d}.jpg",
        "height": height,
        "width": width,
        "photo": scene.photo,
        "crop": list(scene.crop),
    }


def _annotation_records(image_id: int, first_id: int, scene: Scene) -> list[dict[str, Any]]:
    rows = zip(scene.boxes.tolist(), scene.labels.tolist(), scene.samples.tolist(), strict=True)
    return [
        {
            "id": first_id + offset,
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "sample": sample,
        }
        for offset, (box, label, sample) in enumerate(rows)
    ]


def _licences() -> str:
    return _LICENCE_TEXT + "".join(f"    {photo.package}/{photo.path}: {photo.licence}\n" for photo in PHOTOS)


def _read_marker(folder: Path) -> dict[str, int] | None:
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _replace(partial: Path, target: Path) -> None:
    """Put the finished folder in its place; an older one is moved out of the way first, then deleted."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-old-", dir=target.parent))
        os.replace(target, old / FOLDER)
        os.replace(partial, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(partial, target)


def _register() -> None:
    folder = os.path.join(data_root(), FOLDER)
    for split in ("train", "val"):
        register_coco_json(
            f"digits_{split}",
            os.path.join(folder, "annotations", f"digits_{split}.json"),
            os.path.join(folder, split),
            metadata={"thing_classes": list(CLASSES)},
            how_to_get="make it with `python tools/make_demo_data.py`",
        )


_register()
