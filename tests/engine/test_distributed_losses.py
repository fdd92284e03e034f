"""A batch in two processes is the batch in one: losses, weights, and a gradient for every parameter."""

import pytest
import torch
from process_runs import in_processes, train_all

# every region is taken: which ones are drawn depends on how often a process has drawn before
ALL_REGIONS = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 4096, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0)
ALL_REGIONS += ("MODEL.CENTERNET.POST_NMS_TOPK_TRAIN", 40)
GROUP_NORM = ("MODEL.RESNETS.NORM", "GN")  # of each image; without, a random body diverges
R50 = "CenterNet2_R50_1x"
SAME = {
    "cascade": (R50, (*GROUP_NORM, *ALL_REGIONS)),
    "one stage": ("CenterNet-FPN_R50_1x", GROUP_NORM),
    "cascade with masks and SyncBN": (
        R50,
        ("MODEL.RESNETS.NORM", "SyncBN", "MODEL.FPN.NORM", "SyncBN", "MODEL.MASK_ON", True, *ALL_REGIONS),
    ),
}


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    runs = list(SAME.values())
    pair = in_processes(2, train_all, tmp_path, runs, 20, 4)
    (alone,) = in_processes(1, train_all, tmp_path / "alone", runs, 20, 4)
    for name, one, first, second in zip(SAME, alone, *pair, strict=True):
        assert first["losses"] == second["losses"]
        assert len(one["losses"]) == 20
        for number, (expected, found) in enumerate(zip(one["losses"], first["losses"], strict=True)):
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), (name, number)
        for key, value in one["weights"].items():
            assert torch.equal(first["weights"][key], second["weights"][key]), (name, key)
            limit = 1e-5 * max(1.0, float(value.abs().max()))  # statistics of pixels are large
            torch.testing.assert_close(first["weights"][key], value, rtol=1e-4, atol=limit, msg=f"{name} {key}")


@pytest.mark.slow
def test_the_published_body_in_double_precision(tmp_path):
    """ResNet-50: in float32 rounding alone makes 1.2e-5 of the total loss within 20 iterations."""
    body = ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256, *GROUP_NORM)
    runs = [(R50, (*body, *ALL_REGIONS)), ("CenterNet-FPN_R50_1x", body)]
    first, _ = in_processes(2, train_all, tmp_path, runs, 20, 4, True)
    (alone,) = in_processes(1, train_all, tmp_path / "alone", runs, 20, 4, True)
    for (name, _), one, pair in zip(runs, alone, first, strict=True):
        assert sum(weight.numel() for weight in one["weights"].values()) > 2e7
        for number, (expected, found) in enumerate(zip(one["losses"], pair["losses"], strict=True)):
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-9), (name, number)


FAMILIES = [
    ("CenterNet-S4_DLA_8x", ()),
    ("CenterNet2-F_R50_1x", ()),
    ("LVIS_CenterNet2_R50_Fed_1x", ()),
    ("CenterNet2_R50_1x", ("MODEL.CENTERNET.MORE_POS", True, "MODEL.MASK_ON", True)),
    ("CenterNet2_DLA-BiFPN-P3_4x", ()),
    ("timm/CenterNet2_MobileNetV2_FPN_1x", ()),
]


@pytest.mark.slow
def test_every_parameter_of_every_family_gets_a_gradient_in_both_processes(tmp_path):
    options = ("MODEL.CENTERNET.POST_NMS_TOPK_TRAIN", 20, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32)
    runs = [(name, (*own, *options)) for name, own in FAMILIES]
    # the wrapper refuses a second step after one without a gradient somewhere
    pair = in_processes(2, train_all, tmp_path, runs, 3, 4)
    for (name, _), first, second in zip(runs, *pair, strict=True):
        assert len(first["losses"]) == 3, name
        assert first["losses"] == second["losses"], name
        for result in (first, second):
            assert result["without gradient"] == [], name
        trained = [key for key in first["weights"] if key.endswith(("weight", "bias"))]
        assert all(torch.equal(first["weights"][key], second["weights"][key]) for key in trained), name
