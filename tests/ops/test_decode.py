import pytest
import torch

from centernet.ops.decode import DecodeRules, decode

RULES = DecodeRules(inference_th=1e-4, pre_nms_topk=1000, post_nms_topk=100, nms_th=0.6)
SIZES = torch.tensor([[128, 256]])


def logit(p):
    return torch.logit(torch.tensor(p))


def published_maps(batch=1):
    heat = torch.full((batch, 1, 32, 64), -20.0)
    heat[:, 0, 5, 7], heat[:, 0, 20, 40], heat[:, 0, 20, 41] = logit(0.81), logit(0.36), logit(0.25)
    ltrb = torch.full((batch, 4, 32, 64), 2.0)
    ltrb[:, :, 20, 40] = 0
    return heat, ltrb


def test_published_decode():
    heat, ltrb = published_maps()
    found = decode([heat], [ltrb], [4], SIZES, RULES)
    assert found.valid[0].sum() == 3
    assert found.scores[0, :3].tolist() == pytest.approx([0.9, 0.6, 0.5], abs=1e-5)
    expected = torch.tensor([[22, 14, 38, 30], [162, 82, 162.01, 82.01], [158, 74, 174, 90]])
    assert torch.allclose(found.boxes[0, :3], expected, atol=1e-4)
    assert not found.boxes[0, 3:].any()
    assert not found.scores[0, 3:].any()


def test_score_is_the_probability_without_the_root():
    heat, ltrb = published_maps()
    found = decode([heat], [ltrb], [4], SIZES, RULES._replace(sqrt_score=False))
    assert found.scores[0, :3].tolist() == pytest.approx([0.81, 0.36, 0.25], abs=1e-5)


def test_equal_scores_never_exceed_the_limit():
    heat = torch.full((1, 1, 32, 64), -20.0)
    heat.view(-1)[:300] = 1.0
    found = decode([heat], [torch.full((1, 4, 32, 64), 0.1)], [4], SIZES, RULES)
    assert found.valid.shape == (1, 100)
    assert found.valid.all()


def test_threshold_comes_before_the_product_with_the_agnostic_map():
    heat, ltrb = published_maps()
    agnostic = torch.full_like(heat, float(logit(0.01)))
    found = decode([heat], [ltrb], [4], SIZES, RULES._replace(inference_th=0.3), [agnostic])
    assert found.valid[0].sum() == 2  # 0.81 and 0.36 pass, though both products are below 0.3
    assert found.scores[0, 0] == pytest.approx((0.81 * 0.01) ** 0.5, abs=1e-5)


def test_topk_is_per_level_and_nms_across_levels():
    heat, ltrb = published_maps()
    coarse = torch.full((1, 1, 16, 32), -20.0)
    coarse[0, 0, 2, 3] = logit(0.7)  # stride 8: cell (2, 3) sits at (28, 20), within a few pixels of the first box
    coarse_ltrb = torch.full((1, 4, 16, 32), 1.0)
    rules = RULES._replace(pre_nms_topk=1)
    found = decode([heat, coarse], [ltrb, coarse_ltrb], [4, 8], SIZES, rules._replace(nms_th=0.9))
    assert found.scores[0, found.valid[0]].tolist() == pytest.approx([0.9, 0.7**0.5], abs=1e-5)
    suppressed = decode([heat, coarse], [ltrb, coarse_ltrb], [4, 8], SIZES, rules._replace(nms_th=0.3))
    assert suppressed.valid.sum() == 1


def test_center_nms_keeps_local_maxima_and_skips_box_nms():
    heat, ltrb = published_maps()
    found = decode([heat], [ltrb], [4], SIZES, RULES._replace(center_nms=True, inference_th=0.01))
    assert found.scores[0, found.valid[0]].tolist() == pytest.approx([0.9, 0.6], abs=1e-5)


def test_classes_come_from_channels_and_do_not_suppress_each_other():
    heat = torch.full((1, 3, 8, 8), -20.0)
    heat[0, 2, 4, 4], heat[0, 0, 4, 4] = 2.0, 1.0
    found = decode([heat], [torch.ones(1, 4, 8, 8)], [8], SIZES, RULES)
    assert found.classes[0, found.valid[0]].tolist() == [2, 0]


def test_batch_equals_images_alone():
    torch.manual_seed(0)
    heat, ltrb = torch.randn(3, 2, 32, 64) * 2, torch.rand(3, 4, 32, 64) * 4
    sizes = torch.tensor([[128, 256]] * 3)
    together = decode([heat], [ltrb], [4], sizes, RULES)
    for image in range(3):
        alone = decode([heat[image : image + 1]], [ltrb[image : image + 1]], [4], sizes[:1], RULES)
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0], b[image])


def test_descending_scores_and_clipping():
    torch.manual_seed(1)
    heat, ltrb = torch.randn(1, 1, 32, 64), torch.rand(1, 4, 32, 64) * 30
    free = decode([heat], [ltrb], [4], SIZES, RULES)
    assert (free.scores.diff(dim=1) <= 0).all()
    assert free.boxes.amin() < 0
    assert free.boxes.amax() > 256
    clipped = decode([heat], [ltrb], [4], SIZES, RULES._replace(clip=True))
    assert clipped.boxes.amin() >= 0
    assert clipped.boxes[..., 2].max() <= 256
    assert clipped.boxes[..., 3].max() <= 128


def test_input_maps_are_left_alone():
    heat, ltrb = published_maps()
    before = heat.clone(), ltrb.clone()
    decode([heat], [ltrb], [4], SIZES, RULES)
    assert torch.equal(heat, before[0])
    assert torch.equal(ltrb, before[1])


def test_black_map_gives_only_padding():
    found = decode([torch.full((2, 1, 4, 4), -50.0)], [torch.zeros(2, 4, 4, 4)], [8], SIZES.expand(2, 2), RULES)
    assert found.valid.shape == (2, 16)
    assert not found.valid.any()
