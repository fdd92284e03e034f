"""Every YAML file of the wing builds a detector that trains on pairs and finds things in single pictures."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from released_layout import CONFIGS

from centernet.config_file import load_config
from centernet.engine.optimizer import build_optimizer, check_optimizer
from centernet.errors import UserError
from centernet.modeling.build import build_detector

MODELS = sorted(path for path in CONFIGS.glob("*.yaml") if not path.stem.startswith("Base"))
# small enough for two CPU cores
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32", "MODEL.TRACKING3D.EMBEDDING_HEAD.BATCH_SIZE_PER_IMAGE", "16"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "64", "MODEL.RPN.POST_NMS_TOPK_TEST", "64", "TEST.DETECTIONS_PER_IMAGE", "20"),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.TRACKING3D.BOX3D_HEAD.CONV_DIM", "16", "MODEL.TRACKING3D.EMBEDDING_HEAD.CONV_DIM", "32"),
    *("MODEL.CENTERNET.POST_NMS_TOPK_TRAIN", "64", "MODEL.CENTERNET.POST_NMS_TOPK_TEST", "64"),
    *("MODEL.TRACKING3D.EMBEDDING_HEAD.FC_DIM", "32", "MODEL.TRACKING3D.EMBEDDING_HEAD.SIZE", "8"),
]
FIELDS = {
    "pred_depth": (), "pred_depth_confidence": (), "pred_dims": (3,), "pred_alpha": (), "pred_center2d": (2,),
    "embeddings": (8,),
}  # fmt: skip


FAST = {("QD3DT_DLA34_KITTI", "parity"), ("CenterNet2-3DT_DLA34_KITTI", "modern")}
CASES = [
    pytest.param((path, mode), id=f"{path.stem}-{mode}", marks=() if (path.stem, mode) in FAST else pytest.mark.slow)
    for path in MODELS
    for mode in ("parity", "modern")
]


@pytest.fixture(scope="module", params=CASES)
def model(request):
    path, mode = request.param
    torch.manual_seed(0)
    cfg = load_config(path, [*SMALL, "MODEL.TRACKING3D.MODE", mode])
    model = build_detector(cfg)
    model.statistics_stay = cfg.MODEL.TRACKING3D.FIXED_STATISTICS
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):  # without its weights a deep body with constant statistics explodes
            value.fill_(0.2)
    return model


def one_picture(height, width, objects):
    corner = torch.rand(objects, 2) * torch.tensor([width - 20.0, height - 20.0])
    truth = Instances((height, width))
    truth.gt_boxes = Boxes(torch.cat((corner, corner + 4 + 16 * torch.rand(objects, 2)), dim=1))
    truth.gt_classes = torch.zeros(objects, dtype=torch.int64)
    truth.gt_depth = 5 + 40 * torch.rand(objects)
    truth.gt_alpha = 6 * torch.rand(objects) - 3
    truth.gt_dims = 1 + 3 * torch.rand(objects, 3)
    truth.gt_center_offset = torch.randn(objects, 2)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": truth}


def pair(height, width, objects):
    """All but the last object are in the reference, too, in the opposite order."""
    key, reference = one_picture(height, width, objects), one_picture(height, width, objects)
    key["instances"].gt_match = torch.arange(objects).flip(0)
    key["instances"].gt_match[-1:] = -1
    return {**key, "reference": reference}


def test_detects(model):
    model.eval()
    found = [
        x["instances"] for x in model([one_picture(96, 160, 0), {**one_picture(64, 96, 0), "height": 32, "width": 48}])
    ]
    assert [x.image_size for x in found] == [(96, 160), (32, 48)]
    for x in found:
        assert 0 < len(x) <= 20
        size = torch.tensor([x.image_size[1], x.image_size[0]])
        assert (x.pred_boxes.tensor >= 0).all()
        assert (x.pred_boxes.tensor[:, 2:] <= size + 1).all()
        for name, shape in FIELDS.items():
            assert x.get(name).shape == (len(x), *shape)
            assert x.get(name).isfinite().all()
        assert ((x.pred_depth_confidence >= 0) & (x.pred_depth_confidence <= 1)).all()


@pytest.mark.parametrize(
    "objects",
    [(0, 0), pytest.param((1, 0), marks=pytest.mark.slow), (40, 2)],
    ids=["none", "one", "crowd"],
)
def test_trains(model, objects):
    model.train()
    model.zero_grad(set_to_none=True)
    with EventStorage():
        losses = model([pair(64, 96, objects[0]), pair(96, 64, objects[1])])
    assert len(losses) == 9 + len([name for name in losses if name.startswith(("loss_rpn", "loss_centernet"))])
    sum(losses.values()).backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, grad in trained.items() if grad is None or not grad.isfinite().all()] == []


@pytest.mark.parametrize("region", [[0.0, 0.0, 96.0, 96.0], [0.0, 0.0, 4.0, 4.0]], ids=["all", "corner"])
def test_trains_beside_regions_without_annotations(model, region):
    model.train()
    with EventStorage():
        losses = model([{**pair(64, 96, 3), "ignore_regions": Boxes(torch.tensor([region]))}])
    assert all(loss.isfinite() for loss in losses.values())


def test_statistics_stay_and_scales_train(model):
    model.train()
    norms = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    with EventStorage():
        model([pair(64, 96, 3)])
    same = [torch.equal(value, model.state_dict()[name]) for name, value in norms.items()]
    assert all(same) if model.statistics_stay else not any(same)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad and ".norm." in name}
    assert all(".stem." in name or ".res2." in name for name in frozen)


def test_training_wants_pairs(model):
    model.train()
    with pytest.raises(UserError, match="picture 0 of the batch has no 'reference'"):
        model([one_picture(64, 96, 1)])


def test_rates_of_the_published_recipe(model):
    cfg = load_config(CONFIGS / "QD3DT_DLA34_KITTI.yaml")
    if type(model.proposal_generator).__name__ != "LegacyRPN" or not model.statistics_stay:  # ours from random weights
        pytest.skip("not a published recipe")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(cfg, model).param_groups
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    assert groups[0]["lr"] == cfg.SOLVER.BASE_LR
    tenfold = {name for name, rate in rates.items() if rate == pytest.approx(10 * cfg.SOLVER.BASE_LR)}
    heads = "roi_heads.box3d_head."
    assert tenfold == {
        *(f"proposal_generator.rpn_head.{name}.weight" for name in ("objectness_logits", "anchor_deltas")),
        *(f"roi_heads.box_predictor.{name}.weight" for name in ("cls_score", "bbox_pred")),
        *(f"{heads}{branch}_convs.{i}.weight" for branch in ("dep", "dim", "rot") for i in range(4)),
        *(f"{heads}fc_{name}.weight" for name in ("dep", "dep_uncer", "dim", "rot", "2dc")),
    }
    assert set(rates.values()) == {cfg.SOLVER.BASE_LR, 10 * cfg.SOLVER.BASE_LR}
    assert {group["weight_decay"] for group in groups} == {1e-4}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_constants_agree(path):
    cfg = load_config(path)
    node = cfg.MODEL.TRACKING3D
    ours = path.stem.startswith("CenterNet2") or path.stem.endswith("_synthetic")
    assert ("modern" if ours else "parity") == node.MODE
    assert len(node.CLASSES) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert all(node.CLASSES[label] in ("ignore", "dontcare") for label in node.HIDDEN_CLASSES)
    if not path.stem.endswith("_synthetic"):  # 24 published epochs
        assert max(cfg.SOLVER.STEPS) < cfg.SOLVER.MAX_ITER
        assert pytest.approx(max(cfg.SOLVER.STEPS), rel=0.01) == cfg.SOLVER.MAX_ITER * 22 // 24


@pytest.mark.parametrize("entry", ["a", ["(", 2.0], ["a", 0], ["a", 1, 2], [3, 1.0]])
def test_rate_factors_that_make_no_sense(entry):
    cfg = load_config("")
    cfg.SOLVER.LR_FACTORS = [entry]
    with pytest.raises(UserError, match="SOLVER.LR_FACTORS has the entry"):
        check_optimizer(cfg)
