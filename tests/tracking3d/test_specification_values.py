"""Tables of the specification that no other test has: A.3 (pairing of small boxes) and A.9 (shapes of the levels)."""

import pytest
import torch
from detectron2.modeling import build_backbone

from centernet.model_zoo import get_config
from centernet.tracking3d.ops.overlaps import iou_inclusive

SIDES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.08, 0.1, 0.2, 0.3)
PUBLISHED = (0.961, 0.925, 0.891, 0.860, 0.830, 0.750, 0.704, 0.532, 0.420)


@pytest.mark.parametrize(("side", "expected"), list(zip(SIDES, PUBLISHED, strict=True)))
def test_published_overlap_of_boxes_that_do_not_touch(side, expected):
    first = torch.tensor([[0.0, 0.0, side, side]], dtype=torch.float64)
    assert iou_inclusive(first, first + side).item() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("QD3DT_R101_nuScenes", (928, 1600), [(232, 400), (116, 200), (58, 100), (29, 50), (15, 25)]),
        ("QD3DT_DLA34_KITTI", (448, 1504), [(112, 376), (56, 188), (28, 94), (14, 47), (7, 24)]),
    ],
)
def test_shapes_of_the_levels(name, size, expected):
    with torch.device("meta"):  # shapes without numbers
        backbone = build_backbone(get_config(name)).eval()
        levels = backbone(torch.zeros(1, 3, *size))
    assert [tuple(level.shape[2:]) for level in levels.values()] == expected
