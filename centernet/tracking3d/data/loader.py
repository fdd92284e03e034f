"""Data loaders of the wing: pairs for training, whole videos for tests."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from torch.utils.data import DataLoader

from ...data.bad_images import BadImages
from ...data.datasets import ensure_registered, open_dataset
from ...data.loader import Loader
from ...data.mapper import MappedDataset, Mapper
from ...data.samplers import ResumableBatchSampler, ShuffledStream
from ...data.workers import prepare_worker
from ...errors import UserError
from ..ops.mode import checked_mode
from .mapper import FrameMapper, PairMapper
from .records import Record, in_video_order
from .samplers import VideoSampler


def load_frames(names: str | Sequence[str]) -> list[Record]:
    """Frame records of registered data sets, in video order; videos and instances of different sets stay apart.

    Raises:
        UserError: a name is unknown or its data are missing, empty or without cameras.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise UserError("no data set is named: set DATASETS.TRAIN (and DATASETS.TEST to evaluate)")
    ensure_registered(names)
    records: list[Record] = []
    for name in names:
        found = list(open_dataset(name))
        if not found:
            raise UserError(f"data set '{name}' is empty")
        if "video_id" not in found[0] or "intrinsics" not in found[0]:
            raise UserError(f"data set '{name}' has no videos with cameras: take one such as 'kitti_tracking_train'")
        if len(names) > 1:
            found = [record | {"video_id": f"{name}/{record['video_id']}"} for record in found]
        records += found
    return in_video_order(records)


def build_pair_train_loader(
    cfg: CfgNode,
    records: Sequence[Record] | None = None,
    *,
    start_iteration: int = 0,
    seed: int | None = None,
    bad_images: BadImages | None = None,
) -> Loader:
    """Endless batches of ``SOLVER.IMS_PER_BATCH / world size`` pairs, a function of seed and iteration alone.

    Pictures of a batch have one orientation with ``DATALOADER.ASPECT_RATIO_GROUPING``.

    Args:
        cfg: ``DATASETS.TRAIN``, ``INPUT``, ``DATALOADER``, ``SOLVER.IMS_PER_BATCH``, ``MODEL.TRACKING3D``.
        records: default: of ``DATASETS.TRAIN``.
        start_iteration: of the first batch; see :func:`centernet.data.build_train_loader`.
        seed: default ``cfg.SEED``, or one drawn and shared if that is negative.
        bad_images: known from before a checkpoint.

    Raises:
        UserError: data are missing or empty, or processes cannot share the batch.
    """
    if seed is None:
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    total, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if total < 1 or total % processes:
        raise UserError(f"SOLVER.IMS_PER_BATCH is {total}, must be a positive multiple of the {processes} processes")
    mapper = build_pair_mapper(cfg, load_frames(cfg.DATASETS.TRAIN) if records is None else records)
    wide = np.array([row["width"] > row["height"] for row in mapper.rows], np.int64)
    sampler = ResumableBatchSampler(
        ShuffledStream(len(mapper.rows), seed),
        total // processes,
        groups=wide if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
        start_iteration=start_iteration,
    )
    bad_images = BadImages(cfg.DATALOADER.BAD_IMAGE_LIMIT) if bad_images is None else bad_images
    batches = DataLoader(
        MappedDataset(mapper.rows, mapper, seed, bad_images.limit),
        batch_sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),  # its own: starting workers must not draw from the model's
    )
    return Loader(batches, seed, bad_images)


def build_pair_mapper(cfg: CfgNode, records: Sequence[Record]) -> PairMapper:
    """The training mapper as ``INPUT`` and ``MODEL.TRACKING3D`` say."""
    return PairMapper(
        records,
        cfg.INPUT.MIN_SIZE_TRAIN[0],
        cfg.INPUT.MAX_SIZE_TRAIN,
        channels=cfg.INPUT.FORMAT,
        flip_probability=0.5 if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0,
        window=cfg.MODEL.TRACKING3D.DATA.REFERENCE_RANGE,
        mode=checked_mode(cfg.MODEL.TRACKING3D.MODE),
    )


def build_video_test_loader(
    cfg: CfgNode,
    name: str,
    mapper: Mapper | None = None,
    *,
    records: Sequence[Record] | None = None,
    group_by: str = "video_id",
) -> Loader:
    """This process's share of a test set, one frame a batch: whole videos, in order.

    Args:
        cfg: ``INPUT``, ``DATALOADER``, ``MODEL.TRACKING3D.MODE``.
        name: a registered name.
        mapper: default :class:`.mapper.FrameMapper`.
        records: default: those of ``name``.
        group_by: see :class:`.samplers.VideoSampler`.

    Raises:
        UserError: data are missing or empty.
    """
    records = load_frames(name) if records is None else in_video_order(records)
    if mapper is None:
        mode = checked_mode(cfg.MODEL.TRACKING3D.MODE)
        mapper = FrameMapper(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT, mode)
    batches = DataLoader(
        MappedDataset(records, mapper),
        batch_size=1,
        sampler=VideoSampler(records, group_by=group_by),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),
    )
    return Loader(batches)
