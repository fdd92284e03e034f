"""What watches a training: evaluation, pictures, writers, the best checkpoint, saving, the bar; and in which order."""

import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from .best_checkpoint import BestCheckpoint
from .checkpoint import TrainingCheckpointer
from .ema import AverageWeights, WeightAverage
from .hooks import Evaluation, MetricWriter, StopOnSignal
from .pictures import Pictures, without_own_pictures
from .processes import buffers_of_main_process, unwrapped
from .progress_bar import ProgressBar
from .run_record import RunRecord
from .task import evaluate_model
from .trainer import Trainer
from .validation_loss import ValidationLoss

__all__ = ["Observers"]

_logger = logging.getLogger(__name__)


class Observers:
    """The hooks that a config asks for.

    To be made before a checkpoint is loaded: what they must remember is then a part of it.

    Attributes:
        results: of the last evaluation, as :func:`centernet.evaluation.evaluate` returns them.
        evaluation, best: the hooks of that name, None if there is nothing to evaluate on or no figure to follow.
    """

    def __init__(
        self,
        cfg: CfgNode,
        trainer: Trainer,
        checkpointer: TrainingCheckpointer,
        average: WeightAverage | None = None,
    ) -> None:
        """
        Args:
            average: of the weights, evaluated beside them.

        Raises:
            UserError: a dataset that shall be looked at is missing or has no annotations.
        """
        self._cfg, self._trainer, self._checkpointer = cfg, trainer, checkpointer
        self._average = average
        self.results: OrderedDict[str, Any] = OrderedDict()
        self._was_over = False
        if cfg.VIS_PERIOD > 0:
            without_own_pictures(trainer.model)
        self._validation = ValidationLoss(cfg, trainer.model) if cfg.TEST.VALIDATION_LOSS else None
        self._pictures = Pictures(cfg, trainer.model) if _draws(cfg) else None
        self.evaluation = Evaluation(cfg.TEST.EVAL_PERIOD, self._evaluate) if cfg.DATASETS.TEST else None
        self.best: BestCheckpoint | None = None
        if cfg.TEST.BEST_METRIC and self.evaluation is not None:
            averaged = average is not None and cfg.TEST.BEST_METRIC.startswith("ema/")
            weights = average.model_state_dict if average and averaged else checkpointer.model.state_dict
            self.best = BestCheckpoint(
                cfg.TEST.BEST_METRIC, self.evaluation, checkpointer, weights, patience=cfg.TEST.EARLY_STOPPING
            )
            checkpointer.add_checkpointable("best", self.best.so_far)

    def end(self, start_iter: int, max_iter: int) -> int:
        """The iteration to stop before: ``start_iter`` if the run that goes on had been stopped early."""
        if self.best is None or not self.best.is_over:
            return max_iter
        self._was_over = True
        _logger.info("This run was stopped early: %s; raise TEST.EARLY_STOPPING to go on", self.best.reason)
        return start_iter

    def report(self, record: RunRecord | None) -> None:
        """Tell ``run.json`` what has come out."""
        if record is None:
            return
        if self.evaluation is not None and self.evaluation.scalars:
            overall = [f"{name} {value:.4g}" for name, value in self.evaluation.scalars.items() if "/AP-" not in name]
            record.figures.append(f"Last evaluation: {', '.join(overall)}.")
        if self.best is not None:
            record.figures.append(f"{self._cfg.TEST.BEST_METRIC}: {self.best.summary}.")
            early = self._was_over or self._trainer.ends_here  # not if its last evaluation is one too many
            record.outcome = f"stopped early: {self.best.reason}" if early and self.best.is_over else ""

    def hooks(self, writers: Sequence[EventWriter], *, bar: bool) -> list[Any]:
        """Evaluation, writing, saving, stopping, in this order.

        A checkpoint comes after the rows of its iteration are on the disk, so that none is missing after a kill, and
        after the verdict about them.
        """
        return [
            hooks.IterationTimer(),
            None if self._average is None else AverageWeights(self._average, Path(self._cfg.OUTPUT_DIR)),
            self.evaluation,
            self._pictures,
            MetricWriter(writers, self._cfg.TEST.EVAL_PERIOD),
            self.best,
            hooks.PeriodicCheckpointer(self._checkpointer, self._cfg.SOLVER.CHECKPOINT_PERIOD),
            ProgressBar() if bar else None,
            StopOnSignal(self._checkpointer),
        ]

    def _evaluate(self) -> dict[str, float]:
        model = unwrapped(self._trainer.model)
        self.results.clear()
        with buffers_of_main_process(model):
            self.results.update(evaluate_model(self._cfg, model))
            scalars = _scalars(self.results)
            if self._validation is not None:
                scalars |= _finite(self._validation.measure())
        if self._average is not None:
            scalars |= self._evaluate_average(self._average)
        return scalars

    def _evaluate_average(self, average: WeightAverage) -> dict[str, float]:
        """``ema/bbox/AP`` and the like; detections go to ``OUTPUT_DIR/ema``."""
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "ema")
        _logger.info("Evaluation of the averaged weights (SOLVER.EMA)")
        model = unwrapped(self._trainer.model)
        with average.applied(), buffers_of_main_process(model):
            results = evaluate_model(cfg, model)
        return {f"ema/{name}": value for name, value in _scalars(results).items()}


def _draws(cfg: CfgNode) -> bool:
    return cfg.VIS_PERIOD > 0 and len(cfg.WRITERS) > 0 and comm.is_main_process()


def _scalars(results: OrderedDict[str, Any]) -> dict[str, float]:
    """``bbox/AP: 40.2`` for the writers, with the dataset's name before it if there are several."""
    nested = next(iter(results.values())) if len(results) == 1 else results
    return _finite(flatten_results_dict(nested))


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
