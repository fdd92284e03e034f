"""The best weights so far by a figure of the evaluation, and the end of a training that gets no better."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor

from ..errors import UserError
from .atomic_file import write_atomically
from .checkpoint import TrainingCheckpointer
from .hooks import Evaluation
from .processes import from_main_process
from .task import metric_names
from .validation_loss import PREFIX

__all__ = ["BEST_FILE", "BestCheckpoint", "BestSoFar", "check_best_metric"]

BEST_FILE = "model_best.pth"
_EMA = "ema/"
_logger = logging.getLogger(__name__)


class BestSoFar:
    """What :class:`BestCheckpoint` knows; a part of every checkpoint, so a resumed run decides as the uninterrupted one
    would have.

    Attributes:
        metric: name of the figure; the smallest is best if it is a validation loss, else the largest.
        value, iteration: of the best evaluation so far; None, -1 before the first.
        without_better: evaluations since.
        considered: iterations that were done when the last figure that counted was measured.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.value: float | None = None
        self.iteration, self.without_better, self.considered = -1, 0, -1

    def is_better(self, value: float) -> bool:
        """Whether ``value`` is better than all before."""
        if self.value is None:
            return True
        return value < self.value if self.metric.startswith(PREFIX) else value > self.value

    def take(self, value: float, done: int) -> None:
        """``value``, the best, was measured when ``done`` iterations were done."""
        self.value, self.iteration, self.without_better, self.considered = value, done - 1, 0, done

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; from the beginning if that was about another figure."""
        if state_dict["metric"] != self.metric:
            _logger.warning(
                "TEST.BEST_METRIC was %s and is %s: the search for the best begins anew",
                state_dict["metric"],
                self.metric,
            )
            return
        vars(self).update({name: state_dict[name] for name in vars(self)})


class BestCheckpoint(HookBase):
    """Keeps the weights with the best figure in ``model_best.pth``; may end the training when it stays the same.

    The file has ``model`` (the averaged weights if the figure is theirs), ``iteration`` and ``best``: the figure's name
    and value. To be registered after :class:`Evaluation` and the writers, before the hook that saves checkpoints.

    Attributes:
        so_far: what it knows. Not the hook's own state, which detectron2's trainer would keep once more.
    """

    def __init__(
        self,
        metric: str,
        evaluation: Evaluation,
        checkpointer: TrainingCheckpointer,
        weights: Callable[[], dict[str, Tensor]],
        *,
        patience: int = 0,
    ) -> None:
        """
        Args:
            metric: a name that ``evaluation`` gives.
            weights: what to save, with the model's names.
            patience: evaluations without a better figure after which to stop; 0: never.
        """
        self.so_far = BestSoFar(metric)
        self._evaluation, self._patience = evaluation, patience
        self._checkpointer, self._weights = checkpointer, weights

    @property
    def is_over(self) -> bool:
        """Whether nothing got better for as long as one is willing to wait."""
        return 0 < self._patience <= self.so_far.without_better

    @property
    def reason(self) -> str:
        """Why it is over."""
        return (
            f"{self.so_far.metric} got no better in {self.so_far.without_better} evaluations (TEST.EARLY_STOPPING "
            f"{self._patience}); {self.summary}"
        )

    @property
    def summary(self) -> str:
        """The best so far, for people."""
        best = self.so_far
        return "no value yet" if best.value is None else f"best {best.value:.4g} after iteration {best.iteration}"

    def before_train(self) -> None:
        """Count the last evaluation of an earlier start, which came after its last checkpoint."""
        saved = from_main_process(self._saved())
        if saved is None or not self.so_far.considered < saved[1] <= self.trainer.start_iter:
            return
        if self.so_far.is_better(saved[0]):
            self.so_far.take(*saved)

    def after_step(self) -> None:
        if self._evaluation.evaluated_at != self.trainer.iter + 1:
            return
        self._consider()
        if self.is_over and self.trainer.iter + 1 < self.trainer.max_iter:
            _logger.info("Stopping early: %s", self.reason)
            self.trainer.ends_here = True
            self._checkpointer.save("model_final", iteration=self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter and self._evaluation.evaluated_at is not None:
            self._consider()

    def _consider(self) -> None:
        done = self._evaluation.evaluated_at
        best = self.so_far
        if done is None or done == best.considered:
            return
        best.considered = done
        value = self._evaluation.scalars.get(best.metric)
        if value is None:
            self._check_loss_exists()
            _logger.warning(
                "TEST.BEST_METRIC: %s is not defined in this evaluation, which gives %s",
                best.metric,
                ", ".join(self._evaluation.scalars) or "nothing",
            )
        if value is None or not best.is_better(value):
            best.without_better += 1
            return
        best.take(value, done)
        if comm.is_main_process():
            self._save()

    def _check_loss_exists(self) -> None:
        """Only the model knows the names of its losses, so a wrong one shows at the first evaluation."""
        losses = [f"{PREFIX}{name}" for name in self.trainer.storage.histories() if name.startswith("loss")]
        if self.so_far.metric.startswith(f"{PREFIX}loss") and self.so_far.metric not in losses:
            raise UserError(f"TEST.BEST_METRIC is '{self.so_far.metric}', but the losses are {', '.join(losses)}")

    def _save(self) -> None:
        metric, value = self.so_far.metric, self.so_far.value
        best = {"metric": metric, "value": value}
        data = {"model": self._weights(), "iteration": self.so_far.iteration, "best": best}
        write_atomically(Path(self._checkpointer.save_dir) / BEST_FILE, lambda stream: torch.save(data, stream))
        _logger.info("%s: %.4g is the best so far; saved in %s", metric, value, BEST_FILE)

    def _saved(self) -> tuple[float, int] | None:
        """Figure, and iterations that were done, of this run's ``model_best.pth``; None without one for this metric."""
        if not comm.is_main_process():
            return None
        try:
            data = torch.load(Path(self._checkpointer.save_dir) / BEST_FILE, map_location="cpu", weights_only=True)
            best, iteration = data["best"], int(data["iteration"])
            return (float(best["value"]), iteration + 1) if best["metric"] == self.so_far.metric else None
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError):
            return None  # there is none, or not one of ours


