"""The second stage: the padded path, the product of scores, classification losses."""

import json

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny import image, tiny_cfg, tiny_model, with_objects

from centernet.errors import UserError
from centernet.modeling.layers import fast_linear
from centernet.modeling.padded_instances import PaddedInstances, pad_proposals
from centernet.modeling.roi_heads.box_predictor import ProbabilisticBoxPredictor
from centernet.modeling.roi_heads.fed_loss import load_class_freq
from centernet.modeling.roi_heads.probabilistic_heads import ProbabilisticCascadeROIHeads, ProbabilisticROIHeads
from centernet.ops.detections import PaddedDetections

CASCADE, SINGLE = "CenterNet2_R50_1x", "CenterNet2-F_R50_1x"


@pytest.fixture(scope="module", params=[CASCADE, SINGLE])
def setting(request):
    model = tiny_model(request.param)
    with torch.no_grad():
        images = model.preprocess_image([image(seed=1), image(64, 128, seed=2)])
        features = model.backbone(images.tensor)
        proposals = model.proposal_generator(images, features, None)[0]
    return model, images, features, proposals


def test_lists_of_instances_give_the_same_as_padded_tensors(setting):
    model, images, features, proposals = setting
    with torch.no_grad():
        padded = model.roi_heads(images, features, proposals, None)[0]
        listed = model.roi_heads(images, features, [proposals[0], proposals[1]], None)[0]
    for a, b in zip(padded, listed, strict=True):
        assert torch.allclose(a.scores, b.scores, atol=1e-6)
        assert torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=1e-3)


def test_cascade_score_by_hand():
    model = tiny_model(CASCADE)
    example = image(seed=3)
    with torch.no_grad():
        images = model.preprocess_image([example])
        features = model.backbone(images.tensor)
        p_object = 0.3
        proposal = Instances((96, 128), proposal_boxes=Boxes(torch.tensor([[20.0, 20, 80, 70]])))
        proposal.objectness_logits = torch.tensor([p_object**0.5])
        found = model.roi_heads(images, features, [proposal], None)[0][0]
        maps, boxes, probabilities = [features[f] for f in model.roi_heads.box_in_features], proposal.proposal_boxes, []
        for head, predictor in zip(model.roi_heads.box_head, model.roi_heads.box_predictor, strict=True):
            logits, deltas = predictor(head(model.roi_heads.box_pooler(maps, [boxes])))
            probabilities.append(logits.softmax(1))
            boxes = Boxes(predictor.box2box_transform.apply_deltas(deltas, boxes.tensor))
            boxes.clip((96, 128))
    expected = (torch.stack(probabilities).mean(0)[0, :-1] * p_object**0.5).sqrt()
    assert torch.allclose(found.scores, expected.sort(descending=True).values, atol=1e-6)
    assert torch.allclose(found.pred_boxes.tensor, boxes.tensor.expand(5, 4), atol=1e-3)


def test_scores_field_is_preferred_over_objectness():
    both = Instances((10, 10), proposal_boxes=Boxes(torch.ones(2, 4)))
    both.objectness_logits, both.scores = torch.tensor([0.1, 0.2]), torch.tensor([0.8, 0.9])
    assert pad_proposals([both]).scores.tolist() == [pytest.approx([0.8, 0.9])]
    assert pad_proposals([both], "objectness_logits").scores.tolist() == [pytest.approx([0.1, 0.2])]
    both.remove("scores")
    assert pad_proposals([both]).scores.tolist() == [pytest.approx([0.1, 0.2])]


def test_written_objectness_reaches_the_second_stage():
    padded = PaddedDetections(torch.ones(1, 2, 4), torch.tensor([[0.5, 0.4]]), torch.zeros(1, 2, dtype=torch.int64),
                              torch.ones(1, 2, dtype=torch.bool))  # fmt: skip
    proposals = PaddedInstances(padded, [(10, 10)], as_proposals=True)
    assert pad_proposals(proposals) is padded
    proposals[0].objectness_logits[0] = 0.9
    assert pad_proposals(proposals, ProbabilisticROIHeads.score_field).scores[0, 0] == pytest.approx(0.9)
    assert pad_proposals(proposals, ProbabilisticCascadeROIHeads.score_field).scores[0, 0] == pytest.approx(0.5)


def test_uneven_and_empty_proposals_are_padded():
    empty = Instances((10, 10), proposal_boxes=Boxes(torch.zeros(0, 4)), objectness_logits=torch.zeros(0))
    two = Instances((10, 10), proposal_boxes=Boxes(torch.ones(2, 4)), objectness_logits=torch.ones(2))
    assert pad_proposals([empty, two]).valid.tolist() == [[False, False], [True, True]]
    assert pad_proposals([empty]).valid.tolist() == [[False]]


def test_image_without_proposals_has_no_detections(setting):
    model, images, features, proposals = setting
    empty = Instances((96, 128), proposal_boxes=Boxes(torch.zeros(0, 4)), objectness_logits=torch.zeros(0))
    with torch.no_grad():
        found = model.roi_heads(images, features, [empty, proposals[1]], None)[0]
    assert len(found[0]) == 0
    assert len(found[1]) > 0


def predictor(**overrides):
    options = [x for k, v in overrides.items() for x in (f"MODEL.ROI_BOX_HEAD.{k}", v)]
    return ProbabilisticBoxPredictor(tiny_cfg(CASCADE, *options), ShapeSpec(channels=8))


def sampled(classes):
    boxes = Boxes(torch.tensor([[0.0, 0, 10, 10]]).repeat(len(classes), 1))
    return Instances((20, 20), proposal_boxes=boxes, gt_boxes=boxes, gt_classes=torch.tensor(classes))


