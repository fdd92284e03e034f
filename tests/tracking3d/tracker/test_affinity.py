"""Parts of the tracker: affinities, duplicates, assignment."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.tracking3d.motion.constant import ConstantPosition
from centernet.tracking3d.tracker.affinity import Compared
from centernet.tracking3d.tracker.assignment import assign
from centernet.tracking3d.tracker.duplicates import distinct
from centernet.tracking3d.tracker.memory import Entries, Sightings, begin
from centernet.tracking3d.tracker.rules import TrackerRules

RULES = TrackerRules()
SEEN = [[10, 5, 1, 0.1, 1.5, 1.8, 4.2], [30, -4, 1.2, 1.4, 1.6, 1.9, 4.5]]
KNOWN = [[9, 5, 1, 0, 1.5, 1.8, 4.0], [28, -4, 1.2, 1.5, 1.6, 1.9, 4.4], [10.5, 5.2, 1, 0.1, 1.5, 1.8, 4.2]]
SPEED = [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
STEP = [[1.0, 0, 0], [1.5, 0, 0], [0, 0, 0]]


def sightings(box7, embeddings, boxes=None, scores=None):
    box7 = torch.as_tensor(box7, dtype=torch.float64)
    count = len(box7)
    number = torch.arange(count)
    return Sightings(
        index=number,
        boxes=torch.zeros(count, 4) if boxes is None else boxes,
        scores=torch.full((count,), 0.9) if scores is None else scores,
        confidence=torch.ones(count),
        labels=torch.zeros_like(number),
        embeddings=torch.as_tensor(embeddings, dtype=torch.float32),
        box7=box7,
        roll_pitch=torch.zeros(count, 2, dtype=torch.float64),
        view=torch.zeros_like(number),
        origin=torch.zeros(count, 3, dtype=torch.float64),
    )


def example(rules=RULES, mode="parity") -> Compared:
    """The worked example of the specification."""
    known = sightings(KNOWN, [[2, 0.5, 0], [0, 1.5, 1], [1, 0, 0]])
    velocity = torch.zeros(3, 7, dtype=torch.float64)
    velocity[:, :3] = torch.tensor(SPEED)
    entries: Entries = begin(known, known.index, ConstantPosition().create(known.box7), 0, 0.0)
    predicted = known.box7.clone()
    predicted[:, :3] += torch.tensor(STEP)
    elapsed = torch.ones(3, dtype=torch.float64)
    seen = sightings(SEEN, [[2, 0, 1], [0, 2, 1]])
    return Compared(seen, replace(entries, velocity=velocity), predicted, elapsed, rules, mode)


EXAMPLE = {
    (None, "centroid", "none"): [[0.97789 * 1.0, 0.11620 * 0.11674, 0.94757 * 0.94757], [0.01238, 0.90307, 0.01334]],
    ("none", "motion", "none"): [[1.0, 0.08985, 0.92273], [0.10755, 0.79532, 0.06458]],
    ("none", "centroid", "none"): [[1.0, 0.11674, 0.94757], [0.11155, 0.95123, 0.11576]],
    (None, "motion", "cycle_softmax"): [[0.93804, 0.02758, 0.68593], [0.02948, 0.84973, 0.03781]],
    (None, "none", "none"): [[0.97789, 0.11620, 0.94757], [0.11099, 0.94937, 0.11528]],
}


@pytest.mark.parametrize("cues", EXAMPLE, ids=str)
def test_the_worked_example(cues):
    box, depth, appearance = cues
    rules = replace(RULES, box_cue=box or "box3d", depth_cue=depth, appearance_cue=appearance)
    expected = torch.tensor(EXAMPLE[cues], dtype=torch.float64)
    compared = example(rules)
    if box == "none" and appearance == "none":  # weights 1 and 1, and only the first has a value
        expected = expected / 2
    torch.testing.assert_close(compared.affinity(), expected, atol=2e-5, rtol=0)


def test_the_worked_example_assigned():
    affinity = example().affinity().numpy()
    for assignment in ("greedy", "hungarian"):
        assigned = assign(affinity, np.full(2, 0.9), np.arange(3) + 7, replace(RULES, assignment=assignment))
        assert assigned.ids.tolist() == [7, 8]
        assert assigned.entry.tolist() == [0, 1]


def test_other_classes_do_not_match():
    compared = example()
    other = replace(compared.entries, labels=torch.tensor([0, 0, 1]))
    affinity = replace(compared, entries=other).affinity()
    assert (affinity[:, 2] == 0).all()
    torch.testing.assert_close(affinity[:, :2], compared.affinity()[:, :2])
    anyway = replace(compared, entries=other, rules=replace(RULES, same_class=False))
    torch.testing.assert_close(anyway.affinity(), compared.affinity())


def test_modern_similarity_does_not_mind_front_and_back():
    compared = example(replace(RULES, depth_cue="none", appearance_cue="none"), "modern")
    turned = compared.seen.box7.clone()
    turned[:, 3] += torch.pi
    flipped = replace(compared, seen=replace(compared.seen, box7=turned))
    torch.testing.assert_close(flipped.affinity(), compared.affinity())
    parity = replace(flipped, mode="parity")
    assert (parity.affinity()[0, 0] < 0.8 * replace(compared, mode="parity").affinity()[0, 0]).all()


def test_modern_scales_depend_on_class_and_time():
    compared = example(replace(RULES, depth_cue="centroid", box_cue="none", appearance_cue="none"), "modern")
    plain = compared.affinity()
    narrow = replace(compared, rules=replace(compared.rules, class_scales=(0.5,))).affinity()
    torch.testing.assert_close(2 * narrow, (2 * plain) ** 2)
    torch.testing.assert_close(replace(compared, rules=replace(compared.rules, class_scales=())).affinity(), plain)
    later = replace(compared, elapsed=compared.elapsed * 2, rules=replace(compared.rules, drift_scale=5.0)).affinity()
    torch.testing.assert_close((2 * later) ** 2, 2 * plain)  # 10 m + 2 s * 5 m/s


def test_modern_footprints_are_turned():
    rules = replace(RULES, depth_cue="none", box_cue="bev", appearance_cue="none")
    here = sightings([[0, 0, 0, 0.0, 1.5, 2, 4], [0, 0, 0, torch.pi / 2, 1.5, 2, 4]], torch.zeros(2, 3))
    entries = begin(here, here.index, ConstantPosition().create(here.box7), 0, 0.0)
    compared = Compared(here, entries, here.box7, torch.ones(2, dtype=torch.float64), rules, "modern")
    torch.testing.assert_close(compared.affinity(), torch.tensor([[1, 1 / 3], [1 / 3, 1]]).double())
    assert (replace(compared, mode="parity").affinity() == 1).all()


boxes = st.lists(
    st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(5, 60), st.floats(5, 60), st.floats(0.1, 1)), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(boxes)
def test_duplicates_are_those_of_the_plain_loop(drawn):
    rows = torch.tensor(sorted(drawn, key=lambda row: -row[4])).reshape(-1, 5)
    boxes = torch.cat((rows[:, :2], rows[:, :2] + rows[:, 2:4]), 1)
    seen = sightings(torch.zeros(len(rows), 7), torch.zeros(len(rows), 1), boxes, rows[:, 4])
    overlap = overlaps(boxes)
    for mode in ("parity", "modern"):
        kept = []
        for i, score in enumerate(rows[:, 4]):
            limit = 0.3 if score < 0.5 else 0.7
            rivals = range(i) if mode == "parity" else kept
            if all(overlap[i, j] <= limit for j in rivals):
                kept.append(i)
        assert distinct(seen, RULES, mode).nonzero().flatten().tolist() == kept


def overlaps(boxes):
    low = torch.maximum(boxes[:, None, :2], boxes[:, :2])
    shared = (torch.minimum(boxes[:, None, 2:], boxes[:, 2:]) - low).clamp(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / (area[:, None] + area - shared)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 7), st.integers(0, 7))
def test_greedy_assignment_is_that_of_the_plain_loop(seed, count, entries):
    draw = np.random.RandomState(seed)
    affinity = draw.uniform(0, 1, (count, entries)).round(1)
    strength = draw.uniform(0.2, 1, count)
    entry_ids = np.where(draw.uniform(size=entries) < 0.3, -1, np.arange(entries) + 10)
    left, expected = affinity.copy(), []
    for i in range(count):
        expected.append(-1)
        if entries == 0 or left[i].max() <= 0.5 or entry_ids[left[i].argmax()] < 0:
            continue
        if strength[i] > 0.5:
            expected[i] = entry_ids[left[i].argmax()]
            left[:, left[i].argmax()] = 0
        else:
            expected[i] = -2
    assigned = assign(affinity, strength, entry_ids, RULES)
    assert assigned.ids.tolist() == expected
    assert [entry_ids[j] for j in assigned.entry if j >= 0] == [i for i in expected if i >= 0]
