"""The edge between tensors of fixed size and detectron2's ``Instances``."""

from collections.abc import Sequence
from typing import overload

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..ops.detections import PaddedDetections


class PaddedInstances(Sequence[Instances]):
    """A batch of detections that is a list of ``Instances`` to those who ask, and padded tensors to those who know.

    Our own ROI heads read :attr:`padded` and never leave tensors; any other consumer indexes or iterates, and each
    image's ``Instances`` is made then (and only once).

    Attributes:
        padded: the detections.
        image_sizes: ``(height, width)`` in pixels, one an image.
    """

    def __init__(self, padded: PaddedDetections, image_sizes: Sequence[tuple[int, int]], *, as_proposals: bool = False):
        """``as_proposals`` names the fields ``proposal_boxes, objectness_logits, scores, pred_classes`` instead of
        ``pred_boxes, scores, pred_classes``. ``objectness_logits`` holds the score, a probability or its root: the
        field keeps detectron2's name."""
        self.padded = padded
        self.image_sizes = tuple(image_sizes)
        self._as_proposals = as_proposals
        self._made: dict[int, Instances] = {}

    def __len__(self) -> int:
        return len(self.image_sizes)

    @overload
    def __getitem__(self, index: int) -> Instances: ...
    @overload
    def __getitem__(self, index: slice) -> list[Instances]: ...
    def __getitem__(self, index: int | slice) -> Instances | list[Instances]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        if position not in self._made:
            self._made[position] = self._make(position)
        return self._made[position]

    def _make(self, position: int) -> Instances:
        keep = self.padded.valid[position]
        boxes, scores, classes = (field[position][keep] for field in self.padded[:3])
        instances = Instances(self.image_sizes[position])
        if self._as_proposals:
            instances.proposal_boxes = Boxes(boxes)
            # a tensor of its own: clients write into one of the two
            instances.objectness_logits = scores.clone()
        else:
            instances.pred_boxes = Boxes(boxes)
        instances.scores = scores
        instances.pred_classes = classes
        return instances


def image_size_tensor(image_sizes: Sequence[tuple[int, int]] | Sequence[Tensor], device: torch.device) -> Tensor:
    """int64 ``[B, 2]`` ``(height, width)`` on ``device``, without waiting for it.

    While tracing, detectron2's ``ImageList`` holds sizes as tensors; they stay part of the traced program.
    """
    if isinstance(image_sizes[0], Tensor):
        return torch.stack(tuple(image_sizes)).to(device)  # type: ignore[arg-type]
    sizes = torch.tensor(image_sizes)
    return sizes.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sizes.to(device)


def pad_proposals(proposals: Sequence[Instances], score_field: str = "scores") -> PaddedDetections:
    """Fixed-size tensors of anybody's proposals.

    Args:
        proposals: one ``Instances`` an image with ``proposal_boxes``, ``objectness_logits`` and possibly ``scores``.
        score_field: the field that becomes the score; ``objectness_logits`` if the first image does not have it.

    Returns:
        ``K`` = the largest number of proposals in an image, at least 1; order as given.
    """
    if isinstance(proposals, PaddedInstances) and not proposals._made:
        return proposals.padded
    field = score_field if proposals[0].has(score_field) else "objectness_logits"
    slots = max(1, *(len(p) for p in proposals))
    boxes = torch.stack([_pad(p.proposal_boxes.tensor, slots) for p in proposals])
    scores = torch.stack([_pad(p.get(field), slots) for p in proposals])
    counts = torch.tensor([len(p) for p in proposals], device=boxes.device)
    valid = torch.arange(slots, device=boxes.device)[None] < counts[:, None]
    return PaddedDetections(boxes, scores, torch.zeros_like(valid, dtype=torch.int64), valid)


def _pad(rows: Tensor, slots: int) -> Tensor:
    padded = rows.new_zeros((slots, *rows.shape[1:]))
    padded[: len(rows)] = rows
    return padded
