"""Shapes that a file takes, as its metadata say."""

import json

import pytest

from centernet.errors import UserError
from centernet.export.metadata import check_shapes

FREE = {"canvas": None, "batch": None, "divisor": 32, "smallest": 129, "preprocess": False}
FIXED = {"canvas": [96, 128], "batch": 2, "divisor": 32, "smallest": 1, "preprocess": False}
PICTURES = {"canvas": [90, 120], "batch": 1, "divisor": 32, "smallest": 1, "preprocess": True}


def as_metadata(values):
    return {key: json.dumps(value) for key, value in values.items()}


@pytest.mark.parametrize(
    "values, pixels, sizes",
    [
        (FREE, (3, 3, 160, 224), [(3, 2)]),
        (FREE, (1, 3, 160, 160), [(1, 2), (1, 2)]),
        (FIXED, (2, 3, 96, 128), [(2, 2)]),
        (PICTURES, (1, 90, 120, 3), []),
    ],
)
def test_shapes_that_fit(values, pixels, sizes):
    check_shapes(as_metadata(values), pixels, sizes)


@pytest.mark.parametrize(
    "values, pixels, sizes, sentence",
    [
        (FREE, (3, 160, 224), [(1, 2)], r"first input is \[B, 3, H, W\], not of shape \[3, 160, 224\]"),
        (FREE, (1, 160, 224, 3), [(1, 2)], r"first input is \[B, 3, H, W\]"),
        (PICTURES, (1, 3, 90, 120), [], r"first input is \[B, H, W, 3\]"),
        (FREE, (2, 3, 160, 224), [(1, 2)], r"sizes are \[2, 2\] \(height, width\) for 2 images, not \[\[1, 2\]\]"),
        (FREE, (1, 3, 160, 200), [(1, 2)], "multiples of 32, not 160 x 200: pad the images"),
        (FREE, (1, 3, 128, 160), [(1, 2)], "from 129 on that are multiples of 32, not 128 x 160"),
        (FIXED, (1, 3, 96, 128), [(1, 2)], "takes 2 images a call, not 1"),
        (FIXED, (2, 3, 128, 96), [(2, 2)], "for images of 96 x 128 pixels, not 128 x 96"),
        (PICTURES, (1, 96, 120, 3), [], "for images of 90 x 120 pixels, not 96 x 120"),
    ],
)
def test_shapes_that_do_not_fit_are_told_in_one_sentence(values, pixels, sizes, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        check_shapes(as_metadata(values), pixels, sizes)
    assert "\n" not in str(refusal.value)
