"""Norm "SyncBN" off the GPU. Over several processes: tests/engine/test_distributed_losses.py."""

import logging

import torch
from torch import nn

from centernet.modeling.layers.sync_batch_norm import ProcessBatchNorm, with_working_sync_batch_norm

CPU = torch.device("cpu")


def test_with_one_process_it_is_batch_norm(caplog):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.SyncBatchNorm(4, momentum=0.3)))
    parameters, keys = list(model.parameters()), list(model.state_dict())
    with caplog.at_level(logging.INFO):
        assert with_working_sync_batch_norm(model, CPU) is model
    assert caplog.messages == ["SyncBN of 1 layers: there is one process, so it is ordinary batch normalisation"]
    layer = model[1][0]
    assert isinstance(layer, ProcessBatchNorm)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))  # the optimiser has them already
    assert keys == list(model.state_dict())
    plain, x = nn.BatchNorm2d(4, momentum=0.3), torch.randn(2, 4, 3, 3)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.running_var, plain.running_var)
    assert torch.equal(layer.eval()(x), plain.eval()(x))


def test_other_models_are_left_alone(caplog):
    model = nn.Sequential(nn.BatchNorm2d(4))
    before = model[0]
    with caplog.at_level(logging.INFO):
        with_working_sync_batch_norm(model, CPU)
    assert model[0] is before
    assert not caplog.messages
    synced = nn.Sequential(nn.SyncBatchNorm(4))
    assert isinstance(with_working_sync_batch_norm(synced, torch.device("cuda"))[0], nn.SyncBatchNorm)
