"""The training loop: one optimiser, one scheduler, one stream of batches, everything else in hooks.

The loop of the published CenterNet2 recipe (arXiv 2103.07461): zero_grad, backward, step, scheduler step; in float32
and in one pass unless asked otherwise. It runs detectron2's hooks and event storage, so its writers, timers and
third-party hooks work.
"""

import logging
import math
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..modeling.finite_check import NonFiniteError, finite_checks_noted, settle_finite_checks
from .accumulation import Batch, in_parts, of_one_batch
from .non_finite import NonFiniteLossError, NonFinitePolicy
from .precision import Precision
from .processes import gather_from_all
from .random_state import capture_random_state, restore_random_state, seed_random_state

__all__ = ["NonFiniteLossError", "Trainer"]

HISTORY = 20  # values a scalar that the writers smooth over
_logger = logging.getLogger(__name__)


class Trainer(TrainerBase):
    """Runs ``model`` over batches from iteration to iteration, exactly repeatable from any checkpoint.

    Args:
        model: in training mode, maps a batch (``list[dict]``, detectron2's format) to a dict of scalar
            losses; wrapped in ``DistributedDataParallel`` when there are several processes.
        optimizer: over the trainable parameters.
        scheduler: its learning rate is a function of the iteration.
        seed: of the run; process ``r`` draws from generators seeded with ``seed + r``.
        precision: of a step; None: float32.
        parts: forward and backward passes that a batch is taken in.
        largest_norm: ``(limit, kind)``: the gradients of all parameters together are scaled down to this norm.
        non_finite: what to do about a loss or gradient that is not finite; None: stop.

    Attributes:
        stop_signal: number of the signal after which all processes agree to stop when this iteration is done.
        ends_here: set by a hook for training to end, as at its last iteration, when this iteration is done.
        step_skipped: the weights did not change in this iteration: a loss was not finite or, in float16, a gradient.
        between_steps: everything is as the last finished iteration left it: the next batch is being fetched.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        *,
        seed: int,
        precision: Precision | None = None,
        parts: int = 1,
        largest_norm: tuple[float, float] | None = None,
        non_finite: NonFinitePolicy | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.seed = seed
        self.precision = precision or Precision()
        self.precision.prepare(model)
        self.parts = parts
        self.largest_norm = largest_norm
        self.stop_signal: int | None = None
        self.ends_here = False
        self.step_skipped = False
        self.non_finite = non_finite or NonFinitePolicy()
        self.between_steps = False
        self._stop_requested: int | None = None
        self._batches: Iterator[list[dict[str, Any]]] | None = None
        self._random_states: list[dict[str, Any]] = []
        self._history: dict[str, list[tuple[float, int]]] = {}

    def open_data(self, loader: Iterable[list[dict[str, Any]]]) -> None:
        """Start the loader and fetch its first batch: what is wrong with the data shows before training.

        Whatever the loader draws to start its workers comes before the generators get the run's state.
        """
        batches = iter(loader)
        first = next(batches)
        self._batches = _chain(first, batches)

    def request_stop(self, number: int) -> None:
        """Stop when this iteration is done or, with several processes, the next one; safe in a signal handler."""
        self._stop_requested = number
        if comm.get_world_size() == 1:
            self.stop_signal = number

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter`` to ``max_iter - 1``, with the hooks around them.

        Raises:
            NonFiniteLossError: with the name of the loss, the iteration and what to do.
            SystemExit: 128 + number, after a signal and once the hooks have saved.
        """
        _logger.info("Training from iteration %d to %d", start_iter, max_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self.model.train()
        with EventStorage(start_iter) as self.storage:
            for name, values in self._history.items():
                for value, iteration in values:
                    self.storage.histories()[name].update(value, iteration)
            try:
                self.before_train()
                self._set_random_state()
                self.between_steps = True
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.between_steps = True
                    if self.ends_here:
                        self.max_iter = self.iter + 1
                        break
                self.iter = self.max_iter
            finally:
                self._batches = None  # ends the loader's workers
                self.after_train()

    def run_step(self) -> None:
        """One optimiser step, or none where a loss or gradient is not finite and that is not the end of the run."""
        batch = self._fetch()
        self.optimizer.zero_grad()
        try:
            with self.non_finite.watch(self.model):
                self._backward(batch)
                if self.precision.scale is None:  # else the scale is to blame, and the step is skipped
                    self.non_finite.check_gradients(self.model, batch, self.iter)
                self.step_skipped = not self._update()
        except (NonFiniteLossError, NonFiniteError) as error:
            self.non_finite.handle(self.model, batch, self.iter, error)
            self.optimizer.zero_grad()
            self.step_skipped = True
        self.storage.put_scalar("lr", self.optimizer.param_groups[0]["lr"], smoothing_hint=False)
        self._advance_schedule()

    def _fetch(self) -> Batch:
        assert self._batches is not None, "open_data() comes before train()"
        start = time.perf_counter()
        batch = next(self._batches)
        self.between_steps = False
        self.storage.put_scalar("data_time", time.perf_counter() - start)
        return batch

    def _backward(self, batch: Batch) -> None:
        """Gradients of the losses of ``batch``, which are recorded before the last backward pass is queued."""
        parts = in_parts(batch, self.parts)
        means: dict[str, Tensor] = {}
        with of_one_batch(self.model, parts, self.precision):
            for number, part in enumerate(parts, start=1):
                last = number == len(parts)
                with self._exchange(last):
                    with self.precision.autocast():
                        losses = self.model(part)
                    if len(parts) > 1:
                        losses = {name: loss / len(parts) for name, loss in losses.items()}
                    for name, loss in losses.items():
                        means[name] = means[name] + loss.detach() if name in means else loss.detach()
                    if last:
                        self._record(means)
                    self.precision.backward(sum(losses.values()))

    def _exchange(self, last: bool) -> AbstractContextManager:
        """Gradients are averaged over processes once a step, in the backward pass of its last part."""
        return nullcontext() if last or not isinstance(self.model, DistributedDataParallel) else self.model.no_sync()

    def _update(self) -> bool:
        """Step with the gradients at hand; False if they overflowed in float16 and nothing was done."""
        if self.largest_norm is not None:
            self.precision.unscale(self.optimizer)
            limit, kind = self.largest_norm
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(parameters, limit, kind).item()
            if math.isfinite(norm):
                self.storage.put_scalar("gradient_norm", norm)
            elif self.precision.scale is None:  # else the scale is to blame, and the step is skipped
                raise NonFiniteLossError(self._what_to_do("gradient_norm", norm), "gradient_norm", norm)
        done = self.precision.step(self.optimizer)
        if self.precision.scale is not None:
            self.storage.put_scalars(
                gradient_scale=self.precision.scale, skipped_steps=self.precision.skipped, smoothing_hint=False
            )
        return done

    def _advance_schedule(self) -> None:
        """The learning rate is a function of the iteration: it goes on when a step was skipped, as the iteration does,
        so that a run ends at MAX_ITER with the rate it should have, and a resumed run has the rate of its iteration."""
        if not self.step_skipped:
            self.scheduler.step()
            return
        with warnings.catch_warnings():  # PyTorch warns if that happens to the first step
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def _record(self, losses: dict[str, Tensor]) -> None:
        """Put the losses, averaged over processes, into the storage; stop at one that is not finite.

        All values reach the host in one transfer, before backward is queued, so that the next forward can be
        queued while the GPU still works on this backward. A stop signal of any process travels with them.
        """
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        if self.non_finite.skips and finite_checks_noted(self.model):
            values = values * math.nan
        world = comm.get_world_size()
        if world > 1:
            flag = values.new_tensor([float(self._stop_requested is not None)])
            values = torch.cat([values / world, flag])
            dist.all_reduce(values)
        host = values.tolist()
        self.non_finite.settle(self.model)  # the last step's gradients: by now the GPU is through with them
        if world > 1 and host.pop():
            self.stop_signal = self._stop_requested or signal.SIGTERM
        numbers = dict(zip(losses, host, strict=True))
        for name, number in numbers.items():
            if not math.isfinite(number):
                settle_finite_checks(self.model)  # knows the tensor that went bad first, if the model watches itself
                raise NonFiniteLossError(self._what_to_do(name, number), name, number)
        self.storage.put_scalars(total_loss=sum(numbers.values()), **numbers)

    def _what_to_do(self, name: str, number: float) -> str:
        rate = self.optimizer.param_groups[0]["lr"]
        return (
            f"{name} is {number} at iteration {self.iter} (learning rate {rate:.3g}): lower SOLVER.BASE_LR "
            "(in proportion to SOLVER.IMS_PER_BATCH), raise SOLVER.WARMUP_ITERS or set "
            "SOLVER.CLIP_GRADIENTS.ENABLED True; at iteration 0 look at MODEL.WEIGHTS and the boxes"
        )

    def _set_random_state(self) -> None:
        rank = comm.get_rank()
        if len(self._random_states) == comm.get_world_size():
            restore_random_state(self._random_states[rank])
            return
        if self._random_states:
            _logger.warning("The checkpoint is of another number of processes: what is drawn at random differs")
        seed_random_state(self.seed + rank)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the loop besides the weights. Every process must call this.

        Raises:
            NonFiniteLossError: the last step had a bad gradient, so the weights must not be saved.
        """
        self.non_finite.settle(self.model)
        history = {name: buffer.values()[-HISTORY:] for name, buffer in self.storage.histories().items()}
        return {
            **super().state_dict(),
            "seed": self.seed,
            "random_states": gather_from_all(capture_random_state()),
            "history": history,
            "precision": self.precision.state_dict(),
            "non_finite": self.non_finite.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the random states come into force in :meth:`train`."""
        super().load_state_dict(state_dict)
        self.seed = state_dict.get("seed", self.seed)  # detectron2's own trainer keeps none of these
        self._random_states = state_dict.get("random_states", [])
        self._history = state_dict.get("history", {})
        if "precision" in state_dict:  # not in checkpoints of before it was an option
            self.precision.load_state_dict(state_dict["precision"])
        if "non_finite" in state_dict:
            self.non_finite.load_state_dict(state_dict["non_finite"])


def _chain(first: list[dict[str, Any]], rest: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    yield first
    yield from rest
