"""First-stage proposals with their probability, stored beside the detections while a model is evaluated.

Source: "Probabilistic two-stage detection" (arXiv 2103.07461) equation 1. A detection's score alone does not tell
``P(object)``; with this file :mod:`centernet.evaluation.report` can say how far the probabilities of both stages hold.
"""

import itertools
import logging
import os
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.padded_instances import PaddedInstances, image_size_tensor
from ..ops.detections import PaddedDetections

__all__ = ["PROPOSALS_FILE", "ProposalRecorder", "StoredProposals", "check_recordable", "read_proposals"]

PROPOSALS_FILE = "proposals.npz"
_logger = logging.getLogger(__name__)


class StoredProposals(NamedTuple):
    """Attributes: ``image_ids [N]``, ``boxes`` float32 ``[N, 4]`` (xyxy, pixels of the original image) and
    ``probabilities`` float32 ``[N]``, ``P(object)`` without a root. ``product_*``: the detections that the model makes
    if it ranks by ``P(class | object) P(object)``, with that product and the dataset's category id; empty where the
    model does not multiply the stages."""

    image_ids: np.ndarray
    boxes: np.ndarray
    probabilities: np.ndarray
    product_image_ids: np.ndarray
    product_boxes: np.ndarray
    product_category_ids: np.ndarray
    products: np.ndarray


def check_recordable(cfg: CfgNode) -> None:
    """Raise :class:`UserError` if ``TEST.SAVE_PROPOSALS`` asks for what the model of ``cfg`` does not have."""
    node = cfg.MODEL.CENTERNET
    two_stage = cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and cfg.MODEL.PROPOSAL_GENERATOR.NAME == "CenterNet"
    if not (two_stage and node.ONLY_PROPOSAL):
        raise UserError(
            "TEST.SAVE_PROPOSALS needs a two-stage model whose first stage gives P(object) "
            "(MODEL.CENTERNET.ONLY_PROPOSAL True): set it to False for this config"
        )
    if cfg.TEST.AUG.ENABLED:
        raise UserError("TEST.SAVE_PROPOSALS and TEST.AUG.ENABLED exclude each other: set one of them to False")


class ProposalRecorder(DatasetEvaluator):
    """Watches a model's two stages through forward hooks; :meth:`evaluate` writes ``proposals.npz``.

    The second stage runs once more on each batch, with ``P(object)`` where the published models put its root.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str, model: nn.Module, output_folder: str) -> None:
        """
        Args:
            cfg: of the model; :func:`check_recordable` accepts it.
            model: a ``GeneralizedRCNN``; :meth:`close` takes the hooks off again.
        """
        self._rooted = cfg.MODEL.CENTERNET.SQRT_SCORE
        self._multiplies = cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE and hasattr(model.roi_heads, "detect")
        self._metadata = MetadataCatalog.get(dataset_name)
        self._folder = output_folder
        self._rows: list[tuple[Any, ...]] = []
        self._batch: tuple[PaddedInstances, PaddedDetections | None] | None = None
        heads: Any = model.roi_heads
        self._hook = heads.register_forward_hook(self._watch)

    def close(self) -> None:
        """Leave the model as it was."""
        self._hook.remove()

    def reset(self) -> None:
        self._rows.clear()

    def _watch(self, heads: Any, inputs: tuple[Any, ...], _: Any) -> None:
        features, proposals = inputs[1], inputs[2]
        padded = proposals.padded
        if self._rooted:
            padded = padded._replace(scores=padded.scores.square())
        sizes = image_size_tensor(proposals.image_sizes, padded.boxes.device)
        detections = heads.detect(features, padded, sizes) if self._multiplies else None
        self._batch = PaddedInstances(padded, proposals.image_sizes), detections

    def process(self, inputs: list[dict[str, Any]], outputs: list[Any]) -> None:
        assert self._batch is not None
        (proposals, detections), self._batch = self._batch, None
        for k, (item, size) in enumerate(zip(inputs, proposals.image_sizes, strict=True)):
            stretch = torch.tensor([item["width"] / size[1], item["height"] / size[0]] * 2)
            row: list[Any] = [item["image_id"], *_numbers(proposals.padded, k, stretch)[:2]]
            if detections is not None:
                boxes, scores, classes = _numbers(detections, k, stretch)
                row += [boxes, scores**2, classes]
            self._rows.append(tuple(row))

    def evaluate(self) -> None:
        gathered = comm.gather(self._rows, dst=0)
        if not comm.is_main_process():
            return
        rows = list(itertools.chain.from_iterable(gathered))
        ids = np.asarray([row[0] for row in rows])
        second = [row[3:] for row in rows if len(row) > 3]
        product_boxes, categories, products = self._products(second)
        stored = StoredProposals(
            np.repeat(ids, [len(row[1]) for row in rows]),
            np.concatenate([row[1] for row in rows]),
            np.concatenate([row[2] for row in rows]),
            np.repeat(ids, [len(boxes) for boxes, _, _ in second]) if second else ids[:0],
            product_boxes,
            categories,
            products,
        )
        os.makedirs(self._folder, exist_ok=True)
        path = os.path.join(self._folder, PROPOSALS_FILE)
        np.savez_compressed(path, **stored._asdict())
        _logger.info("First-stage proposals are in %s", path)

    def _products(self, rows: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes, category ids and products of all images."""
        if not rows:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
        boxes, products, classes = (np.concatenate(column) for column in zip(*rows, strict=True))
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_contiguous:
            category_of = np.zeros(max(to_contiguous.values()) + 1, np.int64)
            category_of[list(to_contiguous.values())] = list(to_contiguous)
            classes = category_of[classes]
        return boxes, classes, products


def _numbers(padded: PaddedDetections, k: int, stretch: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (stretched to the original image), scores and classes of image ``k``."""
    valid = padded.valid[k].cpu()
    boxes, scores, classes = (field[k].float().cpu()[valid] for field in padded[:3])
    return (boxes * stretch).numpy(), scores.numpy(), classes.long().numpy()


def read_proposals(path: str) -> StoredProposals:
    """What :class:`ProposalRecorder` wrote.

    Raises:
        UserError: the file is missing or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return StoredProposals(**{name: file[name] for name in StoredProposals._fields})
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{path} does not hold proposals: evaluate again with TEST.SAVE_PROPOSALS True") from error
