"""Mapping of dataset dicts to model inputs, so that a sample depends on the seed and its position alone.

The image work is detectron2's ``DatasetMapper``; this module chooses its augmentations from the config and
wraps it in a dataset whose random numbers are seeded per sample, so that neither the number of workers nor a
restart changes a pixel.
"""

import errno
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError, read_image
from PIL.Image import DecompressionBombError
from torch.utils.data import Dataset

from ..errors import UserError
from .augmentation import build_custom_augmentation, build_test_resize
from .bad_images import BadImage
from .index import Records

__all__ = [
    "Failure",
    "MappedDataset",
    "Replaced",
    "TrainMapper",
    "build_test_mapper",
    "build_train_mapper",
    "build_validation_mapper",
    "seeded",
]

Mapper = Callable[[dict[str, Any]], Any]
_TRIES = 100  # other images to try when the mapper skips one, or one cannot be read
_NOT_THE_IMAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the process has too much open, or too little memory


class Failure(NamedTuple):
    """A sample that could not be made; carries the sentence for the user out of a worker process."""

    message: str
    bad: tuple[BadImage, ...] = ()


class Replaced(NamedTuple):
    """A training sample in the place of ``bad`` ones."""

    sample: Any
    bad: tuple[BadImage, ...]


class TrainMapper(DatasetMapper):
    """detectron2's training mapper; if wanted, annotations' ``score`` becomes the field ``gt_scores``.

    Attributes:
        score_as_weight: give ``instances`` a field ``gt_scores``, float32 [n], 1 where an annotation has no
            score; the model takes it as the weight of the object.
    """

    score_as_weight = False

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Any, image_shape: tuple[int, int]
    ) -> None:
        kept = [a for a in dataset_dict["annotations"] if a.get("iscrowd", 0) == 0]
        for annotation in kept:  # transforms work in place: they would cut fractions off whole numbers
            annotation["bbox"] = [float(side) for side in annotation["bbox"]]
            if isinstance(polygons := annotation.get("segmentation"), list):
                annotation["segmentation"] = [np.array(polygon, np.float64) for polygon in polygons]
        if not self.score_as_weight:
            super()._transform_annotations(dataset_dict, transforms, image_shape)
            return
        classes = torch.tensor([int(a["category_id"]) for a in kept], dtype=torch.int64)
        scores = torch.tensor([float(a.get("score", 1.0)) for a in kept])
        for row, annotation in enumerate(kept):
            annotation["category_id"] = row  # detectron2 drops what falls outside the image: the row tells who stays
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        instances = dataset_dict["instances"]
        rows = instances.gt_classes
        instances.gt_classes, instances.gt_scores = classes[rows], scores[rows]


def build_train_mapper(cfg: CfgNode) -> TrainMapper:
    """The training mapper with the augmentations of ``INPUT.CUSTOM_AUG`` if that is set, and objects' scores as
    ``INPUT.PSEUDO_LABEL_WEIGHT`` says."""
    options = {"augmentations": build_custom_augmentation(cfg, True)} if cfg.INPUT.CUSTOM_AUG else {}
    mapper = TrainMapper(cfg, True, **options)
    mapper.score_as_weight = cfg.INPUT.PSEUDO_LABEL_WEIGHT == "score"
    return mapper


def build_test_mapper(cfg: CfgNode) -> DatasetMapper:
    """detectron2's test mapper, with the resizing that ``INPUT.TEST_INPUT_TYPE`` says."""
    return DatasetMapper(cfg, False, augmentations=[build_test_resize(cfg)])


def build_validation_mapper(cfg: CfgNode) -> TrainMapper:
    """Annotations as in training, pictures as in testing: for losses on test data."""
    return TrainMapper(cfg, True, augmentations=[build_test_resize(cfg)])


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed ``random``, numpy's and torch's global CPU generators from ``key`` inside, restore them after.

    torch's CUDA generators are left alone.

    Args:
        key: integers, not negative, e.g. seed and position.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    words = np.random.SeedSequence(key).generate_state(3, np.uint64).tolist()
    random.seed(words[0])
    np.random.seed(words[1] & 0xFFFFFFFF)
    torch.default_generator.manual_seed(words[2])
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


class MappedDataset(Dataset):
    """Dataset dicts with a mapper applied, addressed by ``(position, index)`` (training) or by ``index``
    (test).

    A training image that cannot be read is replaced by another one, chosen by seed and position, up to ``bad_limit`` of
    them for one sample. A sample that cannot be made is returned as a :class:`Failure` instead of an exception, because
    an exception would leave a worker process as a traceback; the loader raises it as :class:`UserError`.
    """

    def __init__(
        self, dataset_dicts: Sequence[dict[str, Any]], mapper: Mapper, seed: int = 0, bad_limit: int = 0
    ) -> None:
        """
        Args:
            dataset_dicts: detectron2's dataset dicts. Workers share their memory: :class:`Records` are mapped from
                disk, others are kept serialised.
            mapper: makes a model input of a dict (a copy of its own), or returns None to skip the image.
            seed: of the random numbers of all samples.
            bad_limit: unreadable images to replace; 0 gives up at the first.
        """
        indexed = isinstance(dataset_dicts, Records)
        self.dicts = dataset_dicts if indexed else DatasetFromList(list(dataset_dicts), copy=False)
        self.mapper = mapper
        self.seed = seed
        self.bad_limit = bad_limit

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        if not isinstance(key, tuple):
            sample = self._map(self.dicts[key])
            return Failure(_unreadable(sample)) if isinstance(sample, BadImage) else sample
        position, index = key
        bad: dict[str, BadImage] = {}
        for attempt in range(_TRIES + 1):
            # one that was skipped or is bad: take another image, chosen by seed and position as well
            with seeded(self.seed, position, *([attempt] if attempt else [])):
                index = random.randrange(len(self)) if attempt else index
                sample = self._map(self.dicts[index])
            if isinstance(sample, BadImage):
                bad[sample.file] = sample
                if len(bad) > self.bad_limit:
                    break
            elif sample is not None:
                return Replaced(sample, tuple(bad.values())) if bad else sample
        if bad:
            return Failure(_unreadable(list(bad.values())[-1]), tuple(bad.values()))
        return Failure(
            f"the mapper skipped {_TRIES} images in a row; the last one is {_file_name(self.dicts[index])}"
        )

    def _map(self, record: dict[str, Any]) -> Any:
        try:
            return self.mapper(record)
        except UserError as error:
            return Failure(str(error))
        except (OSError, SyntaxError, SizeMismatchError) as error:  # Pillow: some broken PNGs are SyntaxError
            if isinstance(error, OSError) and error.errno in _NOT_THE_IMAGE:
                raise
            return _bad_image(record, error)
        except (ValueError, EOFError, LookupError, ArithmeticError, DecompressionBombError):
            if (cause := _reading_fails(record)) is None:  # a defect of the mapper, not of the file
                raise
            return _bad_image(record, cause)


def _reading_fails(record: dict[str, Any]) -> Exception | None:
    """What reading the image alone raises: decoders of rare formats raise nearly everything."""
    try:
        read_image(record["file_name"])
    except Exception as error:
        return error
    return None


def _bad_image(record: dict[str, Any], error: Exception) -> BadImage:
    return BadImage(_file_name(record), " ".join(str(error).split()) or type(error).__name__)


def _unreadable(bad: BadImage) -> str:
    return f"cannot read image {bad.file}: {bad.reason}"


def _file_name(record: dict[str, Any]) -> str:
    return record.get("file_name", "(no file_name)")
