"""The detector: two stages, 3D boxes and embeddings; trained on pairs of pictures, used on single ones.

Source: QD-3DT (arXiv 2103.07351).
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from ...errors import UserError
from ...modeling.dense_heads.centernet import CenterNet
from ...registration import register_once
from ..ops.mode import Mode, checked_mode
from .decoding import Picture, PictureDetections
from .roi_heads import TrainingView
from .rpn import LegacyRPN

__all__ = ["QD3DT", "resize_factors"]


def resize_factors(
    original: tuple[int, int], resized: tuple[int, int], *, mode: Mode = "modern", short_side: int = 0
) -> tuple[float, float]:
    """Size of the network input / size of the original, along x and y.

    Args:
        original: (height, width), pixels.
        resized: the same of the network input, without padding.
        mode: ``"parity"``: one number for both axes, that of the side that was not rounded, as published.
        short_side: length that the shorter side was resized to, if the longer one allowed it (parity only).
    """
    y, x = (new / old for new, old in zip(resized, original, strict=True))
    if mode == "modern":
        return x, y
    short, long = (y, x) if original[0] <= original[1] else (x, y)
    factor = short if min(resized) == short_side else long
    return factor, factor


@register_once(META_ARCH_REGISTRY)
class QD3DT(GeneralizedRCNN):
    """detectron2's two-stage detector with :class:`~.roi_heads.QD3DTROIHeads`."""

    @configurable
    def __init__(self, *, mode: Mode, short_side: int, needs_focal: bool, **options: Any):
        """``short_side``: ``INPUT.MIN_SIZE_TEST``; ``needs_focal``: inputs must have ``intrinsics``."""
        super().__init__(**options)
        self.mode = mode
        self.short_side = short_side
        self.needs_focal = needs_focal

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.TRACKING3D
        return {
            **super().from_config(cfg),
            "mode": checked_mode(node.MODE),
            "short_side": cfg.INPUT.MIN_SIZE_TEST,
            "needs_focal": node.REFERENCE_FOCAL > 0,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: one dict a picture: ``image`` ``[3, H, W]`` in the channel order of ``INPUT.FORMAT``, values
                0 to 255; ``height`` and ``width`` of the original; optionally ``resize_factor`` (float) and
                ``intrinsics`` ``[3, 4]`` of the original. In training ``instances`` (fields of
                :class:`.roi_heads.TrainingView`), ``reference``, a dict with ``image`` and ``instances``, and in
                either possibly ``ignore_regions`` (``Boxes``, pixels of the network input; modern mode).

        Returns:
            In training the losses by name; in inference what :meth:`inference` returns.
        """
        return self._losses(batched_inputs) if self.training else self.inference(batched_inputs)

    @torch.no_grad()
    def inference(  # type: ignore[override]
        self, batched_inputs: list[dict[str, Any]]
    ) -> list[dict[str, Instances]]:
        """``{"instances": Instances}`` of each picture, in pixels of the original and metres of the camera frame:
        ``pred_boxes``, ``scores`` (of the class), ``pred_classes``, ``pred_depth`` ``[N]``, ``pred_depth_confidence``
        ``[N]``, ``pred_dims`` ``[N, 3]`` (h, w, l), ``pred_alpha`` ``[N]``, ``pred_center2d`` ``[N, 2]`` and
        ``embeddings`` ``[N, E]``."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, _ = self.proposal_generator(images, features, None)
        pictures = self._pictures(batched_inputs, images.image_sizes)
        found = self.roi_heads(features, proposals, pictures)
        sizes = [_original_size(x, picture.size) for x, picture in zip(batched_inputs, pictures, strict=True)]
        return [
            {"instances": _as_instances(detections, embeddings, size)}
            for (detections, embeddings), size in zip(found, sizes, strict=True)
        ]

    def _losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        missing = [i for i, x in enumerate(batched_inputs) if "reference" not in x]
        if missing:
            raise UserError(
                f"picture {missing[0]} of the batch has no 'reference': QD3DT trains on pairs, so use the pair mapper "
                "of centernet.tracking3d.data"
            )
        count = len(batched_inputs)
        images = self.preprocess_image([*batched_inputs, *(x["reference"] for x in batched_inputs)])
        features = self.backbone(images.tensor)
        key, reference = (
            {name: x[part] for name, x in features.items()} for part in (slice(count), slice(count, None))
        )
        references = [x["reference"] for x in batched_inputs]
        truth, reference_truth = self._truth(batched_inputs), self._truth(references)
        ignored, reference_ignored = self._ignored(batched_inputs), self._ignored(references)
        legacy = isinstance(self.proposal_generator, LegacyRPN)
        knows_regions = legacy or isinstance(self.proposal_generator, CenterNet)
        options = {"ignored": ignored} if knows_regions else {}
        key_images = ImageList(images.tensor[:count], images.image_sizes[:count])
        reference_images = ImageList(images.tensor[count:], images.image_sizes[count:])
        proposals, losses = self.proposal_generator(key_images, key, truth, **options)
        with torch.no_grad():  # other first stages cannot do without annotations in training
            wanted = None if legacy else reference_truth
            reference_proposals, _ = self.proposal_generator(reference_images, reference, wanted)
        view = TrainingView(key, proposals, truth, ignored)
        return {
            **losses,
            **self.roi_heads.losses(view, self._pictures(batched_inputs, key_images.image_sizes)),
            **self.roi_heads.embedding_losses(
                view, TrainingView(reference, reference_proposals, reference_truth, reference_ignored)
            ),
        }

    def _truth(self, inputs: Sequence[dict[str, Any]]) -> list[Instances]:
        return [x["instances"].to(self.device) for x in inputs]

    def _ignored(self, inputs: Sequence[dict[str, Any]]) -> list[Tensor | None]:
        """Regions without annotations; the published training takes them for background."""
        if self.mode == "parity":
            return [None] * len(inputs)
        regions = [x.get("ignore_regions") for x in inputs]
        return [None if part is None else part.tensor.to(self.device) for part in regions]

    def _pictures(self, inputs: Sequence[dict[str, Any]], sizes: Sequence[tuple[int, int]]) -> list[Picture]:
        pictures = []
        for x, size in zip(inputs, sizes, strict=True):
            resize = resize_factors(_original_size(x, size), size, mode=self.mode, short_side=self.short_side)
            if "resize_factor" in x and self.mode == "parity":
                resize = (float(x["resize_factor"]),) * 2
            focal = None
            if self.needs_focal:
                if "intrinsics" not in x:
                    raise UserError(
                        "a picture has no 'intrinsics': with MODEL.TRACKING3D.REFERENCE_FOCAL depth depends on the "
                        "focal length, so give each picture its camera matrix"
                    )
                focal = float(x["intrinsics"][0][0]) * resize[0]
            pictures.append(Picture((int(size[0]), int(size[1])), resize, focal))
        return pictures


def _original_size(x: dict[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    return int(x.get("height", size[0])), int(x.get("width", size[1]))


def _as_instances(detections: PictureDetections, embeddings: Tensor, size: tuple[int, int]) -> Instances:
    return Instances(
        size,
        pred_boxes=Boxes(detections.boxes),
        scores=detections.scores,
        pred_classes=detections.classes,
        pred_depth=detections.depth,
        pred_depth_confidence=detections.confidence,
        pred_dims=detections.dims,
        pred_alpha=detections.alpha,
        pred_center2d=detections.center2d,
        embeddings=embeddings,
    )
