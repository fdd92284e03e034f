import pytest
import torch
import torchvision

from centernet.ops import roi_align as module
from centernet.ops.roi_align import roi_align


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
