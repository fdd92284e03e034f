"""A learnable scalar factor."""

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies its input by one parameter, ``scale`` of shape ``[1]``."""

    def __init__(self, init_value: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([init_value]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
