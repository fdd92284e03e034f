import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.ops.second_stage import DetectRules, combine_scores, select_detections

SIZES = torch.tensor([[100, 120]])


def test_final_score_is_the_fourth_root_of_objectness():
    p_object = 0.2
    stages = [torch.tensor([[[0.6, 0.1, 0.3]]]), torch.tensor([[[0.9, 0.05, 0.05]]]), torch.tensor([[[0.3, 0.3, 0.4]]])]
    score = combine_scores(stages, torch.tensor([[p_object**0.5]]))
    assert float(score[0, 0, 0]) == pytest.approx(((0.6 + 0.9 + 0.3) / 3) ** 0.5 * p_object**0.25, rel=1e-6)
    assert float(combine_scores(stages, None)[0, 0, 1]) == pytest.approx(0.15, rel=1e-6)
    assert torch.equal(combine_scores(stages[:1], None), stages[0])


def reference(boxes, scores, size, rules):
    """One image, straight from the definition: threshold, clip, NMS a class, best K."""
    rows = []
    height, width = size
    for c in range(scores.shape[1] - 1):
        mine = boxes if boxes.shape[1] == 4 else boxes[:, 4 * c : 4 * c + 4]
        mine = torch.stack((mine[:, 0].clamp(0, width), mine[:, 1].clamp(0, height),
                            mine[:, 2].clamp(0, width), mine[:, 3].clamp(0, height)), dim=1)  # fmt: skip
        index = (scores[:, c] > rules.score_thresh).nonzero()[:, 0]
        kept = index[torchvision.ops.nms(mine[index], scores[index, c], rules.nms_thresh)]
        rows += [(float(scores[i, c]), c, *mine[i].tolist()) for i in kept]
    return sorted(rows, reverse=True)[: rules.topk]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_equals_the_definition(seed, class_specific):
    generator = torch.Generator().manual_seed(seed)
    count, classes = 30, 4
    corner = torch.rand(1, count, classes if class_specific else 1, 2, generator=generator) * 120 - 10
    size = torch.rand(corner.shape, generator=generator) * 60 + 1
    boxes = torch.cat((corner, corner + size), dim=3).flatten(2)
    scores = torch.rand(1, count, classes + 1, generator=generator)
    rules = DetectRules(0.3, 0.5, 20)
    found = select_detections(boxes, scores, torch.ones(1, count, dtype=torch.bool), SIZES, rules)
    expected = reference(boxes[0], scores[0], SIZES[0].tolist(), rules)
    got = [(float(s), int(c), *b.tolist()) for s, c, b, v in
           zip(found.scores[0], found.classes[0], found.boxes[0], found.valid[0], strict=True) if v]  # fmt: skip
    assert got == pytest.approx(expected) if not expected else torch.allclose(torch.tensor(got), torch.tensor(expected))


def test_padding_and_broken_rows_never_come_out():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]]])
    scores = torch.full((1, 3, 3), 0.9)
    scores[0, 1, 0] = float("nan")
    valid = torch.tensor([[True, True, False]])
    found = select_detections(boxes, scores, valid, SIZES, DetectRules(0.05, 0.5, 10))
    assert found.valid.sum() == 2  # the two classes of the first box
    assert found.boxes[found.valid].tolist() == [[0, 0, 10, 10]] * 2
    boxes[0, 0, 2] = float("inf")
    assert not select_detections(boxes, scores, valid, SIZES, DetectRules(0.05, 0.5, 10)).valid.any()


def test_boxes_are_clipped_to_their_own_image():
    boxes = torch.tensor([[[-5.0, -5, 500, 500]]]).repeat(2, 1, 1)
    scores = torch.full((2, 1, 2), 0.9)
    sizes = torch.tensor([[100, 120], [60, 30]])
    found = select_detections(boxes, scores, torch.ones(2, 1, dtype=torch.bool), sizes, DetectRules(0.1, 0.5, 5))
    assert found.boxes[:, 0].tolist() == [[0, 0, 120, 100], [0, 0, 30, 60]]


def test_negative_topk_returns_all():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60]]])
    scores = torch.full((1, 2, 4), 0.9)
    found = select_detections(boxes, scores, torch.ones(1, 2, dtype=torch.bool), SIZES, DetectRules(0.1, 0.5, -1))
    assert found.valid.sum() == 6
