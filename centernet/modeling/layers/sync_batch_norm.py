"""Batch normalisation with the statistics of all processes, also where PyTorch's, which is for GPUs, does not work.

Source: batch statistics of the whole batch, as in "MegDet" (arXiv 1711.07240) section 3.2.
"""

import logging

import torch
from detectron2.utils import comm
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn

__all__ = ["ProcessBatchNorm", "with_working_sync_batch_norm"]

_logger = logging.getLogger(__name__)


class ProcessBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over ``[B, H, W]`` of all processes, on any device; with one process ``BatchNorm2d``.

    The processes may have images of different number and size. Two messages a layer forward and two backward.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]``, all processes at once, to the same shape and type."""
        if not self.training or comm.get_world_size() == 1:
            return super().forward(x)
        values = x.float()
        count = torch.full((1,), float(values.numel() // values.shape[1]), device=x.device)
        sums = differentiable_all_reduce(torch.cat((values.sum(dim=(0, 2, 3)), count)))
        total = sums[-1].detach().clamp(min=1)  # heads may have no input at all
        mean = sums[:-1] / total
        # from the mean of all, not as a difference of large squares
        squares = (values - mean[:, None, None]).square().sum(dim=(0, 2, 3))
        variance = differentiable_all_reduce(squares) / total
        self._follow(mean.detach(), variance.detach() * (total / (total - 1).clamp(min=1)))
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics as ``BatchNorm2d`` does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(variance.to(self.running_var), momentum)


def with_working_sync_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` with norm "SyncBN" that works on ``device``; its layers are replaced in place, parameters stay.

    Works before or after an optimiser has been given the parameters.
    """
    found = [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]
    if not found:
        return model
    if comm.get_world_size() == 1:
        _logger.info("SyncBN of %d layers: there is one process, so it is ordinary batch normalisation", len(found))
    if device.type == "cuda":
        return model
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.SyncBatchNorm):
                setattr(parent, name, _process_batch_norm(child))
    return model


def _process_batch_norm(layer: nn.SyncBatchNorm) -> ProcessBatchNorm:
    """The same layer: its very parameters and buffers."""
    made = ProcessBatchNorm(
        layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, device="meta"
    )
    made._parameters.update(layer._parameters)
    made._buffers.update(layer._buffers)
    return made.train(layer.training)