def check_best_metric(cfg: CfgNode) -> None:
    """Refuse what TEST.BEST_METRIC, TEST.EARLY_STOPPING and TEST.VALIDATION_LOSS cannot be.

    Raises:
        UserError: an unknown figure, patience without figure or evaluations, nothing to evaluate on.
    """
    metric, patience = cfg.TEST.BEST_METRIC, cfg.TEST.EARLY_STOPPING
    for key in ("BEST_METRIC", "EARLY_STOPPING", "VALIDATION_LOSS"):
        if cfg.TEST[key] and not cfg.DATASETS.TEST:
            raise UserError(f"TEST.{key} is set and DATASETS.TEST is empty: name the datasets to evaluate on")
    if patience < 0:
        raise UserError(f"TEST.EARLY_STOPPING is {patience}: give a number of evaluations, or 0 to train to the end")
    if patience and not (metric and cfg.TEST.EVAL_PERIOD > 0):
        raise UserError(
            "TEST.EARLY_STOPPING needs TEST.BEST_METRIC, such as bbox/AP, and evaluations on the way (TEST.EVAL_PERIOD)"
        )
    if metric:
        _check_name(cfg, metric)


def _check_name(cfg: CfgNode, metric: str) -> None:
    averaged = cfg.SOLVER.EMA.ENABLED
    name = metric.removeprefix(_EMA) if averaged else metric
    names = metric_names(cfg)
    losses = [f"{PREFIX}total_loss"] if cfg.TEST.VALIDATION_LOSS else []
    if name in names or metric in losses or (losses and metric.startswith(f"{PREFIX}loss_")):
        return
    classes = [each for each in names if "/AP-" in each]
    there = [each for each in names if each not in classes] + classes[:1] + losses
    more = f" (and so on for each of {len(classes)} classes)" if len(classes) > 1 else ""
    with_average = ", each also as ema/..." if averaged else ""
    raise UserError(f"TEST.BEST_METRIC is '{metric}', but the evaluation gives {', '.join(there)}{more}{with_average}")
