"""Both meta-architectures, end to end on small real models."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from tiny import image, tiny_model, with_objects

ONE_STAGE, SINGLE, CASCADE = "CenterNet-FPN_R50_1x", "CenterNet2-F_R50_1x", "CenterNet2_R50_1x"
ALL = [ONE_STAGE, SINGLE, CASCADE]


@pytest.fixture(scope="module", params=ALL)
def model(request):
    return tiny_model(request.param)


def detections(model, batch):
    with torch.no_grad():
        return [x["instances"] for x in model.eval()(batch)]


def test_batch_of_different_sizes_equals_images_alone(model):
    batch = [image(96, 128, 1), image(96, 128, 2)]
    together = detections(model, batch)
    for example, found in zip(batch, together, strict=True):
        alone = detections(model, [example])[0]
        assert len(alone) == len(found) > 0
        assert torch.allclose(alone.scores, found.scores, atol=1e-4)
        assert torch.allclose(alone.pred_boxes.tensor, found.pred_boxes.tensor, atol=0.05)
    mixed = detections(model, [image(96, 128), image(64, 200)])
    for found, (height, width) in zip(mixed, [(96, 128), (64, 200)], strict=True):
        assert found.image_size == (height, width)
        boxes = found.pred_boxes.tensor
        assert torch.isfinite(boxes).all()
        assert boxes[:, 2].max() <= width
        assert boxes[:, 3].max() <= height


def test_black_image(model):
    black = image()
    black["image"] = torch.zeros_like(black["image"])
    found = detections(model, [black])[0]
    assert torch.isfinite(found.pred_boxes.tensor).all()
    assert torch.isfinite(found.scores).all()


def test_output_size_follows_height_and_width(model):
    example = image()
    small = detections(model, [example])[0]
    large = detections(model, [{**example, "height": 192, "width": 256}])[0]
    assert large.image_size == (192, 256)
    assert torch.allclose(large.scores, small.scores)
    assert torch.allclose(large.pred_boxes.tensor, 2 * small.pred_boxes.tensor, atol=1e-2)


@pytest.mark.parametrize("counts", [(3, 2), (0, 4), (0, 0), (300, 1)])
def test_training_step(model, counts):
    batch = [with_objects(image(seed=i), n, seed=i) for i, n in enumerate(counts)]
    model.train()
    model.zero_grad(set_to_none=True)
    with EventStorage(0):
        losses = model(batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    if counts == (0, 0):
        assert float(losses["loss_centernet_loc"].detach()) == 0


def test_loss_names():
    expected = {
        ONE_STAGE: {"loss_centernet_pos", "loss_centernet_neg", "loss_centernet_loc"},
        SINGLE: {"loss_centernet_agn_pos", "loss_centernet_agn_neg", "loss_centernet_loc", "loss_cls", "loss_box_reg"},
        CASCADE: {"loss_centernet_agn_pos", "loss_centernet_agn_neg", "loss_centernet_loc",
                  *(f"{k}_stage{i}" for k in ("loss_cls", "loss_box_reg") for i in range(3))},
    }  # fmt: skip
    for name, losses in expected.items():
        with EventStorage(0):
            assert set(tiny_model(name).train()([with_objects(image(), 2)])) == losses


def test_training_without_targets_says_so():
    from centernet.modeling.dense_heads.centernet import CenterNet  # the generator alone, as GeneralizedRCNN calls it

    model = tiny_model(CASCADE).train()
    assert isinstance(model.proposal_generator, CenterNet)
    with pytest.raises(ValueError, match="gt_boxes"), EventStorage(0):
        model([image()])


def test_two_configs_in_one_process_do_not_share_state():
    multiplied = tiny_model(CASCADE)
    plain = tiny_model(CASCADE, "MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE", False)
    assert [p.mult_proposal_score for p in multiplied.roi_heads.box_predictor] == [True] * 3
    assert [p.mult_proposal_score for p in plain.roi_heads.box_predictor] == [False] * 3
    with torch.no_grad():
        a, b = (detections(m, [image()])[0].scores.max() for m in (multiplied, plain))
    assert not torch.isclose(a, b)
