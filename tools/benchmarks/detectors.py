"""The models that are measured: any config of this package, and the detectors it is compared with, all with the call
of detectron2 (a list of dicts in, a list of dicts out)."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

import centernet  # noqa: F401  registers the models
from centernet.config_file import load_config
from centernet.errors import UserError
from centernet.inference.weights import load_weights
from centernet.model_zoo.lookup import resolve_config_file
from centernet.modeling.build import build_detector

__all__ = ["BASELINE", "RIVALS", "config_of", "detector", "is_rival", "title"]

BASELINE = "faster_rcnn"
TORCHVISION = "torchvision_faster_rcnn"
RIVALS = {
    BASELINE: "Faster R-CNN R50-FPN (detectron2)",
    "cascade_rcnn": "Cascade R-CNN R50-FPN (detectron2)",
    TORCHVISION: "Faster R-CNN R50-FPN (torchvision)",
}
_FILES = {
    BASELINE: "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "cascade_rcnn": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
}


def is_rival(name: str) -> bool:
    """Whether a name is one of :data:`RIVALS`, not a config."""
    return name in RIVALS


def title(name: str) -> str:
    """For tables."""
    return RIVALS.get(name) or Path(name).stem


def config_of(name: str, device: str, opts: tuple[str, ...] = ()) -> CfgNode:
    """The config of a rival of detectron2's, of a name of the model zoo, or of a YAML file.

    Raises:
        UserError: there is none.
    """
    if name in _FILES:
        cfg = get_cfg()
        cfg.merge_from_file(model_zoo.get_config_file(_FILES[name]))
        cfg.MODEL.MASK_ON, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = False, device, ""
        return cfg
    path = resolve_config_file(name)
    if not Path(path).is_file() and "/" not in path and not path.endswith((".yaml", ".yml")):
        raise UserError(f"there is no model {name}: give a name of docs/MODEL_ZOO.md, a YAML file, or {_rival_names()}")
    return load_config(path, ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *opts])


def _rival_names() -> str:
    return " or ".join(RIVALS)


@cache
def detector(
    name: str,
    device: str,
    size: tuple[int, int],
    weights: str = "",
    opts: tuple[str, ...] = (),
    fitted: bool = False,
) -> nn.Module:
    """A model in evaluation mode, with random weights of seed 0, or with ``weights`` where it is one of ours.

    Args:
        size: height and width of the images, which torchvision's model wants to know so that it leaves them alone.
        fitted: see :func:`fit_norms`.
    """
    torch.manual_seed(0)
    if name == TORCHVISION:
        model: nn.Module = TorchvisionFasterRCNN(size).to(device).eval()
    else:
        model = build_detector(config_of(name, device, opts)).eval()
    if weights and not is_rival(name):
        load_weights(model, weights, strict=True)
    elif fitted:
        fit_norms(model, size)
    return model


def fit_norms(model: nn.Module, size: tuple[int, int]) -> None:
    """Give the batch norms of random weights the statistics of noise, layer after layer, in place.

    As built, they keep mean 0 and variance 1 and features grow to thousands, with which detectron2's Faster R-CNN
    decodes 3 proposals instead of the 1,000 of a trained one: its second stage then takes no time.
    """

    def fit(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)).clamp(min=1e-6))

    kinds = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d, torchvision.ops.FrozenBatchNorm2d)
    hooks = [part.register_forward_pre_hook(fit) for part in model.modules() if isinstance(part, kinds)]
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        model([{"image": image, "height": size[0], "width": size[1]}])
    for hook in hooks:
        hook.remove()


class TorchvisionFasterRCNN(nn.Module):
    """torchvision's ``fasterrcnn_resnet50_fpn`` behind detectron2's call; the images are not resized."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        from torchvision.models.detection import fasterrcnn_resnet50_fpn

        self.model = fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, min_size=min(size), max_size=max(size), _skip_resize=True
        )

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Images of 0 to 255 in, as detectron2 gives them."""
        device = next(self.parameters()).device
        return self.model([item["image"].to(device).float() / 255 for item in batched_inputs])
