"""The first stage as a detectron2 proposal generator."""

import copy
import inspect
import pickle

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import EventStorage
from tiny import image, with_objects

from centernet.config import add_centernet_config
from centernet.modeling.dense_heads.centernet import CenterNet
from centernet.modeling.dense_heads.centernet_head import CenterNetHead
from centernet.modeling.finite_check import FiniteCheck, NonFiniteError, settle_finite_checks

LEVELS = {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
IMAGES = ImageList(torch.zeros(2, 3, 128, 128), [(128, 128), (100, 128)])


def features(channels=32, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(batch, channels, max(1, 128 // s), max(1, 128 // s), generator=generator)
        for n, s in LEVELS.items()
    }


def generator(**kwargs):
    torch.manual_seed(0)
    return CenterNet(32, **{"with_agn_hm": True, "only_proposal": True, "score_thresh": 1e-4, **kwargs}).eval()


def gt(count=3):
    return [with_objects(image(128, 128, i), count, seed=i)["instances"] for i in range(2)]


@pytest.mark.parametrize("mode", [{}, {"only_proposal": False}, {"only_proposal": False, "as_proposal": True},
                                  {"only_proposal": False, "with_agn_hm": False}])  # fmt: skip
def test_fields_of_every_mode(mode):
    stage = generator(**mode)
    with torch.no_grad():
        found, losses = stage(IMAGES, features(), None)
    assert losses == {}
    assert len(found) == 2
    proposals = stage.only_proposal or stage.as_proposal
    names = {"proposal_boxes", "objectness_logits", "scores", "pred_classes"} if proposals else {
        "pred_boxes", "scores", "pred_classes"}  # fmt: skip
    for instances in found:
        assert isinstance(instances, Instances)
        assert set(instances.get_fields()) == names
        assert (instances.scores.diff() <= 0).all()
    assert found[1].image_size == (100, 128)
    stage.train()
    with EventStorage(0):
        trained, losses = stage(IMAGES, features(), gt())
    if proposals:
        assert set(trained[0].get_fields()) == {"proposal_boxes", "objectness_logits"}
        assert not trained[0].objectness_logits.requires_grad
    else:
        assert trained is None
    expected = {"loss_centernet_loc"}
    expected |= {"loss_centernet_agn_pos", "loss_centernet_agn_neg"} if stage.with_agn_hm else set()
    expected |= set() if stage.only_proposal else {"loss_centernet_pos", "loss_centernet_neg"}
    assert set(losses) == expected


def test_score_is_the_root_of_the_probability():
    stage = generator(nms_thresh_test=0.0)
    with torch.no_grad():
        found = stage(IMAGES, features(), None)[0]
        maps = stage.centernet_head(list(features().values()))[2]
    best = max(float(m[0].sigmoid().max()) for m in maps)
    assert float(found[0].scores[0]) == pytest.approx(best**0.5, rel=1e-5)


def test_objectness_can_be_written_without_touching_scores():
    with torch.no_grad():
        found = generator()(IMAGES, features(), None)[0]
    before = found[0].scores.clone()
    found[0].objectness_logits[0] = 7.0
    assert float(found[0].objectness_logits[0]) == 7.0
    assert torch.equal(found[0].scores, before)


def test_result_is_a_sequence():
    with torch.no_grad():
        found = generator()(IMAGES, features(), None)[0]
    assert found[0] is found[0] is next(iter(found))
    assert found[-1] is found[1]
    assert len(found[0:2]) == 2
    with pytest.raises(IndexError):
        found[2]


@pytest.mark.parametrize("key, value, changed", [
    ("pos_weight", 3.0, "loss_centernet_agn_pos"), ("neg_weight", 3.0, "loss_centernet_agn_neg"),
    ("reg_weight", 6.0, "loss_centernet_loc"),
])  # fmt: skip
def test_loss_weights_scale_their_term_only(key, value, changed):
    with torch.no_grad(), EventStorage(0):
        base = generator().train()(IMAGES, features(), gt())[1]
        other = generator(**{key: value}).train()(IMAGES, features(), gt())[1]
    for name in base:
        factor = 3.0 if name == changed else 1.0
        assert float(other[name]) == pytest.approx(factor * float(base[name]), rel=1e-5)


def test_box_loss_weighted_by_the_heatmap():
    with torch.no_grad(), EventStorage(0):
        flat = generator().train()(IMAGES, features(), gt())[1]["loss_centernet_loc"]
        weighted = generator(not_norm_reg=False).train()(IMAGES, features(), gt())[1]["loss_centernet_loc"]
    assert torch.isfinite(weighted)
    assert not torch.isclose(flat, weighted)


def test_no_memory_scales_with_classes_when_class_agnostic():
    stage = generator(num_classes=1203)
    assert stage.target_rules.num_classes is None
    assert stage.centernet_head.cls_logits is None


def test_default_head_gets_the_number_of_classes():
    stage = CenterNet(32, num_classes=7)
    assert stage.centernet_head.cls_logits.out_channels == 7


@pytest.mark.parametrize("arguments, words", [
    ({"only_proposal": True}, "WITH_AGN_HM"), ({"strides": (8, 16)}, "FPN_STRIDES"),
    ({"loc_loss_type": "gious"}, "LOC_LOSS_TYPE.*giou"),
])  # fmt: skip
def test_contradicting_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        CenterNet(32, **arguments)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_feature_is_named(bad):
    broken = features()
    broken["p5"][0, 0, 1, 1] = bad
    with pytest.raises(NonFiniteError, match="feature 'p5'"):
        generator()(IMAGES, broken, None)
    generator(check_finite=False)(IMAGES, broken, None)


def test_bad_ground_truth_is_named():
    targets = gt()
    targets[0].gt_boxes.tensor[0, 2] = float("nan")
    with pytest.raises(NonFiniteError, match="ground-truth boxes"), EventStorage(0):
        generator().train()(IMAGES, features(), targets)


def test_finite_check_names_the_output_when_no_suspect_is_bad():
    with pytest.raises(NonFiniteError, match="box map"):
        FiniteCheck()({"feature": torch.ones(2)}, {"box map": torch.tensor([1.0, float("nan")])})


def test_head_initialisation_and_structure():
    head = CenterNetHead(64, 2, with_agn_hm=True, prior_prob=0.01, num_box_convs=2, num_share_convs=1)
    assert [type(m).__name__ for m in head.bbox_tower] == ["Conv2d", "GroupNorm", "ReLU"] * 2
    assert head.bbox_pred.bias.tolist() == [8.0] * 4
    assert float(head.agn_hm.bias.detach()) == pytest.approx(-4.59512, abs=1e-5)
    assert [s.scale.shape for s in head.scales] == [(1,), (1,)]
    assert [type(m).__name__ for m in CenterNetHead(64, 1, norm="").bbox_tower[:4]] == ["Conv2d", "ReLU"] * 2
    assert CenterNetHead(50, 1).bbox_tower[1].num_groups == 25
    deformable = CenterNetHead(64, 1, use_deformable=True, num_box_convs=2).bbox_tower
    assert hasattr(deformable[3], "offset")
    assert not hasattr(deformable[0], "offset")
    assert float(deformable[3].offset.weight.detach().std()) == pytest.approx(0.01, rel=0.1)


def test_box_distances_are_never_negative():
    head = CenterNetHead(32, 5, with_agn_hm=True, only_proposal=True)
    with torch.no_grad():
        head.bbox_pred.bias.fill_(-3)
        boxes = head([10 * f for f in features().values()])[1]
    assert min(float(b.min()) for b in boxes) == 0


def test_constructor_defaults_are_those_of_the_config():
    cfg = get_cfg()
    add_centernet_config(cfg)
    from_config = CenterNet.from_config.__func__(CenterNet, cfg, {n: ShapeSpec(channels=256) for n in LEVELS})
    different = {"vis_thresh", "device", "centernet_head"}  # published so
    defaults = {n: p.default for n, p in inspect.signature(CenterNet.__init__).parameters.items()}
    plain = {n: [list(x) if isinstance(x, (tuple, list)) else x for x in v] if isinstance(v, (tuple, list)) else v
             for source in (from_config,) for n, v in source.items()}  # fmt: skip
    for name in set(plain) - different:
        default = defaults[name]
        if isinstance(default, tuple):
            default = [list(x) if isinstance(x, tuple) else x for x in default]
        assert default == plain[name], name


def test_finite_check_can_be_copied_and_settled():
    stage = copy.deepcopy(generator())
    pickle.loads(pickle.dumps(stage.check_finite))
    settle_finite_checks(stage)  # nothing is on its way on a CPU


def test_settling_tells_what_a_gpu_has_found():
    class Done:
        def query(self):
            return True

        def synchronize(self):
            pass

    stage = generator()
    stage.check_finite._pending.append((["feature 'p3'", "box map"], torch.tensor([True, False]), Done()))
    with pytest.raises(NonFiniteError, match="box map"):
        settle_finite_checks(stage)
    settle_finite_checks(stage)


@pytest.mark.parametrize("agnostic", [True, False], ids=["proposals", "classes"])
def test_regions_without_annotations_are_no_background(agnostic):
    stage = generator() if agnostic else generator(only_proposal=False)
    stage.train()

    def losses_of(ignored):
        with EventStorage(0):
            return stage.losses(maps, gt(), IMAGES, ignored)

    maps = stage.maps(features())
    plain = losses_of(None)
    assert plain == losses_of([None, torch.zeros(0, 4)])
    regions = [torch.tensor([[0.0, 0, 64, 128]]), None]
    spared = losses_of(regions)
    changed = {name for name in plain if spared[name] != plain[name]}
    assert changed == {name for name in plain if name.endswith("neg")}
    heat = maps[2][0] if agnostic else maps[0][0]  # of p3: 16 x 16 cells of 8 pixels
    (gradient,) = torch.autograd.grad(sum(spared[name] for name in changed), heat)
    assert not gradient[0, :, :, :8].any()
    assert gradient[0, :, :, 8:].any()
    assert gradient[1, :, :, :8].any()


def test_half_precision_batch_without_objects():
    stage = generator().to(torch.bfloat16).train()
    half = {name: value.to(torch.bfloat16) for name, value in features().items()}
    with EventStorage(0):
        losses = stage(IMAGES, half, gt(0))[1]
    assert all(torch.isfinite(v) for v in losses.values())
    assert float(losses["loss_centernet_loc"].detach()) == 0
