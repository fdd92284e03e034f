"""Data loaders: training with exact resume, test, and the choice of sampler from the config."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
    load_proposals_into_dataset,
    print_instances_class_histogram,
    trivial_batch_collator,
)
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader

from ..errors import UserError
from .bad_images import BadImages
from .datasets import ensure_registered, open_dataset
from .index import Records
from .mapper import Failure, MappedDataset, Mapper, Replaced, build_test_mapper, build_train_mapper
from .samplers import (
    IndexStream,
    RepeatFactorStream,
    ResumableBatchSampler,
    ShuffledStream,
    WeightedStream,
    class_aware_weights,
    multi_dataset_weights,
    repeat_factors,
)
from .workers import batches_of, prepare_worker

__all__ = [
    "Loader",
    "build_custom_train_loader",
    "build_test_loader",
    "build_train_loader",
    "get_detection_dataset_dicts_with_source",
]

logger = logging.getLogger(__name__)
DatasetDicts = Sequence[dict[str, Any]]
Batch = list[dict[str, Any]]


class Loader:
    """Iterable of batches, each a ``list[dict]`` of model inputs. An unreadable image is a :class:`UserError`, or in
    training, up to a limit, replaced. A worker process that dies is a :class:`~.workers.DeadWorkerError`.

    Attributes:
        seed: the seed that training data follow (0 for a test loader, which draws nothing).
        bad_images: those that were replaced.
    """

    def __init__(self, batches: DataLoader, seed: int = 0, bad_images: BadImages | None = None) -> None:
        self._batches = batches
        self.seed = seed
        self.bad_images = BadImages(0) if bad_images is None else bad_images

    @property
    def dataset(self) -> MappedDataset:
        """The mapped dataset behind the batches."""
        assert isinstance(self._batches.dataset, MappedDataset)
        return self._batches.dataset

    def __len__(self) -> int:
        """Number of batches; TypeError for the training loader, which has no end."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in batches_of(self._batches):
            yield [self._checked(sample) for sample in batch]

    def _checked(self, sample: Any) -> dict[str, Any]:
        if isinstance(sample, Failure | Replaced):
            for bad in sample.bad:
                self.bad_images.add(bad)
            if isinstance(sample, Failure):
                raise UserError(sample.message)
            return sample.sample
        return sample


def build_train_loader(
    cfg: CfgNode,
    mapper: Mapper | None = None,
    *,
    start_iteration: int = 0,
    seed: int | None = None,
    bad_images: BadImages | None = None,
) -> Loader:
    """Endless training batches of ``SOLVER.IMS_PER_BATCH / world size`` images, a pure function of the seed
    and the iteration.

    Every iteration over the loader begins at ``start_iteration``, whatever was read before: pass the
    iteration a checkpoint ended with plus one, and the seed of the interrupted run, and the batches (their
    images and their augmentations) go on as if there had been no interruption. The number of workers does not
    matter; the global random generators are not touched.

    Args:
        cfg: ``DATASETS``, ``DATALOADER``, ``INPUT``, ``SOLVER.IMS_PER_BATCH``.
        mapper: dataset dict to model input; default as ``INPUT.CUSTOM_AUG`` says.
        start_iteration: iteration of the first batch.
        seed: default ``cfg.SEED``, or one drawn and shared by all processes if that is negative (kept in
            ``Loader.seed``).
        bad_images: what is known from before the checkpoint; default: nothing, with DATALOADER.BAD_IMAGE_LIMIT.

    Raises:
        UserError: unknown dataset or sampler, missing or empty data, a batch size that the processes cannot
        share.
    """
    if seed is None:
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    records = _load_records(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    sampler = ResumableBatchSampler(
        _index_stream(cfg, records, seed),
        _batch_size(cfg),
        groups=_orientations(records) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
        start_iteration=start_iteration,
    )
    bad_images = BadImages(cfg.DATALOADER.BAD_IMAGE_LIMIT) if bad_images is None else bad_images
    mapper = build_train_mapper(cfg) if mapper is None else mapper
    batches = DataLoader(
        MappedDataset(records, mapper, seed, bad_images.limit),
        batch_sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=prepare_worker,
        # its own: starting workers draws from the global one, which would change the model's random numbers
        generator=torch.Generator(),
    )
    return Loader(batches, seed, bad_images)


def build_custom_train_loader(cfg: CfgNode, mapper: Mapper | None = None) -> Loader:
    """:func:`build_train_loader` under the published name."""
    return build_train_loader(cfg, mapper)


def build_test_loader(cfg: CfgNode, dataset_name: str, mapper: Mapper | None = None) -> Loader:
    """This process's share of a test dataset, one image a batch, in order.

    Args:
        cfg: ``DATALOADER``, ``INPUT``.
        dataset_name: a registered name or ``coco_json:PATH/TO.json:IMAGE_ROOT``.
        mapper: default as ``INPUT.TEST_INPUT_TYPE`` says.

    Raises:
        UserError: unknown dataset, missing or empty data.
    """
    proposal_files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        proposal_files = [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(dataset_name)]]
    records = _load_records([dataset_name], filter_empty=False, proposal_files=proposal_files)
    batches = DataLoader(
        MappedDataset(records, build_test_mapper(cfg) if mapper is None else mapper),
        batch_size=1,
        sampler=InferenceSampler(len(records)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),
    )
    return Loader(batches)


