"""The whole detector on tensors of fixed size: images in, padded detections out.

The one path that eager, compiled and exported inference share; ``model(batched_inputs)`` runs the same stages between
detectron2's lists.
"""

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

from ..errors import UserError
from ..ops.detections import PaddedDetections
from .dense_heads.centernet import CenterNet
from .meta_arch.centernet_detector import CenterNetDetector
from .roi_heads.probabilistic_heads import PaddedInference

__all__ = ["FixedSizeDetector"]


class FixedSizeDetector(nn.Module):
    """A one-stage or two-stage detector without loops over images, host synchronisation, ``Instances`` or config.

    Boxes only: masks and keypoints stay with ``model(batched_inputs)``. To be used in evaluation mode, under
    ``torch.no_grad`` or ``torch.inference_mode``.

    Attributes:
        model: the detector; its modules are shared, not copied.
        divisor: height and width of the images must be multiples of it, pixels.
        fast: see :meth:`.PaddedInference.detect_with_owner`; without it the bits are those of
            ``model(batched_inputs)``.
    """

    def __init__(self, model: nn.Module, *, fast: bool = False):
        """
        Args:
            model: a ``CenterNetDetector``, or a ``GeneralizedRCNN`` with the first stage and the ROI heads of this
                package.
            fast: see above.

        Raises:
            UserError: any other model.
        """
        super().__init__()
        generator = getattr(model, "proposal_generator", None)
        two_stage = isinstance(model, GeneralizedRCNN) and isinstance(model.roi_heads, PaddedInference)
        if not isinstance(generator, CenterNet) or not (two_stage or isinstance(model, CenterNetDetector)):
            raise UserError(
                f"a {type(model).__name__} is no detector of this package: it needs CenterNet as its first stage and, "
                "with two stages, CustomROIHeads or CustomCascadeROIHeads"
            )
        self.model = model
        self.two_stage = two_stage
        self.fast = fast
        self.divisor = max(1, int(model.backbone.size_divisibility))  # type: ignore[arg-type, union-attr]
        self.train(model.training)

    def forward(self, images: Tensor, image_sizes: Tensor) -> PaddedDetections:
        """
        Args:
            images: uint8 or float ``[B, 3, H, W]``, 0 to 255, channel order of ``INPUT.FORMAT``; what lies beyond
                ``image_sizes`` does not matter.
            image_sizes: int64 ``[B, 2]`` ``(height, width)`` of the valid part, pixels.

        Returns:
            Detections in pixels of the valid part, best first.
        """
        features = self.features(self.normalise(images, image_sizes))
        proposals = self.propose(features, image_sizes)
        return self.classify(features, proposals, image_sizes) if self.two_stage else proposals

    def normalise(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Float ``[B, 3, H, W]`` with the model's mean and deviation; zero beyond ``image_sizes``."""
        mean, deviation = self.model.get_buffer("pixel_mean"), self.model.get_buffer("pixel_std")
        x = (images - mean) / deviation
        rows = torch.arange(images.shape[2], device=images.device)[:, None] < image_sizes[:, 0, None, None]
        columns = torch.arange(images.shape[3], device=images.device) < image_sizes[:, 1, None, None]
        return torch.where((rows & columns)[:, None], x, torch.zeros_like(x))

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The backbone's maps by name, ``[B, C, H_l, W_l]``."""
        return self.model.backbone(x)  # type: ignore[operator]

    def propose(self, features: dict[str, Tensor], image_sizes: Tensor) -> PaddedDetections:
        """The first stage: proposals, or the detections of a one-stage model."""
        return self._first_stage.propose(self._first_stage.maps(features), image_sizes)

    def classify(
        self, features: dict[str, Tensor], proposals: PaddedDetections, image_sizes: Tensor
    ) -> PaddedDetections:
        """The second stage of a two-stage model."""
        return self._second_stage.detect_with_owner(features, proposals, image_sizes, fast=self.fast)[0]

    def detect_with_objectness(self, images: Tensor, image_sizes: Tensor) -> tuple[PaddedDetections, Tensor]:
        """:meth:`forward` and the first stage's P(object) of each detection, float32 ``[B, K]`` in [0, 1].

        Two-stage: of the proposal that the detection comes from. One-stage: of its class-agnostic map, or 1 without
        one.
        """
        features = self.features(self.normalise(images, image_sizes))
        maps = self._first_stage.maps(features)
        proposals, objectness = self._first_stage.propose_with_objectness(maps, image_sizes)
        if not self.two_stage:
            return proposals, objectness
        detections, owner = self._second_stage.detect_with_owner(features, proposals, image_sizes, fast=self.fast)
        objectness = objectness.gather(1, owner)
        return detections, torch.where(detections.valid, objectness, torch.zeros_like(objectness))

    def heatmaps(self, features: dict[str, Tensor]) -> list[Tensor]:
        """P(object) of the first stage at every cell, float32 ``[B, 1, H_l, W_l]`` a level: the class-agnostic map, or
        the largest of the classes."""
        classes, _, agnostic = self._first_stage.maps(features)
        if self._first_stage.with_agn_hm:
            return [logits.float().sigmoid() for logits in agnostic]
        return [logits.float().amax(dim=1, keepdim=True).sigmoid() for logits in classes]

    @property
    def _first_stage(self) -> CenterNet:
        return self.model.proposal_generator  # type: ignore[return-value]

    @property
    def _second_stage(self) -> PaddedInference:
        return self.model.roi_heads  # type: ignore[return-value]
