"""Every YAML file builds a model of the published layout that trains and detects."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from centernet.config_file import load_config
from centernet.modeling.build import build_detector

CONFIGS = Path(__file__).parents[1] / "configs"
# those of configs/tracking3d, which train on pairs: tests/tracking3d/test_tracking3d_configs.py
MODELS = sorted(
    path for path in CONFIGS.rglob("*.yaml") if not path.stem.startswith("Base") and path.parent.name != "tracking3d"
)
LAYOUTS = json.loads((Path(__file__).parent / "golden" / "fingerprints.json").read_text())["layout"]
# Entries that a published file may lack or carry in excess.
OPTIONAL = ("fed_loss_cls_weights", "freq_weight", "backbone.base.fc.", "num_batches_tracked")
# Small enough for two CPU cores; no key that changes the layout.
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32"),
    *("MODEL.CENTERNET.POST_NMS_TOPK_TRAIN", "64", "MODEL.CENTERNET.POST_NMS_TOPK_TEST", "64"),
    *("TEST.DETECTIONS_PER_IMAGE", "20"),
]


@pytest.fixture(scope="module", params=MODELS, ids=lambda path: path.stem)
def case(request):
    torch.manual_seed(0)
    return request.param.stem, build_detector(load_config(request.param, SMALL))


def example(height, width, objects, black=False):
    instances = Instances((height, width))
    corner = torch.rand(objects, 2) * torch.tensor([width - 16.0, height - 16.0])
    boxes = torch.cat((corner, corner + 4 + 12 * torch.rand(objects, 2)), dim=1)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.zeros(objects, dtype=torch.int64)
    x, y = torch.arange(width), torch.arange(height)
    inside_x = (x >= boxes[:, None, 0]) & (x < boxes[:, None, 2])
    inside_y = (y >= boxes[:, None, 1]) & (y < boxes[:, None, 3])
    instances.gt_masks = BitMasks(inside_y[:, :, None] & inside_x[:, None, :])
    image = torch.randint(0, 1 if black else 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances}


def test_layout(case):
    name, model = case
    if name not in LAYOUTS:
        pytest.skip("no checkpoint of this layout was published")
    entries = [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in sorted(model.state_dict().items())
        if not any(part in key for part in OPTIONAL)
    ]
    expected = LAYOUTS[name]
    assert len(entries) == expected["entries"]
    assert hashlib.sha256(json.dumps(entries).encode()).hexdigest() == expected["sha256"]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["parameters"]


def test_detects(case):
    _, model = case
    model.eval()
    batches = [[example(96, 160, 0)], [example(64, 96, 0, black=True), example(96, 64, 0)]]
    with torch.no_grad():
        found = [output["instances"] for batch in batches for output in model(batch)]
    assert [x.image_size for x in found] == [(96, 160), (64, 96), (96, 64)]
    for x in found:
        assert x.pred_boxes.tensor.isfinite().all()
        assert x.scores.isfinite().all()
        assert (x.pred_boxes.tensor >= 0).all()
        assert (x.pred_boxes.tensor[:, 2:] <= torch.tensor([x.image_size[1], x.image_size[0]])).all()


@pytest.mark.parametrize("objects", [(0, 0), (1, 0), (300, 2)], ids=["none", "one", "crowd"])
def test_trains(case, objects):
    _, model = case
    model.train()
    model.zero_grad(set_to_none=True)
    with EventStorage():
        losses = model([example(64, 96, objects[0]), example(96, 64, objects[1])])
    sum(losses.values()).backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, grad in trained.items() if grad is None or not grad.isfinite().all()] == []
