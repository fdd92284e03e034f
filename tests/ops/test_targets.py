import pytest
import torch
from dense_reference import dense_targets, to_flat
from hypothesis import given, settings
from hypothesis import strategies as st
from test_grid_assign import BOXES, CLASSES, SIZES, SOI, STRIDES, objects

from centernet.ops import heatmap as heatmap_module
from centernet.ops.assign import Objects
from centernet.ops.grid import Pyramid
from centernet.ops.targets import TargetRules, build_targets

RULES = TargetRules(SOI)
PYRAMID = Pyramid(SIZES, STRIDES, 1)
CELLS = [h * w for h, w in SIZES]


def test_published_heatmap():
    heatmap = build_targets(objects(), PYRAMID, RULES).heatmap[:, 0].split(CELLS)
    sums = [47.2791, 12.8457, 5.2577, 3.1142, 2.0]
    for level, total, nonzero, ones in zip(heatmap, sums, (313, 80, 19, 5, 2), (4, 4, 4, 3, 2), strict=True):
        assert float(level.sum()) == pytest.approx(total, abs=1e-4)
        assert int((level > 0).sum()) == nonzero
        assert int((level == 1).sum()) == ones


def test_published_class_heatmap_totals():
    heatmap = build_targets(objects(), PYRAMID, RULES._replace(num_classes=3)).heatmap
    assert heatmap.sum(dim=0).tolist() == pytest.approx([5.365306, 61.666222, 6.808776], rel=1e-5)


def test_published_regression_targets():
    targets = build_targets(objects(), PYRAMID, RULES)
    bounds = torch.tensor([0, *CELLS]).cumsum(0)
    per_level = [((targets.regression_cells >= a) & (targets.regression_cells < b)).sum().item()
                 for a, b in zip(bounds[:-1], bounds[1:], strict=True)]  # fmt: skip
    assert per_level == [22, 18, 9, 0, 0]
    ltrb = dict(zip(targets.regression_cells.tolist(), targets.regression_ltrb.tolist(), strict=True))
    assert ltrb[110] == [2, 2.25, 3, 4]
    assert ltrb[111] == [3, 2.25, 2, 4]
    assert ltrb[512 + 51] == [2.25, 1.625, 4, 3.375]
    assert ltrb[512 + 52] == [3.25, 1.625, 3, 3.375]
    assert ltrb[640 + 10] == [2.34375, 1.34375, 5.3125, 2.40625]
    assert ltrb[640 + 11] == [3.34375, 1.34375, 4.3125, 2.40625]


def test_minimum_radius_rules_small_boxes():
    # 4 x 4 px: rho^2 by area would be 2 * 16 / 81 = 0.4 px^2; the minimum of 4 px gives 16
    tiny = objects(torch.tensor([[62.0, 62, 66, 66]]), torch.tensor([0]))
    heatmap = build_targets(tiny, PYRAMID, RULES).heatmap[: CELLS[0], 0].view(SIZES[0])
    assert float(heatmap[8, 8]) == 1  # holds the centre (64, 64)
    assert float(heatmap[7, 7]) == pytest.approx(2.718281828 ** (-(4**2 + 4**2) / 16), rel=1e-5)


def test_empty_image_and_empty_batch():
    none = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    targets = build_targets(none, PYRAMID, RULES)
    assert targets.heatmap.shape == (PYRAMID.num_cells, 1)
    assert float(targets.heatmap.abs().max()) == 0
    assert len(targets.positive_cells) == len(targets.regression_cells) == 0


