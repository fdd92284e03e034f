"""Pictures inside a file are resized as evaluation resizes them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_cfg

from centernet.data import build_test_resize
from centernet.errors import UserError
from centernet.export import onnx_format
from centernet.export.pictures import PictureProgram, ResizeRule, boxes_of_pictures, resized_size
from centernet.export.request import Request
from centernet.ops.detections import PaddedDetections

RULES = {
    "shortest": ["INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 160],
    "as it is": ["INPUT.MIN_SIZE_TEST", 0],
    "square": ["INPUT.TEST_INPUT_TYPE", "square", "INPUT.TEST_SIZE", 128],
}


@pytest.fixture(scope="module", params=RULES)
def cfg(request):
    return tiny_cfg("CenterNet2_R50_1x", *RULES[request.param])


@settings(deadline=None, max_examples=60)
@given(st.integers(6, 700), st.integers(6, 700))
def test_sizes_are_those_of_evaluation(cfg, height, width):
    picture = np.zeros((height, width, 3), np.uint8)
    resized = build_test_resize(cfg).get_transform(picture).apply_image(picture)
    assert resized_size(height, width, *ResizeRule.of(cfg)) == resized.shape[:2]


def test_published_sizes():
    rule = ResizeRule(False, 800, 1333)
    assert resized_size(480, 640, *rule) == (800, 1067)
    assert resized_size(640, 480, *rule) == (1067, 800)
    assert resized_size(100, 1000, *rule) == (133, 1333)
    assert resized_size(1, 5000, *rule) == (1, 1333)


@pytest.mark.parametrize("size", [(90, 120), (301, 200), (61, 400)])
def test_every_resizing_is_that_of_pillow(cfg, size):
    random = np.random.RandomState(0)
    smooth = Image.fromarray(random.randint(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size[::-1])
    picture, rule = np.array(smooth), ResizeRule.of(cfg)
    height, width = resized_size(*size, *rule)
    wanted = np.asarray(smooth.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1).astype(int)
    program = PictureProgram(torch.nn.Identity(), rule, 32, to_pictures=True)
    images, sizes, originals = program.resize(torch.from_numpy(picture)[None])
    assert (sizes.tolist(), originals.tolist()) == ([[height, width]], [list(size)])
    in_onnx = onnx_format.load(
        onnx_format._picture_model(Request(preprocess=True, postprocess=True), rule, 32).SerializeToString()
    )
    other, *both_sizes = in_onnx(picture[None])
    assert [value.tolist() for value in both_sizes] == [sizes.tolist(), originals.tolist(), sizes.tolist()]
    for image in (images.numpy()[0], other[0]):
        assert image.dtype == np.uint8
        assert image.shape == (3, -(-height // 32) * 32, -(-width // 32) * 32)
        difference = np.abs(image[:, :height, :width] - wanted)
        assert difference.max() <= 1
        assert difference.mean() < 0.05
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()


def test_boxes_go_back_to_the_pictures():
    boxes = torch.tensor([[[10.0, 20, 60, 80], [-5, 0, 200, 100], [300, 10, 320, 20]]])
    found = PaddedDetections(boxes, torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3).bool())
    back = boxes_of_pictures(found, torch.tensor([[100, 150]]), torch.tensor([[200, 450]]))
    assert back.boxes[0, :2].tolist() == [[30, 40, 180, 160], [0, 0, 450, 200]]
    assert back.valid.tolist() == [[True, True, False]]


def test_a_kind_of_resizing_that_does_not_exist():
    with pytest.raises(UserError, match="TEST_INPUT_TYPE"):
        ResizeRule.of(tiny_cfg("CenterNet2_R50_1x", "INPUT.TEST_INPUT_TYPE", "round"))
