"""Hooks of the training loop: evaluation, writing and stopping on a signal."""

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.utils.events import EventWriter

from ..errors import writing
from .checkpoint import TrainingCheckpointer
from .memory import peak_memory
from .random_state import keep_random_state

__all__ = ["Evaluation", "MetricWriter", "StopOnSignal"]

_logger = logging.getLogger(__name__)


class Evaluation(hooks.EvalHook):
    """Evaluate every ``period`` iterations (0: never) except after the last one, and once at the end.

    Attributes:
        scalars: what the last evaluation gave, the same on every process.
        evaluated_at: iterations that were done then; None before the first.
    """

    def __init__(self, period: int, evaluate: Callable[[], Mapping[str, float]]) -> None:
        """
        Args:
            period: iterations.
            evaluate: returns finite numbers by name, for the event storage. Called by every process.
        """
        self.scalars: Mapping[str, float] = {}
        self.evaluated_at: int | None = None

        def with_training_untouched() -> Mapping[str, float]:
            done = min(self.trainer.iter + 1, self.trainer.max_iter)
            if self.evaluated_at != done:  # the end after an early stop: this iteration has been evaluated
                with keep_random_state():
                    self.scalars = evaluate()
                for name in self.scalars:  # detectron2's line in the log has medians of 20 values
                    self.trainer.storage.histories().pop(name, None)
                self.evaluated_at = done
                self.trainer.model.train()
            return self.scalars

        super().__init__(period, with_training_untouched)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # not after an error or a signal
            super().after_train()


class MetricWriter(hooks.PeriodicWriter):
    """detectron2's writers every 20 iterations, after each evaluation and after the last iteration.

    To be registered after :class:`Evaluation` and whatever else gives figures or pictures. A run that a signal stops
    writes nothing more: the run that resumes it will, at the iterations at which the uninterrupted run would have.
    """

    def __init__(self, writers: Sequence[EventWriter], evaluation_period: int) -> None:
        super().__init__(writers, period=20)
        self._evaluation_period = evaluation_period

    def after_step(self) -> None:
        period, done = self._evaluation_period, self.trainer.iter + 1
        evaluated = period > 0 and done % period == 0
        if evaluated or done % self._period == 0 or done == self.trainer.max_iter:
            self.trainer.storage.put_scalar("memory_gb", peak_memory() / 1e9, smoothing_hint=False)
            for writer in self._writers:
                with _told(writer):
                    writer.write()
            self.trainer.storage.clear_images()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            for writer in self._writers:
                with _told(writer):
                    writer.write()
                    writer.close()
            return
        for writer in self._writers:
            with suppress(OSError):  # the run ends for a reason of its own, which may be that disk
                writer.close()


def _told(writer: EventWriter) -> AbstractContextManager[None]:
    return writing(f"What {type(writer).__name__} keeps of the metrics")


class StopOnSignal(HookBase):
    """On SIGTERM or SIGINT, save a checkpoint after the current iteration and exit with 128 + signal number.

    A second signal ends the process at once. To be registered last, so that the writers have had the
    iteration.
    """

    def __init__(self, checkpointer: TrainingCheckpointer) -> None:
        self._checkpointer = checkpointer
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._request_stop)

    def _request_stop(self, number: int, _frame: object) -> None:
        self._restore()
        self.trainer.request_stop(number)

    def after_step(self) -> None:
        number = self.trainer.stop_signal
        iteration = self.trainer.iter
        if iteration == self.trainer.max_iter - 1:
            self._restore()  # everything is saved; a signal during the last evaluation need not wait for it
        elif number is not None:
            self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            name = signal.Signals(number).name
            _logger.info("Stopped by %s after iteration %d; go on with --resume", name, iteration)
            raise SystemExit(128 + number)

    def after_train(self) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