def test_ties_go_to_the_first_object():
    same_center = objects(torch.tensor([[40.0, 40, 80, 80], [50, 50, 70, 70]]), torch.tensor([0, 1]))
    targets = build_targets(same_center, PYRAMID, RULES)
    center = (60 // 8) * 32 + 60 // 8
    at = targets.regression_cells.tolist().index(center)
    assert targets.regression_ltrb[at].tolist() == [2.5, 2.5, 2.5, 2.5]  # (60 - 40) / 8


def test_heatmap_on_assigned_levels_only():
    small = objects(torch.tensor([[100.0, 50, 120, 70]]), torch.tensor([0]))
    everywhere = build_targets(small, PYRAMID, RULES).heatmap[:, 0].split(CELLS)
    restricted = build_targets(small, PYRAMID, RULES._replace(hm_only_assigned_levels=True)).heatmap[:, 0].split(CELLS)
    assert all(float(level.max()) == 1 for level in everywhere)
    assert torch.equal(everywhere[0], restricted[0])
    assert all(float(level.max()) == 0 for level in restricted[1:])


def test_chunks_do_not_change_the_heatmap(monkeypatch):
    whole = build_targets(objects(), PYRAMID, RULES).heatmap
    monkeypatch.setattr(heatmap_module, "_CHUNK", 7)
    assert torch.equal(build_targets(objects(), PYRAMID, RULES).heatmap, whole)


coordinate = st.floats(-40, 300, width=32)
side = st.floats(0.5, 400, width=32)


@st.composite
def batches(draw):
    images = []
    for _ in range(draw(st.integers(1, 3))):
        rows = draw(st.lists(st.tuples(coordinate, coordinate, side, side, st.integers(0, 2)), max_size=6))
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows]).view(-1, 4)
        images.append((boxes, torch.tensor([r[4] for r in rows], dtype=torch.int64)))
    return images


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from([None, 3]))
def test_windowed_targets_equal_the_dense_definition(images, num_classes):
    batch = Objects(
        torch.cat([b for b, _ in images]),
        torch.cat([c for _, c in images]),
        torch.repeat_interleave(torch.tensor([len(b) for b, _ in images])),
    )
    targets = build_targets(batch, Pyramid(SIZES, STRIDES, len(images)), RULES._replace(num_classes=num_classes))
    dense = [dense_targets(b, c, SIZES, STRIDES, SOI, num_classes=num_classes) for b, c in images]
    expected = to_flat([d[0] for d in dense], SIZES)
    # at the floor of 1e-4 rounding may fall either way
    differ = (targets.heatmap - expected).abs()
    assert float(differ.masked_fill((expected - 1e-4).abs() < 2e-6, 0).masked_fill(
        (targets.heatmap - 1e-4).abs() < 2e-6, 0).max()) < 1e-5  # fmt: skip
    regression = to_flat([d[1] for d in dense], SIZES)
    assert targets.regression_cells.tolist() == (regression.amax(1) >= 0).nonzero()[:, 0].tolist()
    assert torch.allclose(targets.regression_ltrb, regression[targets.regression_cells], atol=1e-4)


def test_other_constants_change_the_targets():
    base = build_targets(objects(BOXES, CLASSES), PYRAMID, RULES).heatmap.sum()
    assert build_targets(objects(), PYRAMID, RULES._replace(hm_min_overlap=0.7)).heatmap.sum() > base
    assert build_targets(objects(), PYRAMID, RULES._replace(min_radius=30)).heatmap.sum() > base


def test_unique_positives_of_a_class_agnostic_map_ignore_classes():
    twins = objects(torch.tensor([[100.0, 50, 120, 70], [100, 50, 120, 70]]), torch.tensor([0, 1]))
    count = {key: len(build_targets(twins, PYRAMID, rules).positive_cells) for key, rules in {
        "published": RULES,
        "unique": RULES._replace(unique_positives=True),
        "unique, by class": RULES._replace(unique_positives=True, num_classes=2),
    }.items()}  # fmt: skip
    assert count == {"published": 2, "unique": 1, "unique, by class": 2}


def test_the_cell_that_holds_a_center_belongs_to_its_object():
    # the first centre lies in a corner of cell (1, 1), at (12, 12); the second, in the next cell, is nearer to it
    boxes = torch.tensor([[4.0, 4, 27.8, 27.8], [0.1, -4, 32.1, 28]])
    targets = build_targets(objects(boxes, torch.tensor([0, 1])), PYRAMID, RULES)
    at = targets.regression_cells.tolist().index(1 * 32 + 1)
    assert targets.regression_ltrb[at].tolist() == pytest.approx([1, 1, 1.975, 1.975])
