import torch

from centernet.modeling.backbone.fpn_p5 import LastLevelP6P7_P5
from centernet.modeling.layers.deform_conv import DFConv2d


def test_zero_offsets_are_a_plain_convolution():
    torch.manual_seed(0)
    layer = DFConv2d(4, 6, with_modulated_dcn=False, bias=True)
    x = torch.randn(2, 4, 9, 7)
    plain = torch.nn.functional.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1)
    assert torch.allclose(layer(x), plain, atol=1e-5)
    # modulated: a zero logit is a mask of one half
    modulated = DFConv2d(4, 6)
    halved = torch.nn.functional.conv2d(x, modulated.conv.weight, padding=1) / 2
    assert torch.allclose(modulated(x), halved, atol=1e-5)


def test_offset_map_padding_and_empty_input():
    layer = DFConv2d(4, 6, kernel_size=3, stride=2, padding=0)
    out, raw = layer(torch.randn(1, 4, 9, 9), return_offset=True)
    assert out.shape == (1, 6, 4, 4)
    assert raw.shape == (1, 27, 4, 4)
    assert layer(torch.zeros(0, 4, 9, 9)).shape == (0, 6, 4, 4)


def test_gradients_reach_offsets():
    layer = DFConv2d(2, 2, bias=True)
    layer(torch.randn(1, 2, 5, 5)).sum().backward()
    assert float(layer.offset.weight.grad.abs().sum()) > 0


def test_extra_levels():
    top = LastLevelP6P7_P5(8, 8)
    p6, p7 = top(torch.randn(1, 8, 10, 13))
    assert p6.shape[2:] == (5, 7)
    assert p7.shape[2:] == (3, 4)
    assert p6.min() < 0  # handed on before its ReLU
    assert (top.num_levels, top.in_feature) == (2, "p5")
