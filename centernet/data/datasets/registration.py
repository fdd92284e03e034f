"""Registration of COCO-format datasets with one-sentence errors, and names that register themselves.

detectron2's catalogs hold the data; this module adds what they lack: registering twice is harmless, a missing
file says how to get it, and ``coco_json:PATH/TO.json:IMAGE_ROOT`` in ``DATASETS.TRAIN`` / ``DATASETS.TEST``
names a user's own data without code.
"""

import contextlib
import difflib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_lvis_json
from detectron2.utils.file_io import PathManager

from ...errors import UserError
from ..index import Records, open_index
from ..index_columns import Unusual

__all__ = ["check_files", "class_names", "data_root", "ensure_registered", "open_dataset", "register_coco_json"]

ON_THE_FLY = "coco_json:"


def data_root() -> str:
    """Folder of all datasets: environment variable ``DETECTRON2_DATASETS``, else ``datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_coco_json(
    name: str,
    json_file: str,
    image_root: str,
    *,
    metadata: dict[str, Any] | None = None,
    extra_annotation_keys: Sequence[str] = (),
    how_to_get: str = "",
) -> None:
    """Register a COCO-format dataset under ``name``; nothing is read before the first use.

    A name that is already registered is left as it is, so importing the package twice (or under two names) is
    harmless.

    Args:
        name: the name for ``DATASETS.TRAIN`` / ``DATASETS.TEST``.
        json_file: COCO "instances" JSON.
        image_root: the folder that ``file_name`` of the JSON's images is relative to.
        metadata: e.g. ``{"thing_classes": [...]}``, so that the classes are known before the JSON is read.
        extra_annotation_keys: further keys of each annotation to keep, e.g. ``("score",)``.
        how_to_get: half a sentence that ends the error for missing files, e.g. "run `python
            tools/make_demo_data.py`".
    """
    if name in DatasetCatalog.list():
        return
    DatasetCatalog.register(name, JsonSource(name, json_file, image_root, tuple(extra_annotation_keys)))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        how_to_get=how_to_get,
        **(metadata or {}),
    )


def ensure_registered(names: Iterable[str]) -> None:
    """Register the ``coco_json:...`` names among ``names`` and check that all others are registered.

    Raises:
        UserError: a name is unknown (the nearest registered one is given) or a ``coco_json:`` name is
        malformed.
    """
    for name in names:
        if name in DatasetCatalog.list():
            continue
        if name.startswith(ON_THE_FLY):
            json_file, separator, image_root = name[len(ON_THE_FLY) :].rpartition(":")
            if not (separator and json_file and image_root):
                raise UserError(f"dataset name '{name}' must have the form coco_json:PATH/TO.json:IMAGE_ROOT")
            remedy = "put it there, mend the path in DATASETS, or give data of your own to train_net.py with --data"
            keys = ("score",)  # of pseudo labels
            register_coco_json(name, json_file, image_root, extra_annotation_keys=keys, how_to_get=remedy)
            continue
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=1, cutoff=0.5)
        hint = f"the nearest registered name is '{near[0]}'" if near else "no registered name is near it"
        raise UserError(
            f"dataset '{name}' is not registered: {hint} "
            "(name your own COCO-format data coco_json:PATH/TO.json:IMAGE_ROOT)"
        )


def check_files(name: str) -> None:
    """Check that the JSON file and the image folder of a registered dataset exist.

    Datasets whose metadata name no files (registered by other code) pass.

    Raises:
        UserError: one of them is missing.
    """
    metadata = MetadataCatalog.get(name)
    remedy = (
        metadata.get("how_to_get")
        or "put it there or set DETECTRON2_DATASETS to the folder that holds your datasets"
    )
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    if json_file and not PathManager.isfile(json_file):
        raise UserError(f"dataset '{name}' has no annotation file {json_file}: {remedy}")
    if image_root and not PathManager.isdir(image_root):
        raise UserError(f"dataset '{name}' has no image folder {image_root}: {remedy}")


def class_names(name: str) -> list[str] | None:
    """Class names of a registered dataset in the order of the contiguous ids 0, 1, ...; None if nobody can
    tell.

    They come from the metadata, else from the categories of the JSON file (sorted by id, as detectron2 does).

    Raises:
        UserError: the JSON file is missing or is not COCO format.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and metadata.get("json_file"):
        check_files(name)
        with PathManager.open(metadata.json_file) as file:
            metadata.thing_classes = _categories(metadata.json_file, file.read())
    names = metadata.get("thing_classes")
    return None if names is None else list(names)


def _categories(json_file: str, text: str) -> list[str]:
    try:
        return [
            category["name"]
            for category in sorted(json.loads(text)["categories"], key=lambda item: item["id"])
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{json_file} is not a COCO annotation file: {_reason(error)}") from error


def open_dataset(name: str) -> Sequence[dict[str, Any]]:
    """The dataset dicts of a registered dataset: from its index if it was registered with a COCO or LVIS JSON file, by
    :func:`register_coco_json` or by detectron2; from the registered function otherwise.

    Raises:
        UserError: files are missing or not in their format.
    """
    function = DatasetCatalog[name]
    source = function if isinstance(function, JsonSource) else _builtin_source(name, function)
    if source is not None:
        try:
            return source.open()
        except Unusual:
            pass
    return DatasetCatalog.get(name)


@dataclass(frozen=True)
class JsonSource:
    """A COCO or LVIS JSON file; called, it gives its dataset dicts as a list, as detectron2's catalog wants it."""

    name: str
    json_file: str
    image_root: str
    extra_annotation_keys: tuple[str, ...] = ()
    lvis: bool = False

    def __call__(self) -> list[dict[str, Any]]:
        load = load_lvis_json if self.lvis else load_coco_json
        keys = list(self.extra_annotation_keys)
        with self._checked():
            return load(self.json_file, self.image_root, self.name, extra_annotation_keys=keys)

    def open(self) -> Records:
        """The same from the index."""
        with self._checked():
            keys = self.extra_annotation_keys
            return open_index(
                self.json_file, self.image_root, self.name, lvis=self.lvis, extra_annotation_keys=keys
            )

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        check_files(self.name)
        try:
            yield
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            kind = "an LVIS" if self.lvis else "a COCO"
            raise UserError(f"{self.json_file} is not {kind} annotation file: {_reason(error)}") from error


def _builtin_source(name: str, function: Callable[[], Any]) -> JsonSource | None:
    """What detectron2's own registering functions were given; None for any other function."""
    module = getattr(function, "__module__", "")
    if module not in ("detectron2.data.datasets.coco", "detectron2.data.datasets.lvis"):
        return None
    # not the metadata: those are for everybody to change, the function reads these
    given = inspect.getclosurevars(function).nonlocals
    if not {"json_file", "image_root", "name"} <= given.keys() or given["name"] != name:
        return None
    return JsonSource(name, str(given["json_file"]), str(given["image_root"]), lvis=module.endswith("lvis"))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (
        f"key {text} is missing"
        if isinstance(error, KeyError) and " " not in text
        else text or type(error).__name__
    )
