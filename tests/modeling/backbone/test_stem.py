"""Pooling in channels-last memory: the same bits, names and shapes as detectron2's stem."""

import copy

import torch
from detectron2.modeling.backbone.resnet import BasicStem

from centernet.modeling.backbone.stem import ChannelsLastPoolStem, pool_in_channels_last


def test_same_bits_names_and_layout():
    torch.manual_seed(0)
    plain = BasicStem(3, 8, "BN").eval()
    ours = copy.deepcopy(plain)
    pool_in_channels_last(ours)
    assert isinstance(ours, ChannelsLastPoolStem)
    assert list(ours.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        for height, width in ((64, 96), (63, 97), (32, 32)):
            x = torch.randn(2, 3, height, width)
            found = copy.deepcopy(ours)(x)
            assert found.is_contiguous()
            assert torch.equal(found, plain(x))
            last = x.contiguous(memory_format=torch.channels_last)
            assert torch.allclose(ours(last), plain(last))


def test_training_is_untouched():
    torch.manual_seed(0)
    plain = BasicStem(3, 8, "BN")
    ours = copy.deepcopy(plain)
    pool_in_channels_last(ours)
    x = torch.randn(2, 3, 32, 32)
    for stem in (plain, ours):
        stem(x).square().sum().backward()
    assert torch.equal(ours.conv1.weight.grad, plain.conv1.weight.grad)


def test_other_stems_stay():
    class Deep(BasicStem):
        pass

    stem = Deep(3, 8, "BN")
    pool_in_channels_last(stem)
    assert type(stem) is Deep
