"""Small real models for tests: a published config with the backbone cut down. Built in a fraction of a second."""

from pathlib import Path

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from centernet.config import add_centernet_config

CONFIGS = Path(__file__).parents[2] / "configs"


def tiny_cfg(name="CenterNet2_R50_1x", *overrides):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.merge_from_file(str(CONFIGS / f"{name}.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
    cfg.MODEL.FPN.OUT_CHANNELS = 64  # two channels a group, so that a 1 x 1 map can be normalised
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 64
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.CENTERNET.NUM_CLASSES = 5
    cfg.MODEL.CENTERNET.NUM_BOX_CONVS = cfg.MODEL.CENTERNET.NUM_CLS_CONVS = 1
    cfg.MODEL.CENTERNET.INFERENCE_TH = 1e-4  # an untrained heatmap stays near its prior of 0.01
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.merge_from_list(list(overrides))
    return cfg


def tiny_model(name="CenterNet2_R50_1x", *overrides, seed=0):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(name, *overrides)).eval()


def image(height=96, width=128, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
            "height": height, "width": width}  # fmt: skip


def with_objects(example, count, num_classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    height, width = example["image"].shape[1:]
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width - 20.0, height - 20.0])
    size = torch.rand(count, 2, generator=generator) * 40 + 6
    boxes = Boxes(torch.cat((corner, corner + size), dim=1))
    boxes.clip((height, width))
    instances = Instances((height, width))
    instances.gt_boxes = boxes
    instances.gt_classes = torch.randint(0, num_classes, (count,), generator=generator)
    return {**example, "instances": instances}
