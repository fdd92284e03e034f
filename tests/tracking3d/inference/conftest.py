"""Clips of the synthetic world, and a model that sees what is annotated."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from centernet.config_file import load_config
from centernet.tracking3d.data import boxes_of, synthetic_clip

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "tracking3d"


class LabelModel(nn.Module):
    """Gives the annotations of the frames that it was told of as detections."""

    def __init__(self, records, size=32):
        super().__init__()
        self.records = {(record["camera"], record["video_id"], record["frame_index"]): record for record in records}
        self.size = size

    def forward(self, inputs):
        found = []
        for x in inputs:
            record = self.records[x["camera"], x["video_id"], x["frame_index"]]
            boxes = boxes_of(record)
            count = len(boxes.boxes)
            centres = torch.tensor([a["center2d"] for a in record["annotations"]]).reshape(count, 2)
            looks = torch.stack([torch.randn(self.size, generator=torch.Generator().manual_seed(int(i))) for i in
                                 boxes.instances]) if count else torch.zeros(0, self.size)  # fmt: skip
            instances = Instances((x["height"], x["width"]))
            instances.pred_boxes = Boxes(boxes.boxes.float())
            instances.scores = torch.full((count,), 0.95)
            instances.pred_classes = boxes.classes
            instances.pred_depth = boxes.xyz[:, 2].float()
            instances.pred_depth_confidence = torch.full((count,), 0.9)
            instances.pred_dims = boxes.dims.float()
            instances.pred_alpha = boxes.alpha.float()
            instances.pred_center2d = centres
            instances.embeddings = looks
            found.append({"instances": instances})
        return found


@pytest.fixture(scope="session")
def clip():
    """``clip(seed, frames)``: records with pictures."""
    return lambda seed, frames=6: [record | {"image": image} for image, record in synthetic_clip(seed, frames)]


@pytest.fixture
def config3d():
    """``config3d(*opts)``: a config of the wing, as small as the synthetic pictures."""

    def make(*opts, name="QD3DT_DLA34_KITTI.yaml"):
        small = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", 192, "INPUT.MAX_SIZE_TEST", 448]
        modern = ["MODEL.TRACKING3D.MODE", "modern", "MODEL.TRACKING3D.TRACKER.MOTION", ""]
        return load_config(CONFIGS / name, [*small, *modern, *opts])

    return make


@pytest.fixture
def label_model():
    return LabelModel
