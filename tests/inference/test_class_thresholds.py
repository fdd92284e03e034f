"""Thresholds by class: matching as COCO does it, and the smallest score that gives the wanted precision."""

import json

import numpy as np
import pytest
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st

from centernet.errors import UserError
from centernet.inference.class_thresholds import (
    NEVER,
    Judged,
    count_thresholds,
    judge_detections,
    precision_thresholds,
    read_thresholds,
)


def truth(*boxes, label=0, crowd=0):
    return [{"bbox": list(b), "bbox_mode": BoxMode.XYWH_ABS, "category_id": label, "iscrowd": crowd} for b in boxes]


def found(*boxes_and_scores, label=0):
    return [{"bbox": list(b), "score": s, "class": label} for b, s in boxes_and_scores]


def test_an_object_is_found_once_by_the_best_score():
    box, near = (10, 10, 20, 20), (12, 10, 20, 20)
    judged = judge_detections({1: truth(box)}, {1: found((near, 0.9), (box, 0.8), ((60, 60, 5, 5), 0.7))})
    by_score = dict(zip(judged.scores.tolist(), judged.correct.tolist(), strict=True))
    assert by_score == {0.9: True, 0.8: False, 0.7: False}


def test_classes_images_and_crowds_are_kept_apart():
    box = (10, 10, 20, 20)
    wrong_class = judge_detections({1: truth(box, label=1)}, {1: found((box, 0.9))})
    assert wrong_class.correct.tolist() == [False]
    other_image = judge_detections({2: truth(box)}, {1: found((box, 0.9))})
    assert other_image.correct.tolist() == [False]
    on_a_crowd = judge_detections({1: truth(box, crowd=1)}, {1: found((box, 0.9))})
    assert len(on_a_crowd.scores) == 0
    assert len(judge_detections({1: truth(box)}, {1: []}).scores) == 0


def judged(scores, correct, classes=None):
    classes = np.zeros(len(scores), np.int64) if classes is None else np.array(classes)
    return Judged(np.array(scores, float), classes, np.array(correct, bool))


def test_the_smallest_score_with_the_precision():
    scores, correct = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 0, 1, 1, 1, 0]
    assert precision_thresholds(judged(scores, correct), 1, 0.8, 0.5) == [0.5]  # 4 of 5
    assert precision_thresholds(judged(scores, correct), 1, 0.9, 0.5) == [0.9]
    assert precision_thresholds(judged([0.9, 0.8], [0, 1]), 1, 0.8, 0.5) == [NEVER]
    assert precision_thresholds(judged([0.9], [1], [1]), 3, 0.8, 0.5) == [0.5, 0.9, 0.5]  # 0 and 2: nothing is known
    # one score, right and wrong: a threshold cannot take the right one alone
    assert precision_thresholds(judged([0.9, 0.9], [1, 0]), 1, 0.8, 0.5) == [NEVER]


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40), st.floats(0.05, 1))
def test_what_passes_has_the_precision(rows, wanted):
    scores, correct = np.array([s / 20 for s, _ in rows]), np.array([c for _, c in rows])
    (threshold,) = precision_thresholds(judged(scores, correct), 1, wanted, 0.5)
    reaching = [s for s in set(scores.tolist()) if correct[scores >= s].mean() >= wanted]
    assert threshold == (min(reaching) if reaching else NEVER)


def test_thresholds_from_a_file(tmp_path):
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps({"bee": 0.25, "cat": None}))
    assert read_thresholds(file, ["ant", "bee", "cat"], 0.5) == [0.5, 0.25, NEVER]
    for content, words in [
        ('{"dog": 0.2}', "threshold for 'dog'.*ant, bee"),
        ('{"ant": 2}', "'ant' is 2"),
        ("[0.5]", "JSON object"),
        ("{", "cannot be read"),
    ]:
        file.write_text(content)
        with pytest.raises(UserError, match=words):
            read_thresholds(file, ["ant", "bee"], 0.5)
    with pytest.raises(UserError, match="cannot be read"):
        read_thresholds(tmp_path / "none.json", ["ant"], 0.5)


@given(
    st.lists(st.lists(st.floats(0.05, 1), max_size=30), min_size=1, max_size=4),
    st.lists(st.integers(0, 40), min_size=4, max_size=4),
)
def test_counts_give_as_many_labels_as_wanted(scores, wanted):
    wanted = wanted[: len(scores)]
    for mine, count, limit in zip(scores, wanted, count_thresholds(scores, wanted, 0.5), strict=True):
        kept = [score for score in mine if score >= limit]
        if len(set(mine)) == len(mine):
            assert len(kept) == min(count, len(mine))
        assert len(kept) >= min(count, len(mine)), "equal scores are taken together"
        assert limit == 0.5 if count and not mine else True
        assert (limit == NEVER) == (count == 0)
