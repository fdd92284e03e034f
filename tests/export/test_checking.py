"""Sets of detections that are the same, nearly the same, and not."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.export.checking import EXACT, compare


def detections(scores, classes=None, boxes=None, slots=None):
    count, slots = len(scores), slots or len(scores)
    made = np.zeros((1, slots, 4), np.float32), np.zeros((1, slots), np.float32), np.zeros((1, slots), np.int64)
    made[0][0, :count] = np.arange(count)[:, None] * 10 if boxes is None else boxes
    made[1][0, :count] = scores
    made[2][0, :count] = 0 if classes is None else classes
    return *made, np.arange(slots)[None] < count


def moved(batch, order):
    return tuple(value[:, order] for value in batch)


@settings(deadline=None)
@given(st.permutations(range(6)), st.floats(-0.09, 0.09), st.floats(-0.9e-4, 0.9e-4))
def test_order_and_rounding_do_not_matter(order, pixels, score):
    first = detections(np.linspace(0.9, 0.4, 6), classes=[0, 1, 2, 0, 1, 2])
    other = moved((first[0] + np.float32(pixels), first[1] + np.float32(score), *first[2:]), list(order))
    found = compare(first, other, EXACT)
    assert (found.detections, found.missing, found.at_the_cut) == (6, 0, 0)
    assert abs(found.boxes - abs(pixels)) < 1e-4
    assert abs(found.scores - abs(score)) < 1e-6


def test_what_differs_is_missing_on_both_sides():
    first = detections([0.9, 0.8, 0.7], slots=5)
    assert compare(first, detections([0.9, 0.8, 0.7], classes=[0, 1, 0], slots=5), EXACT).missing == 2
    assert compare(first, detections([0.9, 0.81, 0.7], slots=5), EXACT).missing == 2
    far = np.arange(3)[:, None] * 10 + np.array([[0], [0.2], [0]])
    assert compare(first, detections([0.9, 0.8, 0.7], boxes=far, slots=5), EXACT).missing == 2
    assert compare(first, detections([0.9, 0.8], slots=5), EXACT).missing == 1
    assert compare(detections([], slots=5), first, EXACT).missing == 3
    nan = first[0].copy()
    nan[0, 0, 0] = np.nan
    assert compare(first, (nan, *first[1:]), EXACT).missing == 2


def test_the_last_one_of_a_full_list_may_be_another():
    first = detections([0.9, 0.8, 0.5])
    other = detections([0.9, 0.8, 0.50005], boxes=[[0], [10], [500]])
    found = compare(first, other, EXACT)
    assert (found.at_the_cut, found.missing) == (2, 0)
    # the list is not full, so both had room
    found = compare(detections([0.9, 0.8, 0.5], slots=5), detections([0.9, 0.8], slots=5), EXACT)
    assert (found.at_the_cut, found.missing) == (0, 1)


def test_one_at_the_threshold_may_be_absent():
    found = compare(detections([0.9, 0.05002], slots=5), detections([0.9], slots=5), EXACT, threshold=0.05)
    assert (found.at_the_cut, found.missing) == (1, 0)


def test_each_detection_has_one_partner():
    twice = detections([0.9, 0.9], boxes=[[10], [10]], slots=3)
    assert compare(twice, detections([0.9], boxes=[[10]], slots=3), EXACT).missing == 1
    assert compare(twice, twice, EXACT).missing == 0
