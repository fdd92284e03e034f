"""Overlaps against a plain polygon clipper, and what must hold for all boxes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.tracking3d.ops.geometry import box_corners
from centernet.tracking3d.ops.overlaps import (
    _footprint_overlap,
    _footprint_overlaps,
    camera_box7,
    iou_2d,
    iou_3d,
    iou_bev,
    iou_inclusive,
)

quick = settings(max_examples=40, deadline=None)
number = st.floats(-6, 6, width=32)
size = st.floats(0.125, 8, width=32)
turn = st.one_of(st.floats(-4, 4, width=32), st.sampled_from([0.0, math.pi / 2, -math.pi, math.pi / 4]))
box = st.tuples(number, number, number, turn, size, size, size)


def footprint(box7):
    x, y, _, yaw, _, width, length = box7
    c, s = math.cos(yaw), math.sin(yaw)
    corners = [(length / 2, width / 2), (-length / 2, width / 2), (-length / 2, -width / 2), (length / 2, -width / 2)]
    return [(x + a * c - b * s, y + a * s + b * c) for a, b in corners]


def clipped(polygon, window):
    """Sutherland and Hodgman, one convex polygon by another."""
    for (ax, ay), (bx, by) in zip(window, window[1:] + window[:1], strict=True):
        kept = []
        sides = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in polygon]
        for i, (here, there) in enumerate(zip(sides, sides[1:] + sides[:1], strict=True)):
            p, q = polygon[i], polygon[(i + 1) % len(polygon)]
            if here >= 0:
                kept.append(p)
            if here * there < 0:
                t = here / (here - there)
                kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
        polygon = kept
    return polygon


def area(polygon):
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(px * qy - qx * py for (px, py), (qx, qy) in pairs)) / 2


@quick
@given(st.lists(box, min_size=1, max_size=5), st.lists(box, min_size=1, max_size=5))
def test_overlaps_are_those_of_clipped_polygons(first, second):
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    bev, volume = iou_bev(a, b), iou_3d(a, b)
    for i, p in enumerate(a.tolist()):
        for k, q in enumerate(b.tolist()):
            shared = area(clipped(footprint(p), footprint(q)))
            assert bev[i, k].item() == pytest.approx(shared / (p[5] * p[6] + q[5] * q[6] - shared), abs=1e-9)
            height = max(0, min(p[2] + p[4] / 2, q[2] + q[4] / 2) - max(p[2] - p[4] / 2, q[2] - q[4] / 2))
            total = p[4] * p[5] * p[6] + q[4] * q[5] * q[6]
            assert volume[i, k].item() == pytest.approx(shared * height / (total - shared * height), abs=1e-9)


@quick
@given(st.lists(box, min_size=1, max_size=8), st.floats(-3, 3), number)
def test_what_holds_for_all_boxes(rows, angle, shift):
    boxes = torch.tensor(rows, dtype=torch.float64)
    for iou in (iou_bev, iou_3d):
        pairs = iou(boxes, boxes)
        torch.testing.assert_close(pairs, pairs.T)
        torch.testing.assert_close(pairs.diagonal(), torch.ones(len(boxes), dtype=torch.float64))
        assert ((pairs >= 0) & (pairs <= 1 + 1e-12)).all()
        around = boxes.clone()
        around[:, 3] += math.pi  # front to back is the same box
        torch.testing.assert_close(iou(boxes, around).diagonal(), torch.ones(len(boxes), dtype=torch.float64))
        apart = boxes.clone()
        apart[:, 0] += 40
        assert (iou(boxes, apart) == 0).all()
        c, s = math.cos(angle), math.sin(angle)
        moved = boxes.clone()  # the whole world turned and shifted
        moved[:, 0], moved[:, 1] = boxes[:, 0] * c - boxes[:, 1] * s + shift, boxes[:, 0] * s + boxes[:, 1] * c - shift
        moved[:, 3] += angle
        torch.testing.assert_close(iou(moved, moved), pairs, atol=1e-9, rtol=0)


def test_known_overlaps():
    square = torch.tensor([[0.0, 0, 0, 0, 2, 2, 2]])
    turned = torch.tensor([[0.0, 0, 0, math.pi / 4, 2, 2, 2]])
    octagon = 8 * (math.sqrt(2) - 1)
    assert iou_bev(square, turned).item() == pytest.approx(octagon / (8 - octagon), abs=1e-6)
    half_up = square.clone()
    half_up[0, 2] = 1
    assert iou_3d(square, half_up).item() == pytest.approx(1 / 3)
    assert iou_bev(square, half_up).item() == 1
    touching = square.clone()
    touching[0, 0] = 2
    assert iou_bev(square, touching).item() == 0


def test_degenerate_boxes_have_no_overlap():
    flat = torch.tensor([[0.0, 0, 0, 0.3, 0, 1, 1], [0, 0, 0, 0, 1, -1, 2], [0, 0, 0, 0, 0, 0, 0]])
    assert iou_3d(flat, flat).tolist() == [[0.0] * 3] * 3
    assert iou_3d(flat[:0], flat).shape == (0, 3)
    assert iou_bev(flat, flat[:0]).shape == (3, 0)
    assert iou_2d(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_leaving_out_far_pairs_changes_nothing():
    torch.manual_seed(0)
    boxes = torch.randn(60, 7, dtype=torch.float64) * 6
    boxes[:, 4:] = boxes[:, 4:].abs()
    first, second = boxes[:25, None], boxes[None, 25:]
    near, every = _footprint_overlaps(first, second), _footprint_overlap(first, second)
    torch.testing.assert_close(near, every)
    assert torch.equal(near == 0, every == 0)
    assert 0 < (near == 0).sum() < near.numel()


def test_map_coordinates_cost_no_precision():
    boxes = torch.tensor([[0.0, 0, 0, 0.4, 1.5, 1.8, 4.2], [1, 0.5, 0.2, 0.5, 1.6, 1.9, 4.5]], dtype=torch.float64)
    far = boxes + torch.tensor([456_789.0, 5_429_876.0, 100, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(iou_3d(far, far), iou_3d(boxes, boxes), atol=1e-8, rtol=0)


def test_camera_boxes_are_the_boxes_that_their_corners_span():
    xyz, yaw, dims = torch.tensor([[1.0, 2.0, 10.0]]), torch.tensor([0.7]), torch.tensor([[1.5, 1.8, 4.2]])
    corners = box_corners(xyz, yaw, dims)[0]
    x, _, z = corners.unbind(1)
    lifted = footprint(camera_box7(xyz, yaw, dims)[0].tolist())
    bottom = sorted(zip(x[:4].tolist(), z[:4].tolist(), strict=True))
    for (a, b), (c, d) in zip(bottom, sorted(lifted), strict=True):
        assert (a, b) == pytest.approx((c, d), abs=1e-5)


def test_gradients_lead_together():
    moving = torch.tensor([[0.5, 0.3, 0.1, 0.2, 1.5, 1.8, 4.2]], dtype=torch.float64, requires_grad=True)
    fixed = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.5, 1.8, 4.2]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda b: iou_3d(b, fixed), (moving,))


@pytest.mark.parametrize(
    ("side", "expected"), [(0.01, 0.961), (0.05, 0.830), (0.08, 0.750), (0.1, 0.704), (0.2, 0.532), (0.3, 0.420)]
)
def test_published_iou_of_disjoint_squares(side, expected):
    first = torch.tensor([[0.0, 0.0, side, side]])
    assert iou_inclusive(first, first + side).item() == pytest.approx(expected, abs=6e-4)
    assert iou_2d(first, first + side).item() == 0


def test_continuous_boxes_have_the_published_iou_of_inclusive_ones():
    torch.manual_seed(1)
    corner, extent = torch.rand(20, 2) * 50, torch.rand(20, 2) * 40
    inclusive = torch.cat((corner, corner + extent), 1)
    continuous = torch.cat((corner, corner + extent + 1), 1)
    torch.testing.assert_close(iou_inclusive(inclusive, inclusive), iou_2d(continuous, continuous))
