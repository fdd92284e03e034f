"""One clear error when a tensor holds NaN or infinity, without waiting for the GPU."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UserError


class NonFiniteError(UserError, FloatingPointError):
    """A tensor of the model holds NaN or infinity. ``str(error)`` names it."""


class FiniteCheck:
    """Watches tensors that every NaN must pass through, and names the first bad one on the way there.

    On a CPU the check is immediate. On a GPU the verdict travels to the host while the next step runs and is read by
    the next call, so that no step waits for it: the error then speaks of the previous call.
    """

    def __init__(self, enabled: bool = True):
        self.enabled = enabled
        self._pending: tuple[list[str], Tensor, torch.cuda.Event] | None = None

    def __call__(self, suspects: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Check ``outputs``; if one is bad, name the first bad tensor among ``suspects`` (in their order), else among
        outputs.

        Raises:
            NonFiniteError: with the tensor's name and advice.
        """
        if not self.enabled or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        tensors = {**suspects, **outputs}
        if next(iter(outputs.values())).is_cuda:
            self._check_later(tensors)
        elif not all(_finite(t) for t in outputs.values()):
            raise _error(next(name for name, t in tensors.items() if not _finite(t)), "")

    def _check_later(self, tensors: Mapping[str, Tensor]) -> None:
        if self._pending is not None and self._pending[2].query():
            names, verdict, _ = self._pending
            self._pending = None
            if not bool(verdict.all()):
                raise _error(names[int((~verdict).nonzero()[0])], " in the previous step")
        if self._pending is None:
            flags = torch.stack([torch.isfinite(t.detach().sum(dtype=torch.float32)) for t in tensors.values()])
            verdict = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True).copy_(flags, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending = (list(tensors), verdict, event)


def _finite(tensor: Tensor) -> bool:
    # one pass; the sum of a map is finite only if every element is (finite ones overflow it at 1e38 alone)
    return bool(torch.isfinite(tensor.detach().sum(dtype=torch.float32)))


def _error(name: str, when: str) -> NonFiniteError:
    return NonFiniteError(
        f"{name} holds NaN or infinity{when}: check the input images and boxes for broken values, "
        "or lower SOLVER.BASE_LR if training diverged (MODEL.CENTERNET.CHECK_FINITE False switches this check off)"
    )
