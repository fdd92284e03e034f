"""Batch norm with constant statistics whose scale and shift train, as in the published training."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FixedStatisticsNorm", "fix_statistics"]


class FixedStatisticsNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm that always uses its running statistics and never changes them.

    Its state dict is that of ``BatchNorm2d``. detectron2's ``FrozenBatchNorm2d`` would keep scale and shift constant,
    too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def fix_statistics(module: nn.Module) -> nn.Module:
    """Replace every ``BatchNorm2d`` below ``module``, in place, by a :class:`FixedStatisticsNorm` with its tensors."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            fixed = FixedStatisticsNorm(child.num_features, child.eps)
            fixed.load_state_dict(child.state_dict())
            module.add_module(name, fixed)
        else:
            fix_statistics(child)
    return module
