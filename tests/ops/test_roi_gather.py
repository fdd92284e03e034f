"""ROIAlign as sums of rows: torchvision's numbers, whatever the boxes."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.ops import roi_gather as module
from centernet.ops.roi_gather import gather_roi_align

MAPS = [torch.randn(2, 5, 16, 20, generator=torch.Generator().manual_seed(0)) for _ in range(1)]
side = st.floats(-300, 500, width=32)
box = st.tuples(st.integers(0, 1), side, side, st.floats(0, 700, width=32), st.floats(0, 700, width=32))


def both(rois, size=(7, 7), samples=0, aligned=True, dtype=torch.float32):
    maps = [m.to(dtype) for m in MAPS]
    level = torch.zeros(len(rois), dtype=torch.int64)
    found = gather_roi_align(maps, rois.to(dtype), level, *size, [1 / 8], samples, aligned)
    return found, torchvision.ops.roi_align(maps[0], rois.to(dtype), size, 1 / 8, samples, aligned)


@settings(deadline=None, max_examples=80)
@given(st.lists(box, min_size=1, max_size=6), st.sampled_from([0, 1, 2]), st.booleans())
def test_equals_torchvision(boxes, samples, aligned):
    rois = torch.tensor(boxes)
    rois[:, 3:] += rois[:, 1:3]
    # in double precision, where no sample falls on the other side of an edge by rounding
    found, expected = both(rois, (3, 5), samples, aligned, torch.float64)
    assert torch.allclose(found, expected, atol=1e-9)


def test_large_boxes_in_parts(monkeypatch):
    rois = torch.tensor([[0, -20.0, -20, 180, 150], [1, 3, 3, 150, 9], [1, 0, 0, 160, 128]]).repeat(20, 1)
    expected = both(rois)[1]
    assert torch.allclose(both(rois)[0], expected, atol=2e-6)
    monkeypatch.setattr(module, "_TERMS_AT_ONCE", 1)
    assert torch.allclose(both(rois)[0], expected, atol=2e-6)


def test_no_region_and_empty_regions():
    assert both(torch.zeros(0, 5))[0].shape == (0, 5, 7, 7)
    found, expected = both(torch.tensor([[1, 5.0, 5, 5, 5], [0, 9, 9, 9, 30]]))
    assert not found.any()
    assert torch.equal(found, expected)


def test_each_level_has_its_own_map():
    maps = [torch.full((2, 3, 16, 16), 1.0), torch.full((2, 3, 8, 8), 2.0)]
    maps[1][1] = 3.0
    rois = torch.tensor([[0, 20.0, 20, 60, 60], [0, 20, 20, 60, 60], [1, 20, 20, 60, 60]])
    found = gather_roi_align(maps, rois, torch.tensor([0, 1, 1]), 2, 2, [1 / 8, 1 / 16], 0, True)
    assert torch.allclose(found.mean(dim=(1, 2, 3)), torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_threads_does_not_matter(threads):
    before = torch.get_num_threads()
    rois = torch.tensor([[0, -20.0, -20, 180, 150], [1, 3, 3, 150, 9]]).repeat(50, 1)
    expected = both(rois)[0]
    torch.set_num_threads(threads)
    try:
        assert torch.equal(both(rois)[0], expected)
    finally:
        torch.set_num_threads(before)
