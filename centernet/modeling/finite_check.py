"""One clear error when a tensor holds NaN or infinity, without waiting for the GPU."""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..ops.capture import capture_target

_MOST_PENDING = 8  # verdicts on their way from a GPU; beyond it the oldest is waited for


class NonFiniteError(UserError, FloatingPointError):
    """A tensor of the model holds NaN or infinity. ``str(error)`` names it."""


class FiniteCheck:
    """Watches tensors that every NaN must pass through, and names the first bad one on the way there.

    On a CPU the check is immediate. On a GPU the verdict travels to the host while the GPU works on and is read by a
    later call, so that no step waits for it; :meth:`settle` waits, for those who have waited anyway.

    Attributes:
        deferred: an error is told by :meth:`settle` only, for a step whose processes must all reach its end. On a CPU
            the bad outputs are made finite, since some operators read beyond their input at a NaN.
        noted: the error to be told.
    """

    def __init__(self, enabled: bool = True):
        self.enabled = enabled
        self.deferred = False
        self.noted: NonFiniteError | None = None
        self._pending: deque[tuple[list[str], Tensor, torch.cuda.Event]] = deque()

    def __getstate__(self) -> dict[str, Any]:
        # events on a GPU can be neither copied nor pickled
        return {"enabled": self.enabled, "deferred": False, "noted": None, "_pending": deque()}

    def __call__(self, suspects: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Check ``outputs``; if one is bad, name the first bad tensor among ``suspects`` (in their order), else among
        outputs.

        Raises:
            NonFiniteError: with the tensor's name and advice.
        """
        if not self.enabled or torch.compiler.is_compiling() or torch.jit.is_tracing() or capture_target():
            return
        tensors = {**suspects, **outputs}
        if next(iter(outputs.values())).is_cuda:
            self._check_later(tensors)
        elif not all(_finite(t) for t in outputs.values()):
            self._note(next(name for name, t in tensors.items() if not _finite(t)))
            for output in outputs.values():
                output.data.nan_to_num_(0.0, 0.0, 0.0)

    def settle(self) -> None:
        """Wait for all verdicts and raise what they say."""
        self._collect()
        if self.noted is not None:
            error, self.noted = self.noted, None
            raise error

    def _note(self, name: str) -> None:
        error = _error(name)
        if not self.deferred:
            raise error
        self.noted = self.noted or error

    def _collect(self) -> None:
        while self._pending:
            names, verdict, event = self._pending.popleft()
            event.synchronize()
            if not bool(verdict.all()):
                self._pending.clear()
                self._note(names[int((~verdict).nonzero()[0])])

    def _check_later(self, tensors: Mapping[str, Tensor]) -> None:
        if torch.cuda.is_current_stream_capturing():
            return
        if self._pending and (self._pending[0][2].query() or len(self._pending) >= _MOST_PENDING):
            self._collect()
        flags = torch.stack([torch.isfinite(t.detach().sum(dtype=torch.float32)) for t in tensors.values()])
        verdict = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True).copy_(flags, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((list(tensors), verdict, event))


def settle_finite_checks(model: nn.Module) -> None:
    """Raise what the checks of ``model`` have found so far and not told yet."""
    for check in _checks(model):
        check.settle()


def finite_checks_noted(model: nn.Module) -> bool:
    """Whether deferred checks of ``model`` have something to tell."""
    return any(check.noted is not None for check in _checks(model))


@contextmanager
def deferred_finite_checks(model: nn.Module) -> Iterator[None]:
    """Inside, the checks of ``model`` raise nothing before :func:`settle_finite_checks`."""
    checks = _checks(model)
    for check in checks:
        check.deferred = True
    try:
        yield
    finally:
        for check in checks:
            check.deferred, check.noted = False, None


def _checks(model: nn.Module) -> list[FiniteCheck]:
    found = (getattr(module, "check_finite", None) for module in model.modules())
    return [check for check in found if isinstance(check, FiniteCheck)]


def _finite(tensor: Tensor) -> bool:
    # one pass; the sum of a map is finite only if every element is (finite ones overflow it at 1e38 alone)
    return bool(torch.isfinite(tensor.detach().sum(dtype=torch.float32)))


def _error(name: str) -> NonFiniteError:
    return NonFiniteError(
        f"{name} holds NaN or infinity: check the input images and boxes for broken values, "
        "or lower SOLVER.BASE_LR if training diverged (MODEL.CENTERNET.CHECK_FINITE False switches this check off)"
    )
