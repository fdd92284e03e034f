"""A loss or gradient that is nan or infinite: the batch is kept for a replay, and the run stops or skips the step."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.finite_check import NonFiniteError, deferred_finite_checks
from .atomic_file import write_atomically
from .batch_dump import write_batch_dump
from .manifest import code_version
from .processes import unwrapped
from .random_state import capture_random_state

__all__ = ["BAD_BATCHES", "NonFiniteLossError", "NonFinitePolicy"]

BAD_BATCHES = "bad_batches"
_MOST_KEPT = 5  # dumps of a process in a run folder, the newest ones
_ACTIONS = ("stop", "skip")
_logger = logging.getLogger(__name__)
Batch = list[dict[str, Any]]


class NonFiniteLossError(UserError):
    """A loss or a gradient is nan or infinite. All processes raise it, before the gradients touch the weights.

    Attributes:
        name, value: of the loss, or of ``gradient of <parameter>``.
        final: the batch is kept already, and the run stops.
    """

    def __init__(self, message: str, name: str = "", value: float = math.nan, *, final: bool = False) -> None:
        super().__init__(message)
        self.name = name
        self.value = value
        self.final = final


class _Pending(NamedTuple):
    """A verdict on the gradients of a step that is on its way from the GPU."""

    measures: Tensor  # [parameters], finite where the gradient is; on the host, once ``event`` has happened
    event: torch.cuda.Event
    iteration: int
    batch: Batch
    random_state: dict[str, Any]


class NonFinitePolicy:
    """What to do about it. A part of every checkpoint.

    On a CPU, and with 'skip', gradients are looked at before the step. On a GPU that would make the host wait: with
    'stop' the verdict is read in the next iteration, and before anything is saved.

    Attributes:
        skips: the step is skipped; False: the run stops.
        skipped: steps so far.
    """

    def __init__(
        self,
        action: str = "stop",
        limit: int = 0,
        folder: Path | None = None,
        config: str = "",
        *,
        infinity_is_clipped: bool = False,
    ) -> None:
        """
        Args:
            action: 'stop' or 'skip' (SOLVER.NON_FINITE).
            limit: so many steps in a row are skipped at most (SOLVER.NON_FINITE_LIMIT).
            folder: of the run; its ``bad_batches`` gets the batches. None keeps none.
            config: YAML, kept with them.
            infinity_is_clipped: an infinite gradient is clipped to a number, as by the published recipe, and only
                nan is bad.
        """
        self._infinity_is_clipped = infinity_is_clipped
        self.skips = action == "skip"
        self.skipped = 0
        self._limit = limit
        self._folder = None if folder is None else folder / BAD_BATCHES
        self._config = config
        self._in_a_row = 0
        self._random_state: dict[str, Any] = {}
        self._names: list[str] = []
        self._parameters: list[nn.Parameter] = []
        self._pending: _Pending | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "NonFinitePolicy":
        """What SOLVER.NON_FINITE says.

        Raises:
            UserError: it is none of the possible values.
        """
        action, limit = cfg.SOLVER.NON_FINITE, cfg.SOLVER.NON_FINITE_LIMIT
        if action not in _ACTIONS:
            raise UserError(f"SOLVER.NON_FINITE is '{action}', must be one of {', '.join(_ACTIONS)}")
        if limit < 0:
            raise UserError(f"SOLVER.NON_FINITE_LIMIT is {limit}: it is a number of steps in a row, 0 or more")
        clip = cfg.SOLVER.CLIP_GRADIENTS
        by_value = clip.ENABLED and clip.CLIP_TYPE == "value"
        return cls(action, limit, Path(cfg.OUTPUT_DIR), cfg.dump(), infinity_is_clipped=by_value)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Around forward, backward and update. An error leaves the statistics of norms as they were, with 'skip'."""
        self._random_state = capture_random_state()
        before = [(buffer, buffer.clone()) for buffer in model.buffers()] if self.skips else []
        with deferred_finite_checks(model) if self.skips else nullcontext():
            try:
                yield
            except (NonFiniteLossError, NonFiniteError):
                for buffer, value in before:
                    buffer.data.copy_(value)
                raise
        self._in_a_row = 0

    def check_gradients(self, model: nn.Module, batch: Batch, iteration: int) -> None:
        """Call it between backward and update, unless gradients are scaled.

        Raises:
            NonFiniteLossError: with the first parameter whose gradient is bad.
        """
        if not self._parameters:
            named = [(n, p) for n, p in unwrapped(model).named_parameters() if p.requires_grad]
            self._names, self._parameters = [n for n, _ in named], [p for _, p in named]
        gradients = [torch.zeros(1, device=p.device) if p.grad is None else p.grad for p in self._parameters]
        if not gradients:
            return
        if gradients[0].is_cuda:  # few kernels for all of them
            measures = torch.stack([norm.float() for norm in torch._foreach_norm(gradients, math.inf)])
        else:  # several times faster; finite ones overflow it beyond 1e38 alone
            measures = torch.stack([gradient.sum(dtype=torch.float32) for gradient in gradients])
            if self._infinity_is_clipped:  # opposite infinities add up to nan
                for index in measures.isnan().nonzero().flatten().tolist():
                    measures[index] = gradients[index].abs().max()  # nan if there is one
        if self.skips or not measures.is_cuda:
            self._judge(measures, iteration)
            return
        host = torch.empty(measures.shape, pin_memory=True).copy_(measures, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = _Pending(host, event, iteration, batch, self._random_state)

    def settle(self, model: nn.Module) -> None:
        """Raise what was found in the gradients of the last step and not told yet. The weights have taken it up."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        pending.event.synchronize()
        try:
            self._judge(pending.measures, pending.iteration)
        except NonFiniteLossError as error:
            self._keep(model, pending.batch, pending.iteration, pending.random_state, str(error), with_weights=False)
            raise NonFiniteLossError(str(error), error.name, error.value, final=True) from error

    def handle(self, model: nn.Module, batch: Batch, iteration: int, error: UserError) -> None:
        """Keep the batch that ``error`` (NonFiniteLossError or NonFiniteError) is about; return if its step is skipped.

        Raises:
            UserError: of these two; the run stops.
        """
        if isinstance(error, NonFiniteLossError) and error.final:
            raise error
        kept = self._keep(model, batch, iteration, self._random_state, str(error), with_weights=True)
        where = f"; {kept} has the batch for tools/replay_batch.py" if kept else ""
        if not self.skips:
            raise _with(error, f"{error}{where}") from error
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row > self._limit:
            raise NonFiniteLossError(
                f"{self._in_a_row} steps in a row would have to be skipped (SOLVER.NON_FINITE_LIMIT is {self._limit}), "
                f"the last one because {error}{where}"
            ) from error
        _logger.warning("The step of iteration %d is skipped, no weight changes: %s%s", iteration, error, where)
        get_event_storage().put_scalar("skipped_not_finite", self.skipped, smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        """Counts."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def _judge(self, measures: Tensor, iteration: int) -> None:
        bad_ones = measures.isnan() if self._infinity_is_clipped else ~measures.isfinite()
        bad = bad_ones.nonzero().flatten().tolist()
        if bad:
            name, value = self._names[bad[0]], float(measures[bad[0]])
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise NonFiniteLossError(
                f"the gradient of {name}{more} is {value} at iteration {iteration}, though the losses are finite: "
                "lower SOLVER.BASE_LR, raise SOLVER.WARMUP_ITERS or look at the boxes of the batch",
                f"gradient of {name}",
                value,
            )

    def _keep(
        self,
        model: nn.Module,
        batch: Batch,
        iteration: int,
        random_state: dict[str, Any],
        reason: str,
        *,
        with_weights: bool,
    ) -> Path | None:
        """Write the batch and, on the main process, the weights; a disk that is full must not hide the reason."""
        if self._folder is None:
            return None
        rank = comm.get_rank()
        file = self._folder / f"iteration_{iteration:07d}_rank{rank}.pth"
        weights = f"weights_{iteration:07d}.pth" if with_weights else ""
        try:
            self._folder.mkdir(exist_ok=True)
            write_batch_dump(
                file,
                batch,
                iteration=iteration,
                rank=rank,
                world_size=comm.get_world_size(),
                reason=reason,
                random_state=random_state,
                weights=weights,
                config=self._config,
                code=code_version(),
            )
            if comm.is_main_process() and weights:
                content = {"model": unwrapped(model).state_dict(), "iteration": iteration - 1}
                write_atomically(self._folder / weights, lambda stream: torch.save(content, stream))
            self._remove_old_ones(rank)
        except (UserError, OSError) as error:
            _logger.warning("The batch is not kept: %s", error)
            return None
        return file

    def _remove_old_ones(self, rank: int) -> None:
        assert self._folder is not None
        for pattern in (f"iteration_*_rank{rank}.pth", *(["weights_*.pth"] if rank == 0 else [])):
            files = sorted(self._folder.glob(pattern), key=lambda file: file.stat().st_mtime)
            for file in files[:-_MOST_KEPT]:
                file.unlink(missing_ok=True)


def _with(error: UserError, message: str) -> UserError:
    if isinstance(error, NonFiniteLossError):
        return NonFiniteLossError(message, error.name, error.value, final=True)
    return NonFiniteError(message)
