"""The up-sampling path of DLA."""

import pytest
import torch

from centernet.modeling.backbone.dla_up import NODES, DLAUp, IDAUp, bilinear_upsampling


@pytest.mark.parametrize("factor", [2, 4])
def test_up_sampling_starts_bilinear(factor):
    x = torch.rand(1, 3, 6, 5)
    found = bilinear_upsampling(3, factor)(x)
    wanted = torch.nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert found.shape == wanted.shape
    inside = (..., slice(factor, -factor), slice(factor, -factor))  # the border of one takes zeros from outside
    assert torch.allclose(found[inside], wanted[inside], atol=1e-6)


def test_published_kernel():
    rows = bilinear_upsampling(1, 2).weight.detach()[0, 0]
    assert rows[0].tolist() == [0.0625, 0.1875, 0.1875, 0.0625]
    assert rows[1].tolist() == [0.1875, 0.5625, 0.5625, 0.1875]
    assert torch.equal(rows, rows.flip(0, 1))


def pyramid(channels):
    return [torch.randn(1, c, 16 // 2**i, 24 // 2**i) for i, c in enumerate(channels)]


def test_order_of_the_aggregation():
    """Step by step as in the table of section 3.4 of the specification."""
    torch.manual_seed(0)
    up = DLAUp([4, 6, 8, 10], NODES["conv"], "BN").eval()

    def update(step, i, level, finer):
        ida = getattr(up, f"ida_{step}")
        raised = getattr(ida, f"up_{i}")(getattr(ida, f"proj_{i}")(level))
        return getattr(ida, f"node_{i}")(raised + finer)

    x2, x3, x4, x5 = levels = pyramid([4, 6, 8, 10])
    with torch.no_grad():
        found = up(levels)
        wanted = [x5]
        x5 = update(0, 1, x5, x4)
        wanted.append(x5)
        x4 = update(1, 1, x4, x3)
        x5 = update(1, 2, x5, x4)
        wanted.append(x5)
        x3 = update(2, 1, x3, x2)
        x4 = update(2, 2, x4, x3)
        x5 = update(2, 3, x5, x4)
        wanted.append(x5)
    assert [tuple(x.shape[1:]) for x in found] == [(4, 16, 24), (6, 8, 12), (8, 4, 6), (10, 2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(found, reversed(wanted), strict=True))


def test_aggregation_over_different_factors():
    ida = IDAUp(4, [4, 6, 8], [2, 4], NODES["dcn"], "BN")
    out = ida([torch.randn(1, c, 16 // s, 8 // s) for c, s in ((4, 1), (6, 2), (8, 4))])
    assert [tuple(x.shape) for x in out] == [(1, 4, 16, 8)] * 3
    assert [ida.up_1.kernel_size, ida.up_2.kernel_size] == [(4, 4), (8, 8)]


def test_deformable_node_starts_with_half_a_convolution():
    torch.manual_seed(0)
    node = NODES["dcn"](3, 5, "BN").eval()
    assert set(dict(node.named_parameters())) == {
        "actf.0.weight",
        "actf.0.bias",
        "offset.weight",
        "offset.bias",
        "conv.weight",
        "conv.bias",
    }
    x = torch.randn(1, 3, 7, 6)
    with torch.no_grad():
        plain = torch.nn.functional.conv2d(x, node.conv.weight, padding=1) / 2  # every mask is sigmoid(0)
        assert torch.allclose(node(x), node.actf(plain), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_deformable_node_under_autocast(dtype):
    torch.manual_seed(0)
    node = NODES["dcn"](4, 4, "BN")
    torch.nn.init.normal_(node.offset.weight, std=0.2)
    x = torch.randn(2, 4, 9, 8)
    exact = node(x)
    with torch.autocast("cpu", dtype=dtype):
        mixed = node(x)
        low = node(x.to(dtype))
    assert low.dtype == dtype
    for out in (mixed, low):
        assert float((out - exact).detach().abs().mean()) < 0.05
    (mixed.sum() + low.float().sum()).backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in node.parameters())
