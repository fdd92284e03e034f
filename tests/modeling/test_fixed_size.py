"""The one path of fixed size: the same detections as through detectron2's lists."""

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN
from tiny import image, tiny_cfg, tiny_model

from centernet.errors import UserError
from centernet.modeling.fixed_size import FixedSizeDetector

ONE_STAGE, SINGLE, CASCADE = "CenterNet-FPN_R50_1x", "CenterNet2-F_R50_1x", "CenterNet2_R50_1x"
SIZES = [(96, 128), (64, 200), (70, 90)]


@pytest.fixture(scope="module", params=[ONE_STAGE, SINGLE, CASCADE])
def model(request):
    return tiny_model(request.param)


def batch(divisor, sizes=SIZES, beyond=0):
    """``batched_inputs`` and the same as tensors, with ``beyond`` outside the images."""
    items = [image(*size, seed=seed) for seed, size in enumerate(sizes)]
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    images = torch.full((len(sizes), 3, height, width), beyond, dtype=torch.uint8)
    for canvas, item, (h, w) in zip(images, items, sizes, strict=True):
        canvas[:, :h, :w] = item["image"]
    return items, images, torch.tensor(sizes)


def assert_equal(padded, listed):
    for k, instances in enumerate(listed):
        valid = padded.valid[k]
        assert int(valid.sum()) == len(instances) > 0
        assert torch.equal(padded.boxes[k][valid], instances.pred_boxes.tensor)
        assert torch.equal(padded.scores[k][valid], instances.scores)
        assert torch.equal(padded.classes[k][valid], instances.pred_classes)


@torch.no_grad()
def test_equals_the_model_on_lists(model):
    detector = FixedSizeDetector(model)
    items, images, sizes = batch(detector.divisor)
    listed = model.inference(items, do_postprocess=False)
    assert_equal(detector(images, sizes), listed)
    assert_equal(detector(images.float(), sizes), listed)


@torch.no_grad()
def test_what_lies_beyond_an_image_does_not_matter(model):
    detector = FixedSizeDetector(model)
    _, black, sizes = batch(detector.divisor)
    _, white, _ = batch(detector.divisor, beyond=255)
    assert not torch.equal(black, white)
    for a, b in zip(detector(black, sizes), detector(white, sizes), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_objectness_is_of_the_proposal(model):
    detector = FixedSizeDetector(model)
    _, images, sizes = batch(detector.divisor)
    plain = detector(images, sizes)
    found, objectness = detector.detect_with_objectness(images, sizes)
    for a, b in zip(plain, found, strict=True):
        assert torch.equal(a, b)
    assert objectness.shape == found.scores.shape
    assert not objectness[~found.valid].any()
    if not detector.two_stage:
        assert (objectness[found.valid] == 1).all()
        return
    # score ** 2 = P(class | object) * sqrt(P(object)), and P(class | object) <= 1
    assert (found.scores**2 <= objectness.sqrt() + 1e-6)[found.valid].all()
    proposals = detector.propose(detector.features(detector.normalise(images, sizes)), sizes)
    for k in range(len(images)):
        of_proposals = proposals.scores[k][proposals.valid[k]] ** 2
        assert torch.isin(objectness[k][found.valid[k]], of_proposals).all()


@torch.no_grad()
def test_objectness_of_one_stage_with_class_agnostic_map():
    model = tiny_model(ONE_STAGE, "MODEL.CENTERNET.WITH_AGN_HM", True, "MODEL.CENTERNET.INFERENCE_TH", 0.0)
    detector = FixedSizeDetector(model)
    _, images, sizes = batch(detector.divisor, SIZES[:1])
    found, objectness = detector.detect_with_objectness(images, sizes)
    peak = max(float(m.max()) for m in detector.heatmaps(detector.features(detector.normalise(images, sizes))))
    assert 0 < objectness.max() <= peak < 0.5
    assert (found.scores**2 <= objectness + 1e-6).all()


@torch.no_grad()
def test_heatmaps_are_probabilities(model):
    detector = FixedSizeDetector(model)
    _, images, sizes = batch(detector.divisor)
    features = detector.features(detector.normalise(images, sizes))
    maps = detector.heatmaps(features)
    names = model.proposal_generator.in_features
    assert [m.shape for m in maps] == [(3, 1, *features[name].shape[2:]) for name in names]
    assert all(0 <= float(m.min()) <= float(m.max()) <= 1 for m in maps)
    best = detector.propose(features, sizes).scores.max()
    power = 0.5 if detector.two_stage else 1.0
    assert torch.isclose(max(m.max() for m in maps) ** power, best)


def test_modules_are_shared():
    model = tiny_model(SINGLE)
    detector = FixedSizeDetector(model)
    assert detector.model is model
    assert not detector.training


def test_other_models_are_refused():
    with pytest.raises(UserError, match="Linear is no detector of this package"):
        FixedSizeDetector(torch.nn.Linear(1, 1))
    cfg = tiny_cfg(CASCADE, "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    with pytest.raises(UserError, match="CustomROIHeads"):
        FixedSizeDetector(GeneralizedRCNN(cfg))
