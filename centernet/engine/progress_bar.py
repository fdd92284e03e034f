"""A training's progress bar: where it is, how fast, what it learns, and what it takes."""

from contextlib import ExitStack

from detectron2.engine import HookBase

from ..progress import Bar, progress
from .memory import peak_memory

__all__ = ["ProgressBar"]

_WINDOW = 20  # iterations that are smoothed over, as in the log


class ProgressBar(HookBase):
    """A bar on the terminal: iterations, seconds an iteration, time left; below it loss, learning rate, memory and the
    time that an iteration waits for data."""

    def before_train(self) -> None:
        self._open = ExitStack()
        self._bar: Bar = self._open.enter_context(
            progress("training", self.trainer.max_iter, unit="iteration", done=self.trainer.start_iter)
        )

    def after_step(self) -> None:
        if not self._bar.is_due:
            self._bar.advance()
            return
        known = self.trainer.storage.histories()
        rate, left = "", None
        if "time" in known:  # not in the first iterations, which are slower
            rate = f"{known['time'].median(_WINDOW):.3g} s/it"
            left = known["time"].median(1000) * (self.trainer.max_iter - self.trainer.iter - 1)
        notes = [f"loss {known['total_loss'].median(_WINDOW):.3f}"] if "total_loss" in known else []  # or steps skipped
        notes += [f"lr {known['lr'].latest():.3g}"]
        notes += [f"data {known['data_time'].avg(_WINDOW):.3f} s", f"memory {peak_memory() / 1e9:.2f} GB"]
        self._bar.advance(rate=rate, left=left, note="  ".join(notes))

    def after_train(self) -> None:
        self._open.close()
