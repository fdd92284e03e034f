"""The models compute what the published code computes, number by number (the layouts: tests/test_configs.py)."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from fingerprint import describe, fill_weights, normalised_image, targets

from centernet.config import add_centernet_config

REPOSITORY = Path(__file__).parents[2]
REFERENCE = json.loads((Path(__file__).parent / "fingerprints.json").read_text())["networks"]
TOLERANCE = {"rel": 1e-3, "abs": 2e-4}
# one model of each backbone and neck; the others, and the large ones, take a few seconds each
FAST = {
    "CenterNet-FPN_R50_1x",
    "CenterNet-S4_DLA_8x",
    "CenterNet2-F_R50_1x",
    "CenterNet2_DLA-BiFPN-P3_4x",
    "CenterNet2_DLA-BiFPN-P5_640_16x",
    "CenterNet2_R50_1x",
}
CASES = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in sorted(REFERENCE)]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.merge_from_file(str(REPOSITORY / "configs" / f"{request.param}.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model = build_model(cfg).eval()
    fill_weights(model)
    with torch.no_grad():
        features = model.backbone(normalised_image(model))
    return model, features, ImageList(torch.zeros(1, 3, 128, 256), [(128, 256)]), REFERENCE[request.param]


def assert_same(tensor, expected):
    found = describe(tensor)
    assert found["shape"] == expected["shape"]
    for key in ("mean", "std", "first", "mid", "last"):
        assert found[key] == pytest.approx(expected[key], **TOLERANCE), key


def test_features_and_head(case):
    model, features, _, reference = case
    assert list(features) == list(reference["backbone"])
    for name, expected in reference["backbone"].items():
        assert_same(features[name], expected)
    generator = model.proposal_generator
    with torch.no_grad():
        maps = generator.centernet_head([features[f] for f in generator.in_features])
    outputs = dict(zip(("cls", "reg", "agn"), maps, strict=True))
    for kind, levels in reference["head"].items():
        for level, expected in enumerate(levels):
            if expected is None:
                assert outputs[kind][level] is None
            else:
                assert_same(outputs[kind][level], expected)


def test_proposals_and_detections(case):
    model, features, images, reference = case
    with torch.no_grad():
        found, _ = model.proposal_generator(images, features, None)
        proposals = found[0]
        expected = reference["proposals"]
        boxes = proposals.proposal_boxes if proposals.has("proposal_boxes") else proposals.pred_boxes
        assert len(proposals) == expected["n"]
        assert proposals.scores[:5].tolist() == pytest.approx(expected["top_scores"], **TOLERANCE)
        assert proposals.pred_classes[:5].tolist() == expected["top_classes"]
        assert torch.allclose(boxes.tensor[:5], torch.tensor(expected["top_boxes"]), atol=2e-2)
        if "detections" not in reference:
            return
        detections = model.roi_heads(images, features, found, None)[0][0]
    expected = reference["detections"]
    assert len(detections) == expected["n"]
    assert detections.scores[:5].tolist() == pytest.approx(expected["scores"], **TOLERANCE)
    assert detections.pred_classes[:5].tolist() == expected["classes"]
    assert torch.allclose(detections.pred_boxes.tensor[:5], torch.tensor(expected["boxes"]), atol=2e-2)


def test_first_stage_losses(case):
    model, features, images, reference = case
    generator = model.proposal_generator
    generator.train()
    try:
        with EventStorage(0), torch.no_grad():
            proposals, losses = generator(images, features, [targets()])
    finally:
        generator.eval()
    assert {k: float(v) for k, v in losses.items()} == pytest.approx(reference["first_stage_losses"], rel=1e-3)
    if reference.get("train_proposals_n"):
        # the reference keeps ties beyond the limit; away from it the counts are equal
        assert len(proposals[0]) == reference["train_proposals_n"]
