import pytest
from tiny import tiny_cfg

from centernet.errors import UserError
from centernet.modeling.build import build_detector


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.META_ARCHITECTURE", "CenternetDetector", "CenternetDetector"),
        ("MODEL.BACKBONE.NAME", "build_resnet_fpm", "build_resnet_fpm"),
        ("MODEL.ROI_HEADS.NAME", "CustomHeads", "CustomHeads"),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "RES2_OUT_CHANNELS"),
        ("MODEL.CENTERNET.WITH_AGN_HM", False, "WITH_AGN_HM"),
        ("MODEL.CENTERNET.FPN_STRIDES", [8, 16], "FPN_STRIDES"),
    ],
)
def test_a_config_that_cannot_be_built_is_one_sentence(key, value, words):
    with pytest.raises(UserError, match=words) as caught:
        build_detector(tiny_cfg("CenterNet2_R50_1x", key, value))
    assert "\n" not in str(caught.value)


def test_a_config_that_can_be_built():
    assert build_detector(tiny_cfg()).training
