"""``gt_scores`` of objects as weights: nothing changes without them or at 1, and each reaches its own terms only."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from tiny import image, tiny_cfg, tiny_model, with_objects

from centernet.modeling.dense_heads.centernet import CenterNet
from centernet.modeling.roi_heads.box_predictor import ProbabilisticBoxPredictor
from centernet.ops.assign import Objects, assign_levels, center_positives
from centernet.ops.grid import Pyramid
from centernet.ops.losses import FocalRules, heatmap_focal_loss, softmax_cross_entropy
from centernet.ops.targets import TargetRules, build_targets

CASCADE, SINGLE = "CenterNet2_R50_1x", "CenterNet2-F_R50_1x"
MODES = [{}, {"only_proposal": False}, {"not_norm_reg": False}, {"unique_positives": True}, {"more_pos": True}]


def first_stage_losses(mode, score):
    torch.manual_seed(0)
    stage = CenterNet(32, **{"with_agn_hm": True, "only_proposal": True, "score_thresh": 1e-4, **mode}).train()
    torch.manual_seed(1)
    features = {f"p{level}": torch.randn(2, 32, 128 >> level, 128 >> level) for level in range(3, 8)}
    objects = [with_objects(image(128, 128, i), 3, seed=i)["instances"] for i in range(2)]
    if score is not None:
        for x in objects:
            x.gt_scores = torch.full((3,), score)
    with EventStorage(0):
        return stage(ImageList(torch.zeros(2, 3, 128, 128), [(128, 128)] * 2), features, objects)[1]


@pytest.mark.parametrize("mode", MODES)
def test_first_stage_scales_positives_and_boxes_only(mode):
    plain, ones, half = (first_stage_losses(mode, score) for score in (None, 1.0, 0.5))
    for name, value in plain.items():
        assert value.item() == ones[name].item()
        assert half[name].item() == pytest.approx(value.item() * (1 if name.endswith("neg") else 0.5), rel=1e-6)


def test_each_object_weighs_its_own_positives_and_cells():
    boxes = torch.tensor([[10.0, 10, 60, 60], [100, 20, 124, 50], [101, 20, 125, 50]])
    objects = Objects(boxes, torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1]))
    pyramid = Pyramid(((16, 16), (8, 8)), (8, 16), 2)
    targets = build_targets(objects, pyramid, TargetRules(((0, 80), (64, 160)), num_classes=2))
    assert torch.equal(objects.classes[targets.positive_objects], targets.positive_labels)
    per_image = pyramid.image_starts(torch.tensor([0, 1]))
    assert per_image.shape == (2, 2)
    # every regression target reaches from its cell to the sides of the object it names
    sides = objects.boxes[targets.regression_objects]
    strides = torch.where(targets.regression_cells < 2 * 256, 8.0, 16.0)
    width = (targets.regression_ltrb[:, 0] + targets.regression_ltrb[:, 2]) * strides
    assert torch.allclose(width, sides[:, 2] - sides[:, 0])
    logits = torch.randn(pyramid.num_cells, 2, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.3, 0.9, 0.0])
    found = [
        heatmap_focal_loss(logits, targets.heatmap, cells, labels, FocalRules(), w)[0]
        for cells, labels, w in [
            (targets.positive_cells, targets.positive_labels, weights[targets.positive_objects]),
            *((targets.positive_cells[k == targets.positive_objects], torch.full((1,), int(objects.classes[k])), None)
              for k in range(3)),
        ]
    ]  # fmt: skip
    assert found[0].item() == pytest.approx(sum(w * f for w, f in zip(weights.tolist(), found[1:], strict=True)).item())


def test_a_shared_cell_is_the_first_objects():
    twins = Objects(torch.tensor([[0.0, 0, 9, 9], [8, 8, 16, 16], [9, 9, 15, 15]]), torch.tensor([1, 1, 1]),
                    torch.zeros(3, dtype=torch.int64))  # fmt: skip
    assigned = assign_levels(twins.boxes, ((0, 100),))
    found = center_positives(twins, assigned, Pyramid(((4, 4),), (8,), 1), unique=True)
    assert dict(zip(found.cells.tolist(), found.objects.tolist(), strict=True)) == {0: 0, 5: 1}


def predictor(*options):
    torch.manual_seed(0)
    return ProbabilisticBoxPredictor(tiny_cfg(CASCADE, *options), ShapeSpec(channels=8))


def sampled(classes, scores=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(len(classes), 2, generator=generator) * 50
    boxes = torch.cat((corner, corner + 10 + 20 * torch.rand(len(classes), 2, generator=generator)), dim=1)
    x = Instances((100, 100), proposal_boxes=Boxes(boxes), gt_boxes=Boxes(boxes + 2), gt_classes=torch.tensor(classes))
    if scores is not None:
        x.gt_scores = torch.tensor(scores)
    return x


def losses(head, proposals):
    rows = sum(len(p) for p in proposals)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, 6, generator=generator)
    deltas = 0.1 * torch.randn(rows, head.bbox_pred.out_features, generator=generator)
    with EventStorage(0):
        return {name: value.item() for name, value in head.losses((logits, deltas), proposals).items()}


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou", "diou", "ciou"])
def test_second_stage_scales_foreground_only(sigmoid, agnostic, box_loss):
    head = predictor(
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", sigmoid, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", box_loss,
    )  # fmt: skip
    plain = losses(head, [sampled([0, 5, 4]), sampled([5, 2], seed=1)])
    ones = losses(head, [sampled([0, 5, 4], [1.0, 1.0, 1.0]), sampled([5, 2], seed=1)])
    assert ones == pytest.approx(plain, rel=1e-6)
    none, half = (losses(head, [sampled([0, 5, 4], [w, w, w]), sampled([5, 2], [w, w], 1)]) for w in (0.0, 0.5))
    assert none["loss_box_reg"] == 0
    assert half["loss_box_reg"] == pytest.approx(plain["loss_box_reg"] / 2, rel=1e-5)
    assert 0 < none["loss_cls"] < half["loss_cls"] < plain["loss_cls"]  # what is left is the background
    assert half["loss_cls"] == pytest.approx((none["loss_cls"] + plain["loss_cls"]) / 2, rel=1e-5)


def test_weighted_softmax_with_classes_left_out():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    labels, classes = torch.tensor([0, 2, 3]), torch.tensor([1.0, 1, 0])
    assert softmax_cross_entropy(logits, labels, classes, torch.ones(3)).item() == pytest.approx(
        softmax_cross_entropy(logits, labels, classes).item()
    )


@pytest.mark.parametrize("config", [CASCADE, SINGLE])
def test_weights_reach_every_stage_of_a_model(config):
    model = tiny_model(config).train()

    def train(score):
        batch = [with_objects(image(seed=s), 4, seed=s) for s in range(2)]
        if score is not None:
            for example in batch:
                example["instances"].gt_scores = torch.full((4,), score)
        torch.manual_seed(5)
        with EventStorage(0):
            return {name: value.item() for name, value in model(batch).items()}

    model.load_state_dict(state := {k: v.clone() for k, v in model.state_dict().items()})
    plain = train(None)
    model.load_state_dict(state)
    ones = train(1.0)
    model.load_state_dict(state)
    none = train(0.0)
    assert ones == pytest.approx(plain, rel=1e-5)
    box_losses = [name for name in plain if "box_reg" in name or name.endswith(("_loc", "_pos"))]
    assert len(box_losses) == (5 if config == CASCADE else 3)
    assert all(plain[name] > 0 for name in box_losses)
    assert [none[name] for name in box_losses] == [0] * len(box_losses)
    assert none["loss_centernet_agn_neg"] == plain["loss_centernet_agn_neg"]
