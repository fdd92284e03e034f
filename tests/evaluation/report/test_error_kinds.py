"""Kinds of errors and what they cost, on cases with known answers, and against the official scorer."""

import numpy as np
import pytest
from hand_made import as_coco, hand_made
from hypothesis import given, settings
from hypothesis import strategies as st
from random_coco import random_detections, random_ground_truth

from centernet.errors import UserError
from centernet.evaluation import score_detections, score_lvis_detections
from centernet.evaluation.report.error_kinds import KINDS, classify, cost_of_images, costs
from centernet.evaluation.report.matching import make_case

A, B, C = 0, 1, 2
BOX, FAR = (10, 10, 30, 30), (60, 60, 80, 80)
NEAR = (10, 10, 30, 60)  # IoU 0.4 with BOX
HALF_FOUND = 51 / 101  # average precision if one of two objects is found, without errors


def judged(objects, found, **options):
    case = hand_made(objects, found, **options)
    errors = classify(case)
    return [KINDS[kind] if kind >= 0 else int(kind) for kind in errors.kinds], errors, costs(case, errors)


@pytest.mark.parametrize(
    ("objects", "found", "kind", "before", "gain"),
    [
        ([(0, A, BOX), (1, B, BOX)], [(0, B, BOX, 0.9), (1, B, BOX, 0.5)], "classification", 25, 75),
        ([(0, A, BOX)], [(0, A, NEAR, 0.9)], "localisation", 0, 100),
        ([(0, A, BOX), (1, B, BOX)], [(0, B, NEAR, 0.9), (1, B, BOX, 0.5)], "both", 25, 25),
        (
            [(0, A, BOX), (0, A, FAR)],
            [(0, A, BOX, 0.9), (0, A, (10, 10, 30, 28), 0.8), (0, A, FAR, 0.7)],
            "duplicate",
            100 * (51 + 50 * 2 / 3) / 101,
            100 * (50 / 3) / 101,
        ),
        ([(0, A, BOX)], [(0, A, FAR, 0.9), (0, A, BOX, 0.8)], "background", 50, 50),
        ([(0, A, BOX)], [(1, A, BOX, 0.9), (0, A, BOX, 0.8)], "background", 50, 50),
    ],
)
def test_each_kind_of_false_positive_once(objects, found, kind, before, gain):
    kinds, errors, cost = judged(objects, found)
    assert kinds.count(kind) == 1
    assert errors.counts()[kind] == 1
    assert sum(errors.counts()[other] for other in KINDS[:5]) == 1
    assert cost["AP"] == pytest.approx(before)
    assert cost[kind] == pytest.approx(gain)
    assert all(cost[other] == pytest.approx(0) for other in KINDS[:5] if other != kind)


def test_missed_object():
    kinds, errors, cost = judged([(0, A, BOX), (0, A, FAR)], [(0, A, BOX, 0.9)])
    assert kinds == [-1]
    assert errors.missed.tolist() == [False, True]
    assert cost["AP"] == pytest.approx(100 * HALF_FOUND)
    assert cost["missed"] == cost["all unfound objects"] == pytest.approx(100 - 100 * HALF_FOUND)
    assert cost["all false positives"] == 0


def test_an_object_that_an_error_points_at_is_not_missed():
    _, errors, cost = judged([(0, A, BOX)], [(0, B, BOX, 0.9)])
    assert not errors.missed.any()
    assert errors.unfound.all()
    assert cost["missed"] == 0
    assert cost["all unfound objects"] == 100


def test_nothing_found():
    _, errors, cost = judged([(0, A, BOX), (1, B, BOX)], [])
    assert errors.counts() == dict.fromkeys(KINDS[:5], 0) | {"missed": 2}
    assert (cost["AP"], cost["missed"]) == (0, 100)


def test_of_several_claims_to_an_object_the_best_scored_stays():
    found = [(0, A, BOX, 0.5), (0, B, BOX, 0.9), (0, C, BOX, 0.7), (1, A, FAR, 0.6)]
    kinds, _, cost = judged([(0, A, BOX)], found)
    assert kinds == ["classification", "classification", -1, "background"]
    assert cost["AP"] == pytest.approx(50)
    assert cost["classification"] == pytest.approx(50)  # 0.9 is before 0.6 now, and neither 0.7 nor 0.5 is there


def test_what_is_in_a_crowd_is_no_error():
    found = [(0, A, (12, 12, 20, 20), 0.9), (1, A, BOX, 0.4)]
    kinds, errors, cost = judged([(0, A, BOX), (1, A, BOX)], found, crowds=[0])
    assert kinds == [-2, -1]
    assert not errors.unfound.any()
    assert cost["AP"] == 100


def test_order_where_several_kinds_fit():
    # right place for a B, near an A of its own class; and an overlap with a found A, more than tf, before everything
    kinds, _, _ = judged([(0, A, BOX), (0, B, (10, 10, 30, 56))], [(0, A, NEAR, 0.9)])
    assert kinds == ["classification"]
    kinds, _, _ = judged([(0, A, BOX), (0, B, BOX)], [(0, A, BOX, 0.9), (0, A, BOX, 0.8)])
    assert kinds == [-1, "duplicate"]


def drawn(seed, lvis=False):
    rng = np.random.default_rng(seed)
    truth = random_ground_truth(rng, images=6)
    found = [item for item in random_detections(rng, truth) if rng.random() < 0.5]
    for image in truth["images"] if lvis else ():
        labels = [category["id"] for category in truth["categories"]]
        image["neg_category_ids"] = [label for label in labels if rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [label for label in labels if rng.random() < 0.3]
    for category in truth["categories"] if lvis else ():
        category |= {"frequency": "f", "image_count": 200}
    return truth, found


@pytest.mark.parametrize("lvis", [False, True])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_against_the_official_scorer_and_no_cost_is_negative(lvis, seed):
    truth, found = drawn(seed, lvis)
    case = make_case(truth, found, max_dets=300 if lvis else 100)
    errors = classify(case)
    cost = costs(case, errors)
    official = (score_lvis_detections if lvis else score_detections)(truth, found, "bbox").precision(0.5)
    if official >= 0:
        assert cost["AP"] == pytest.approx(100 * official, abs=1e-6)
    assert min(cost.values()) >= -1e-9
    assert max(cost.values()) <= 100
    assert sum(errors.counts()[kind] for kind in KINDS[:5]) == (errors.kinds >= 0).sum()
    assert (errors.missed <= errors.unfound).all()
    assert cost["all false positives"] >= max(cost[kind] for kind in ("both", "duplicate", "background")) - 1e-9
    assert all(gain >= -1e-9 for _, gain in cost_of_images(case, errors))


def test_pictures_by_what_they_cost():
    objects = [(0, A, BOX), (1, A, BOX), (2, A, BOX)]
    found = [(0, A, BOX, 0.9), (1, A, FAR, 0.95), (1, A, BOX, 0.8), (2, A, BOX, 0.7), (2, A, FAR, 0.1)]
    case = hand_made(objects, found)
    (first, gain), (second, nothing) = cost_of_images(case, classify(case))
    assert (first, second) == (1, 2)
    assert gain == pytest.approx(25)  # precision 3 / 4 at every recall
    assert nothing == pytest.approx(0)


def test_results_of_other_data_are_refused():
    truth, found = as_coco([(0, A, BOX)], [(0, A, BOX, 0.9)])
    with pytest.raises(UserError, match="do not belong to this annotation file"):
        make_case(truth, [found[0] | {"image_id": 77}])
