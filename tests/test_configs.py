"""Every YAML file builds a model that trains and detects."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from centernet.config_file import load_config
from centernet.modeling.build import build_detector

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.stem.startswith("Base"))


def example(height, width, objects):
    instances = Instances((height, width))
    corner = torch.rand(objects, 2) * torch.tensor([width - 16.0, height - 16.0])
    instances.gt_boxes = Boxes(torch.cat((corner, corner + 4 + 12 * torch.rand(objects, 2)), dim=1))
    instances.gt_classes = torch.zeros(objects, dtype=torch.int64)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_builds_trains_and_detects(path):
    torch.manual_seed(0)
    model = build_detector(load_config(path, ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]))
    model.eval()
    with torch.no_grad():
        found = [x["instances"] for x in model([example(64, 96, 0), example(96, 64, 0)])]
    assert [x.image_size for x in found] == [(64, 96), (96, 64)]
    assert all(torch.isfinite(x.pred_boxes.tensor).all() and torch.isfinite(x.scores).all() for x in found)
    with EventStorage():
        losses = model.train()([example(64, 96, 3), example(96, 64, 0)])
    sum(losses.values()).backward()
    bad = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]
    assert bad == []