def get_detection_dataset_dicts_with_source(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Load datasets and concatenate them; each record tells by ``dataset_source`` which one (0, 1, ...) it is
    from.

    Args:
        names: registered names or ``coco_json:PATH/TO.json:IMAGE_ROOT``.
        filter_empty: drop images without annotations or with crowds only.
        min_keypoints: drop images with fewer visible keypoints.
        proposal_files: precomputed proposals, one file a dataset.

    Returns:
        Dataset dicts in detectron2's format.

    Raises:
        UserError: a name is unknown, or a dataset is missing, empty or left without images.
    """
    return list(_load_records(names, filter_empty, min_keypoints, proposal_files))


def _load_records(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
) -> DatasetDicts:
    """The same, as :class:`Records` if all datasets have an index and no proposals are added."""
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise UserError("no dataset is named: set DATASETS.TRAIN (and DATASETS.TEST to evaluate)")
    ensure_registered(names)
    loaded = [open_dataset(name) for name in names]
    for name, dicts in zip(names, loaded, strict=True):
        if not len(dicts):
            raise UserError(f"dataset '{name}' is empty: its annotation file lists no images")
    indexed = [dicts for dicts in loaded if isinstance(dicts, Records)]
    records: DatasetDicts
    if proposal_files is None and len(indexed) == len(loaded):
        records = _filter_indexed(Records.join(indexed), filter_empty, min_keypoints)
    else:
        records = []
        for source, dicts in enumerate(loaded):
            if proposal_files is not None:
                dicts = load_proposals_into_dataset(list(dicts), proposal_files[source])
            records += [{**record, "dataset_source": source} for record in dicts]
        if "annotations" not in records[0]:
            return records
        if filter_empty:
            records = filter_images_with_only_crowd_annotations(records)
        if min_keypoints > 0:
            records = filter_images_with_few_keypoints(records, min_keypoints)
    if not len(records):
        raise UserError(
            f"no image of {', '.join(names)} has an annotation to learn from "
            "(DATALOADER.FILTER_EMPTY_ANNOTATIONS drops images without)"
        )
    _report_classes(names, records)
    return records


def _filter_indexed(records: Records, filter_empty: bool, min_keypoints: int) -> Records:
    if filter_empty:
        kept = records.select(records.has_objects())
        logger.info("Left out %d images without annotations: %d are left", len(records) - len(kept), len(kept))
        records = kept
    if min_keypoints > 0:
        kept = records.select(records.visible_keypoints() >= min_keypoints)
        logger.info(
            "Left out %d images with fewer than %d keypoints: %d are left",
            len(records) - len(kept), min_keypoints, len(kept),
        )  # fmt: skip
        records = kept
    return records


def _report_classes(names: list[str], records: DatasetDicts) -> None:
    classes = MetadataCatalog.get(names[0]).get("thing_classes")
    if classes is None:
        return
    try:
        check_metadata_consistency("thing_classes", names)
    except ValueError as error:
        raise UserError(
            f"the datasets {', '.join(names)} have different classes, so they cannot be mixed"
        ) from error
    if not isinstance(records, Records):
        print_instances_class_histogram(list(records), classes)
        return
    counts = records.class_counts(len(classes)).tolist()
    if len(counts) > len(classes):
        found = f"an annotation has class number {len(counts) - 1}"
        raise UserError(f"{', '.join(names)}: {found}, but there are {len(classes)} classes")
    lines = [f"  {name} {count:,}" for name, count in zip(classes, counts, strict=True)]
    logger.info("%d objects of %d classes:\n%s", sum(counts), len(classes), "\n".join(lines))


def _index_stream(cfg: CfgNode, records: DatasetDicts, seed: int) -> IndexStream:
    makers: dict[str, Callable[[], IndexStream]] = {
        "TrainingSampler": lambda: ShuffledStream(len(records), seed),
        "RepeatFactorTrainingSampler": lambda: RepeatFactorStream(
            repeat_factors(records, cfg.DATALOADER.REPEAT_THRESHOLD), seed
        ),
        "ClassAwareSampler": lambda: WeightedStream(class_aware_weights(records), seed),
        "MultiDatasetSampler": lambda: WeightedStream(_multi_dataset_weights(cfg, records), seed),
    }
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in makers:
        raise UserError(f"DATALOADER.SAMPLER_TRAIN is '{name}', must be one of {', '.join(makers)}")
    logger.info("Using training sampler %s with seed %d", name, seed)
    return makers[name]()


def _multi_dataset_weights(cfg: CfgNode, records: DatasetDicts) -> np.ndarray:
    if isinstance(records, Records):
        sources = records.sources
    else:
        sources = np.array([record["dataset_source"] for record in records])
    sizes = np.bincount(sources, minlength=len(cfg.DATASETS.TRAIN))
    if not sizes.all():
        raise UserError(f"dataset '{cfg.DATASETS.TRAIN[int(sizes.argmin())]}' has no image with annotations")
    return multi_dataset_weights(sizes.tolist(), cfg.DATALOADER.DATASET_RATIO)


def _batch_size(cfg: CfgNode) -> int:
    total, world_size = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if total < 1 or total % world_size:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {total}, must be a positive multiple of the {world_size} processes"
        )
    return total // world_size


def _orientations(records: DatasetDicts) -> np.ndarray:
    """Group of each image: 1 if it is wider than high, else 0 (detectron2's two aspect ratio groups)."""
    sizes = records.sizes() if isinstance(records, Records) else None
    if sizes is not None:
        return (sizes[:, 1] > sizes[:, 0]).astype(np.int64)
    try:
        return np.array([record["width"] > record["height"] for record in records], np.int64)
    except KeyError as error:
        raise UserError(
            f"a dataset of DATASETS.TRAIN does not tell the {error.args[0]} of its images: "
            "set DATALOADER.ASPECT_RATIO_GROUPING to False"
        ) from error
