"""EfficientDetResizeCrop against the specification's vectors, and geometry that holds for any image."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.data import (
    EfficientDetResizeCrop,
    build_custom_augmentation,
    build_custom_transform_gen,
    build_test_mapper,
    build_test_resize,
    check_input,
)
from centernet.errors import UserError

# seed, (h, w), scale, size, scaled (h, w), offset (y, x), factor, output (h, w), points
JITTER = (0.1, 2)
# fmt: off
VECTORS = [
    (0, (480, 640), JITTER, 640, (548, 731), (0, 54), 1.142746, (548, 640),
     [60.2746, 57.1373, 174.5491, 137.1295]),
    (1, (480, 640), JITTER, 640, (428, 571), (0, 0), 0.892342, (428, 571),
     [89.2342, 44.6171, 178.4684, 107.081]),
    (2, (427, 640), JITTER, 1280, (792, 1188), (0, 0), 1.856781, (792, 1188),
     [185.6781, 92.839, 371.3561, 222.8137]),
    (3, (333, 500), (1, 1), 1560, (1038, 1560), (0, 0), 3.12, (1038, 1560),
     [312, 156, 624, 374.4]),
    (4, (640, 427), (0.8, 1.2), 896, (1063, 709), (91, 0), 1.661537, (896, 709),
     [166.1537, -7.9232, 332.3073, 108.3844]),
]
# fmt: on


@pytest.mark.parametrize("seed, image, scale, size, scaled, offset, factor, output, points", VECTORS)
def test_specified_vectors(seed, image, scale, size, scaled, offset, factor, output, points):
    np.random.seed(seed)
    pixels = np.zeros((*image, 3), np.uint8)
    transform = EfficientDetResizeCrop(size, scale).get_transform(pixels)
    assert (transform.scaled_h, transform.scaled_w) == scaled
    assert (transform.offset_y, transform.offset_x) == offset
    assert transform.img_scale == pytest.approx(factor, abs=1e-6)
    assert transform.target_size == (size, size)
    assert transform.apply_image(pixels).shape == (*output, 3)
    moved = transform.apply_coords(np.array([[100.0, 50.0], [200.0, 120.0]]))
    np.testing.assert_allclose(moved.ravel(), points, atol=1e-4)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 64), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_output_fits_the_target_and_coordinates_invert(height, width, size, seed):
    np.random.seed(seed)
    image = np.zeros((height, width, 3), np.uint8)
    transform = EfficientDetResizeCrop(size, (0.1, 2.0)).get_transform(image)
    out_h, out_w = transform.apply_image(image).shape[:2]
    assert 1 <= out_h <= size
    assert 1 <= out_w <= size
    points = np.array([[0.0, 0.0], [width, height], [width / 3, height / 2]])
    back = transform.inverse().apply_coords(transform.apply_coords(points.copy()))
    np.testing.assert_allclose(back, points, atol=1e-6 * max(height, width))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
def test_images_follow_their_coordinates(dtype):
    image = np.zeros((60, 80, 3), dtype)
    image[20:40, 30:60] = 200
    np.random.seed(5)
    transform = EfficientDetResizeCrop(100, (1.5, 1.5)).get_transform(image)
    rows, columns = np.nonzero(transform.apply_image(image)[:, :, 0] > 100)
    (left, top), (right, bottom) = transform.apply_coords(np.array([[30.0, 20.0], [60.0, 40.0]]))
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(edges, np.clip([left, top, right, bottom], 0, 100), atol=1)
    assert transform.apply_image(image).dtype == dtype


def test_float_images_are_resized_as_uint8_ones_are_when_enlarged():
    image = np.random.RandomState(0).randint(0, 256, (20, 30, 3), np.uint8)
    transform = EfficientDetResizeCrop(60, (1, 1)).get_transform(image)
    difference = transform.apply_image(image.astype(np.float32)) - transform.apply_image(image)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_label_maps_keep_their_labels(dtype):
    labels = np.random.RandomState(0).choice([0, 7, 255], (40, 50)).astype(dtype)
    transform = EfficientDetResizeCrop(32, (1, 1)).get_transform(labels)
    out = transform.apply_segmentation(labels)
    assert out.shape == (25, 32)
    assert set(np.unique(out)) <= {0, 7, 255}


def test_one_channel_with_an_axis_keeps_it():
    image = np.zeros((40, 50, 1), np.uint8)
    assert EfficientDetResizeCrop(32, (1, 1)).get_transform(image).apply_image(image).shape == (25, 32, 1)


def test_builder_follows_the_config(base_cfg):
    base_cfg.INPUT.CUSTOM_AUG = "EfficientDetResizeCrop"
    base_cfg.INPUT.TRAIN_SIZE, base_cfg.INPUT.TEST_SIZE = 512, 736
    base_cfg.INPUT.SCALE_RANGE = (0.5, 1.5)
    resize, flip = build_custom_augmentation(base_cfg, True)
    assert (resize.target_size, tuple(resize.scale)) == ((512, 512), (0.5, 1.5))
    assert isinstance(flip, T.RandomFlip)
    (resize,) = build_custom_transform_gen(base_cfg, False)
    assert (resize.target_size, resize.scale) == ((736, 736), (1, 1))

    base_cfg.INPUT.CUSTOM_AUG = "ResizeShortestEdge"
    base_cfg.INPUT.MIN_SIZE_TRAIN, base_cfg.INPUT.MAX_SIZE_TRAIN = (300, 400), 500
    resize, _ = build_custom_augmentation(base_cfg, True)
    assert isinstance(resize, T.ResizeShortestEdge)
    assert (resize.short_edge_length, resize.max_size) == ((300, 400), 500)

    base_cfg.INPUT.CUSTOM_AUG = "Mosaic"
    with pytest.raises(
        UserError, match="'Mosaic', must be one of ResizeShortestEdge, EfficientDetResizeCrop"
    ):
        build_custom_augmentation(base_cfg, True)


@pytest.mark.parametrize("custom", ["ResizeShortestEdge", "EfficientDetResizeCrop"])
def test_training_flips_as_the_config_says(base_cfg, custom):
    base_cfg.INPUT.CUSTOM_AUG = custom
    image = np.zeros((4, 4, 3), np.uint8)
    kinds = {"horizontal": T.HFlipTransform, "vertical": T.VFlipTransform}
    for name, kind in kinds.items():
        base_cfg.INPUT.RANDOM_FLIP = name
        _, flip = build_custom_augmentation(base_cfg, True)
        flips = {type(flip.get_transform(image)) for _ in range(50)}
        assert flips == {kind, T.NoOpTransform}
    base_cfg.INPUT.RANDOM_FLIP = "none"
    assert len(build_custom_augmentation(base_cfg, True)) == 1
    base_cfg.INPUT.RANDOM_FLIP = "both"
    with pytest.raises(UserError, match="INPUT.RANDOM_FLIP is 'both', must be one of none, horizontal, vertical"):
        build_custom_augmentation(base_cfg, True)


@pytest.mark.parametrize("custom", ["", "ResizeShortestEdge", "EfficientDetResizeCrop"])
def test_the_resizing_of_a_test_does_not_depend_on_the_custom_augmentation(base_cfg, custom):
    base_cfg.INPUT.CUSTOM_AUG = custom
    base_cfg.INPUT.MIN_SIZE_TEST, base_cfg.INPUT.MAX_SIZE_TEST, base_cfg.INPUT.TEST_SIZE = 32, 50, 100
    image = np.zeros((40, 80, 3), np.uint8)
    for kind, size in (("default", (25, 50)), ("square", (50, 100))):
        base_cfg.INPUT.TEST_INPUT_TYPE = kind
        assert build_test_resize(base_cfg).get_transform(image).apply_image(image).shape[:2] == size
    base_cfg.INPUT.TEST_INPUT_TYPE = "sqare"
    for build in (build_test_resize, build_test_mapper):
        with pytest.raises(UserError, match="INPUT.TEST_INPUT_TYPE is 'sqare', must be one of default, square"):
            build(base_cfg)


@pytest.mark.parametrize("custom", ["", "EfficientDetResizeCrop"])
@pytest.mark.parametrize("key", ["TEST_INPUT_TYPE", "CUSTOM_AUG", "RANDOM_FLIP"])
def test_a_choice_that_does_not_exist_is_found_by_the_check(base_cfg, custom, key):
    base_cfg.INPUT.CUSTOM_AUG = custom
    check_input(base_cfg)
    base_cfg.INPUT[key] = "nonsense"
    with pytest.raises(UserError, match=f"INPUT.{key} is 'nonsense', must be one of "):
        check_input(base_cfg)


def test_a_crop_is_not_silently_left_out(base_cfg):
    base_cfg.INPUT.CROP.ENABLED = True
    check_input(base_cfg)
    base_cfg.INPUT.CUSTOM_AUG = "ResizeShortestEdge"
    with pytest.raises(UserError, match="INPUT.CROP.ENABLED has no effect with INPUT.CUSTOM_AUG"):
        check_input(base_cfg)
