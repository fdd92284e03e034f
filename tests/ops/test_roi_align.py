import contextlib

import pytest
import torch
import torchvision
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from centernet.ops import roi_align as module
from centernet.ops.capture import capturing
from centernet.ops.roi_align import roi_align, roi_align_levels


def case(seed=0, count=13, channels=6):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, channels, 12, 17, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * 120 - 20  # some boxes reach outside
    size = torch.rand(count, 2, generator=generator) * 90
    image = torch.randint(0, 2, (count, 1), generator=generator)
    return maps, torch.cat((image, corner, corner + size), dim=1)


@pytest.fixture(params=[2, 3])
def threads(request, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(module, "_WORTH_IT", 0)
    module._threads.cache_clear()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)
    module._threads.cache_clear()


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("channels", [6, 1])
def test_equal_to_torchvision_to_the_last_bit(threads, samples, channels):
    results = []
    for function in (roi_align, torchvision.ops.roi_align):
        maps, rois = case(channels=channels)
        maps.requires_grad_()
        out = function(maps, rois, (7, 5), 1 / 8, samples, True)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
        results.append((out.detach(), maps.grad))
    assert results[0][0].grad_fn is None
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_takes_the_parallel_path(threads):
    maps, rois = case()
    assert "ParallelRoIAlign" in type(roi_align(maps.requires_grad_(), rois, (7, 7), 1 / 8).grad_fn).__name__


def test_one_box_and_no_box(threads):
    maps, rois = case()
    assert torch.equal(roi_align(maps, rois[:1], (7, 7), 1 / 8), roi_align(maps, rois, (7, 7), 1 / 8)[:1])
    assert roi_align(maps, rois[:0], (7, 7), 1 / 8).shape == (0, 6, 7, 7)


def test_autocast_is_left_to_torchvision(threads):
    maps, rois = case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = roi_align(maps.bfloat16().requires_grad_(), rois.bfloat16(), (7, 7), 1 / 8)
    assert "Parallel" not in type(out.grad_fn).__name__


def test_float32_under_autocast_takes_the_parallel_path(threads):
    maps, rois = case()
    expected = roi_align(maps, rois, (7, 7), 1 / 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = roi_align(maps.requires_grad_(), rois, (7, 7), 1 / 8)
    assert "Parallel" in type(out.grad_fn).__name__
    assert torch.equal(out, expected)


SCALES = [1 / 8, 1 / 16, 1 / 32]


def pyramid(seed=0):
    """Maps of two images of 256 x 320 pixels, and padded boxes of all sizes, some outside, some empty."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, 6, int(256 * s), int(320 * s), generator=generator) for s in SCALES]
    corner = torch.rand(2, 40, 2, generator=generator) * 300 - 30
    side = 2 ** (torch.rand(2, 40, 2, generator=generator) * 8)
    boxes = torch.cat((corner, corner + side), dim=2)
    boxes[1, 30:] = 0
    return maps, boxes


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("kind", ["ROIAlignV2", "ROIAlign"])
@pytest.mark.parametrize("target", [None, "export", "torchscript", "onnx"])
def test_levels_equal_detectron2s_pooler(target, kind, samples):
    maps, boxes = pyramid()
    expected = ROIPooler((7, 7), SCALES, samples, kind)(maps, [Boxes(b) for b in boxes])
    with contextlib.nullcontext() if target is None else capturing(target):
        found = roi_align_levels(maps, boxes, (7, 7), SCALES, samples, kind == "ROIAlignV2")
    assert torch.equal(found, expected)
    fast = roi_align_levels(maps, boxes, (7, 7), SCALES, samples, kind == "ROIAlignV2", fast=True)
    assert torch.allclose(fast, expected, atol=2e-6)


def test_levels_on_all_cores_are_the_same_bits(threads):
    maps, boxes = pyramid()
    many = roi_align_levels(maps, boxes, (7, 5), SCALES)
    torch.set_num_threads(1)
    assert torch.equal(many, roi_align_levels(maps, boxes, (7, 5), SCALES))
    assert roi_align_levels(maps, boxes[:, :0], (7, 5), SCALES).shape == (0, 6, 7, 5)


def test_boxes_that_are_not_finite_pool_nothing():
    maps, boxes = pyramid()
    plain = roi_align_levels(maps, boxes, (7, 7), SCALES)
    boxes[0, 3, 2], boxes[1, 0] = float("inf"), float("nan")
    for target in (None, "export"):
        with contextlib.nullcontext() if target is None else capturing(target):
            found = roi_align_levels(maps, boxes, (7, 7), SCALES)
        assert not found[3].any()
        assert not found[40].any()
        assert torch.equal(found[4:40], plain[4:40])


def test_levels_have_a_gradient():
    maps, boxes = pyramid()
    leaves = [m.requires_grad_() for m in maps]
    roi_align_levels(maps, boxes, (7, 7), SCALES).square().sum().backward()
    found = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    ROIPooler((7, 7), SCALES, 0, "ROIAlignV2")(maps, [Boxes(b) for b in boxes]).square().sum().backward()
    for ours, leaf in zip(found, leaves, strict=True):
        assert torch.allclose(ours, leaf.grad, atol=1e-4)


def test_half_precision_pools_in_float32():
    maps, boxes = pyramid()
    maps = [m.bfloat16() for m in maps]
    found = roi_align_levels(maps, boxes, (7, 7), SCALES)
    assert found.dtype == torch.bfloat16
    exact = roi_align_levels([m.float() for m in maps], boxes, (7, 7), SCALES)
    assert torch.equal(found, exact.bfloat16())


def test_levels_operator_contract():
    maps, boxes = pyramid()
    torch.library.opcheck(
        torch.ops.centernet.roi_align_levels, (maps, boxes, 7, 7, SCALES, 0, True, 4, 224.0),
        test_utils=["test_schema", "test_faketensor"],
    )  # fmt: skip
