"""Box heads in oneDNN: the numbers of the layers, and the layers themselves wherever that is not possible."""

import pytest
import torch
from torch import nn

from centernet.modeling.layers import fast_linear as module
from centernet.modeling.layers.fast_linear import run_box_head
from centernet.ops.capture import capturing


@pytest.fixture
def head(monkeypatch):
    monkeypatch.setattr(module, "_WORTH_IT", 0)
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 8, bias=False)).eval()


@pytest.fixture
def fast(monkeypatch):
    """How often the kernel of oneDNN ran."""
    calls = []
    kernel = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda *args: calls.append(1) or kernel(*args), raising=False
    )
    return calls


def test_same_numbers(head, fast):
    x = torch.randn(5, 4, 3, 3)
    with torch.no_grad():
        assert torch.allclose(run_box_head(head, x), head(x), atol=1e-5)
        assert run_box_head(head, x[:0]).shape == (0, 8)
    assert len(fast) >= 2


def test_everything_else_is_left_to_the_head(head, fast):
    x = torch.randn(5, 4, 3, 3)
    assert run_box_head(head, x).requires_grad
    with torch.no_grad():
        assert run_box_head(head.double(), x.double()).dtype == torch.float64
        head.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert run_box_head(head, x).dtype == torch.bfloat16
        with capturing("export"):
            run_box_head(head, x)
        assert run_box_head(nn.Flatten(0), x).shape == (180,)
    assert not fast


def test_small_layers_are_left_alone(head, fast, monkeypatch):
    monkeypatch.undo()
    with torch.no_grad():
        run_box_head(head, torch.randn(5, 4, 3, 3))
    assert not fast
