"""The one-stage detector: a backbone and the first stage with class heatmaps."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_proposal_generator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ...registration import register_once


@register_once(META_ARCH_REGISTRY)
class CenterNetDetector(nn.Module):
    """CenterNet on one or several levels.

    Buffers ``pixel_mean`` and ``pixel_std`` ``[3, 1, 1]`` are part of the state dict, as in published checkpoints.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.proposal_generator = build_proposal_generator(cfg, self.backbone.output_shape())
        self.register_buffer("pixel_mean", torch.tensor(cfg.MODEL.PIXEL_MEAN).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(cfg.MODEL.PIXEL_STD).view(-1, 1, 1))

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: one dict an image: ``image`` ``[3, H, W]`` in the channel order of ``INPUT.FORMAT``, values
                0 to 255; in training ``instances`` with ``gt_boxes`` and ``gt_classes``; in inference optionally
                ``height`` and ``width`` of the output.

        Returns:
            In training the losses by name; in inference what :meth:`inference` returns.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        _, losses = self.proposal_generator(images, self.backbone(images.tensor), gt_instances)
        return losses

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list:
        """Detections of each image: ``{"instances": Instances}`` with ``pred_boxes`` (xyxy in pixels of ``height`` x
        ``width``), ``scores``, ``pred_classes``; without ``do_postprocess`` the bare ``Instances`` in network-input
        pixels."""
        images = self.preprocess_image(batched_inputs)
        results, _ = self.proposal_generator(images, self.backbone(images.tensor), None)
        if not do_postprocess:
            return list(results)
        return [
            {"instances": detector_postprocess(result, x.get("height", size[0]), x.get("width", size[1]))}
            for result, x, size in zip(results, batched_inputs, images.image_sizes, strict=True)
        ]

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise, pad to the backbone's divisor, and batch."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)