def test_sigmoid_head():
    head = predictor(USE_SIGMOID_CE=True)
    assert head.cls_score.bias.tolist() == pytest.approx([-4.59512] * 6, abs=1e-4)
    probabilities = head.predict_probs((torch.zeros(2, 6), None), [sampled([0]), sampled([1])])
    assert [p.tolist() for p in probabilities] == [[[0.5] * 6]] * 2


def test_published_constructor_order_and_override():
    from detectron2.modeling.box_regression import Box2BoxTransform

    transform = Box2BoxTransform(weights=(30.0, 30, 15, 15))
    head = ProbabilisticBoxPredictor(tiny_cfg(CASCADE), ShapeSpec(channels=8), box2box_transform=transform)
    assert head.box2box_transform is transform
    assert head.bbox_pred.out_features == 4


@pytest.fixture
def frequencies(tmp_path):
    path = tmp_path / "cat_info.json"
    counts = [(3, 25), (1, 100), (2, 0), (5, 4), (4, 9)]  # ids out of order
    path.write_text(json.dumps([{"id": i, "image_count": c} for i, c in counts]))
    return str(path)


def test_class_frequencies_are_sorted_by_id(frequencies):
    assert load_class_freq(frequencies, 0.5).tolist() == [10, 0, 5, 3, 2]
    assert load_class_freq(frequencies, 1.0).tolist() == [100, 0, 25, 9, 4]


def test_missing_or_broken_frequencies_are_named(tmp_path):
    with pytest.raises(UserError, match="CAT_FREQ_PATH"):
        load_class_freq(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text('{"id": 1}')
    with pytest.raises(UserError, match="image_count"):
        load_class_freq(str(tmp_path / "bad.json"))


def test_federated_loss_leaves_out_undrawn_classes(frequencies):
    head = predictor(USE_SIGMOID_CE=True, USE_FED_LOSS=True, FED_LOSS_NUM_CAT=2, CAT_FREQ_PATH=frequencies)
    assert "freq_weight" in head.state_dict()
    logits = torch.randn(2, 6, requires_grad=True)
    with EventStorage(0):
        head.losses((logits, torch.zeros(2, 4)), [sampled([0, 5])])["loss_cls"].backward()
    used = logits.grad.abs().sum(0) > 0
    assert used.tolist() == [True, False, False, False, False, False]  # class 0 and background are the two


def test_losses_of_no_proposals_are_zero():
    head = predictor()
    with EventStorage(0):
        losses = head.losses((torch.zeros(0, 6, requires_grad=True), torch.zeros(0, 4, requires_grad=True)), [])
    assert {k: float(v.detach()) for k, v in losses.items()} == {"loss_cls": 0, "loss_box_reg": 0}


def test_mask_branch_through_detectron2():
    from detectron2.structures import BitMasks

    head = {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 16}
    options = [x for key, value in head.items() for x in (f"MODEL.ROI_MASK_HEAD.{key}", value)]
    model = tiny_model(SINGLE, "MODEL.MASK_ON", True, *options)

    example = with_objects(image(), 3)
    example["instances"].gt_masks = BitMasks(torch.ones(3, 96, 128, dtype=torch.bool))
    with EventStorage(0):
        losses = model.train()([example])
    assert float(losses["loss_mask"].detach()) > 0
    with torch.no_grad():
        found = model.eval()([image()])[0]["instances"]
    assert found.pred_masks.shape[1:] == (96, 128)


def test_the_federated_loss_of_newer_detectron2_is_left_out(monkeypatch, frequencies):
    from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers

    older = FastRCNNOutputLayers.from_config.__func__

    def newer(cls, cfg, input_shape):
        def needs_lvis():
            raise AssertionError("asked for LVIS metadata")

        own = {"use_fed_loss": cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS, "use_sigmoid_ce": True, "fed_loss_num_classes": 50}
        return {**older(cls, cfg, input_shape), **own, "get_fed_loss_cls_weights": needs_lvis}

    monkeypatch.setattr(FastRCNNOutputLayers, "from_config", classmethod(newer))
    head = predictor(USE_SIGMOID_CE=True, USE_FED_LOSS=True, CAT_FREQ_PATH=frequencies)
    assert head.federated
    assert head.sigmoid_ce


def test_frequencies_of_another_number_of_classes_are_refused(frequencies):
    options = ["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True, "MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH", frequencies]
    cfg = tiny_cfg(CASCADE, *options, "MODEL.ROI_HEADS.NUM_CLASSES", 7)
    with pytest.raises(ValueError, match="5 classes.*CAT_FREQ_PATH.*7"):
        ProbabilisticBoxPredictor(cfg, ShapeSpec(channels=8))


def test_sizes_as_tensors_stay_tensors_while_tracing():
    from centernet.modeling.padded_instances import image_size_tensor

    traced = image_size_tensor([torch.tensor([96, 128]), torch.tensor([64, 128])], torch.device("cpu"))
    assert traced.tolist() == image_size_tensor([(96, 128), (64, 128)], torch.device("cpu")).tolist()


@torch.no_grad()
def test_fast_inference_differs_in_the_last_bits_only(setting, monkeypatch):
    model, images, features, proposals = setting
    sizes = torch.tensor(images.image_sizes)
    exact = model.roi_heads.detect(features, proposals.padded, sizes)
    monkeypatch.setattr(fast_linear, "_WORTH_IT", 0)
    fast, _ = model.roi_heads.detect_with_owner(features, proposals.padded, sizes, fast=True)
    assert torch.allclose(fast.scores, exact.scores, atol=1e-5)
    assert torch.equal(fast.valid, exact.valid)
