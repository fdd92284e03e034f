"""From a config to a trained or an evaluated model. What can be wrong is found before anything is written."""

import logging
import shlex
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from torch import nn

from .. import data
from ..config_file import check_weights
from ..errors import UserError, writing
from ..modeling.build import build_detector
from ..modeling.compiled import one_sentence
from ..weights import Fit, follow_weights
from .best_checkpoint import check_best_metric
from .checkpoint import TrainingCheckpointer
from .ema import check_average, weight_average
from .faults import check_limits, explained_faults, saved_where_it_is
from .last_checkpoint import has_checkpoint, last_checkpoint
from .logs import run_log
from .memory import kept_memory
from .observers import Observers
from .optimizer import OptimizerState, build_optimizer, check_optimizer
from .preparation import check_preparation, prepare_for_training
from .processes import from_main_process, new_seed, parallel
from .random_state import seed_random_state
from .run_folder import prepare_run_folder, read_seed
from .run_record import recorded_run
from .scaling import scale_to_processes
from .schedule import check_schedule, move_schedule
from .step import check_step, step_options
from .task import build_train_loader, check_task, evaluate_model
from .trainer import Trainer
from .writers import build_writers, check_writers

__all__ = ["check_run", "evaluate", "train"]

_logger = logging.getLogger(__name__)


def check_run(cfg: CfgNode, *, eval_only: bool = False, resume: bool = False, processes: int = 1) -> None:
    """Raise :class:`UserError` for what can be known to be wrong before a model is built.

    That is: MODEL.WEIGHTS, the datasets, their number of classes and how they are scored, the batch size for
    ``processes``, keys of detectron2 that this trainer cannot follow. Keys that it ignores are warned of.
    """
    cfg = scale_to_processes(cfg, processes)
    resumed = resume and has_checkpoint(cfg.OUTPUT_DIR)
    if not resumed:  # else MODEL.WEIGHTS is not read
        check_weights(cfg)
    names = [*(() if eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST]
    if not eval_only and not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name the datasets to train on")
    if eval_only and not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty: name the datasets to evaluate on")
    if eval_only and not cfg.MODEL.WEIGHTS and not resumed:
        raise UserError("--eval-only needs trained weights: give MODEL.WEIGHTS, or --resume for OUTPUT_DIR's last ones")
    batch = cfg.SOLVER.IMS_PER_BATCH
    if batch < 1 or batch % processes:
        raise UserError(f"SOLVER.IMS_PER_BATCH is {batch}, not a positive multiple of the {processes} processes")
    if not eval_only:
        check_schedule(cfg)
        check_step(cfg, processes)
        check_optimizer(cfg)
        check_average(cfg)
        check_preparation(cfg)
        check_limits(cfg)
    check_task(cfg, names, eval_only=eval_only)
    if not eval_only:
        check_best_metric(cfg)
        check_writers(cfg)
    _check_ignored_keys(cfg, eval_only=eval_only)


def _check_ignored_keys(cfg: CfgNode, *, eval_only: bool) -> None:
    """Refuse, or warn of, what detectron2's trainer would do and this one does not."""
    ignored = []
    if not eval_only and cfg.TEST.PRECISE_BN.ENABLED:
        ignored.append("TEST.PRECISE_BN.ENABLED")
    if cfg.TEST.EXPECTED_RESULTS:
        ignored.append("TEST.EXPECTED_RESULTS")
    for key in ignored:
        _logger.warning("%s is set, but not part of this trainer: it has no effect", key)


def train(cfg: CfgNode, *, resume: bool = False) -> OrderedDict[str, Any]:
    """Train the model of ``cfg`` and evaluate it at the end; called by every process.

    With ``resume`` the run in ``cfg.OUTPUT_DIR`` goes on exactly where its last checkpoint left it, or from
    the start, identically, if it has none. Without, it starts at the iteration after that of the weights
    file (0 if it carries none, or with SOLVER.RESET_ITER).

    Returns:
        Results of the last evaluation, empty if DATASETS.TEST is.

    Raises:
        UserError: anything the user can mend; before OUTPUT_DIR is made, unless it happens in the loop.
        SystemExit: 143 after SIGTERM, 130 after SIGINT, with a checkpoint saved.
    """
    folder = Path(cfg.OUTPUT_DIR)
    bar = comm.is_main_process() and sys.stderr.isatty()
    with run_log(metric_lines=not bar) as log, explained_faults(cfg), kept_memory(cfg.MODEL.DEVICE):
        cfg = scale_to_processes(cfg, comm.get_world_size())
        cfg = follow_weights(cfg, _weights(cfg, resume=resume))
        seed = _seed(cfg, folder if resume else None)
        seed_random_state(seed)  # the same initial weights on every process
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        model = build_detector(cfg)
        compiled = prepare_for_training(cfg, model)
        optimizer = build_optimizer(cfg, model)
        scheduler = build_lr_scheduler(cfg, optimizer)
        trainer = Trainer(parallel(model), optimizer, scheduler, seed=seed, **step_options(cfg))
        checkpointer = TrainingCheckpointer(
            trainer.model, str(folder), optimizer=OptimizerState(optimizer), scheduler=scheduler, trainer=trainer
        )
        checkpointer.configure(cfg)
        average = weight_average(cfg, model)
        if average is not None:
            checkpointer.add_checkpointable("ema", average)
        bad_images = data.BadImages(cfg.DATALOADER.BAD_IMAGE_LIMIT)
        checkpointer.add_checkpointable("bad_images", bad_images)
        observers = Observers(cfg, trainer, checkpointer, average)
        start_iter, max_iter = _load(cfg, checkpointer, resume=resume)
        max_iter = observers.end(start_iter, max_iter)
        if start_iter < max_iter:
            trainer.open_data(
                build_train_loader(cfg, start_iteration=start_iter, seed=trainer.seed, bad_images=bad_images)
            )
        if comm.is_main_process():
            prepare_run_folder(folder, cfg, resume=resume, start_iter=start_iter, seed=trainer.seed)
            checkpointer.begin_run(resume=resume)
        comm.synchronize()
        bad_images.open(folder)
        log.open_file(folder)
        _describe(cfg, model)
        with recorded_run(folder, cfg, first=start_iter, end=max_iter, seed=trainer.seed) as record:
            writers = build_writers(cfg, folder, start_iter, max_iter) if comm.is_main_process() else []
            trainer.register_hooks(observers.hooks(writers, bar=bar))
            with saved_where_it_is(trainer, checkpointer), one_sentence():
                trainer.train(start_iter, max_iter)
            observers.report(record)
        if compiled is not None:
            _logger.info("MODEL.COMPILE: %s", compiled.summary())
        _logger.info("Finished: %s holds model_final.pth, metrics.json and log.txt", folder)
    return observers.results


def _describe(cfg: CfgNode, model: nn.Module) -> None:
    """What a colleague needs to repeat the run, for log.txt."""
    _logger.debug("Command: %s", shlex.join(sys.argv))
    _logger.debug("Environment:\n%s", collect_env_info())
    _logger.debug("Config:\n%s", cfg.dump())
    _logger.debug("Model:\n%s", model)


def evaluate(cfg: CfgNode, *, resume: bool = False) -> OrderedDict[str, Any]:
    """Evaluate MODEL.WEIGHTS or, with ``resume``, OUTPUT_DIR's last checkpoint; called by every process.

    Raises:
        UserError: the weights cannot be read or leave a part of the model random; no dataset to score on.
    """
    with run_log(metric_lines=True) as log, explained_faults(cfg):
        cfg = follow_weights(cfg, _weights(cfg, resume=resume))
        model = build_detector(cfg)
        checkpointer = TrainingCheckpointer(model, cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        _check_whole(checkpointer.fit, strict=cfg.MODEL.WEIGHTS_STRICT)
        folder = Path(cfg.OUTPUT_DIR)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        log.open_file(folder)
        return evaluate_model(cfg, model)


def _weights(cfg: CfgNode, *, resume: bool) -> str:
    """The file that will be loaded: that of the run that goes on, else MODEL.WEIGHTS."""
    if resume and (last := last_checkpoint(cfg.OUTPUT_DIR)):
        return str(last)
    return str(cfg.MODEL.WEIGHTS)


def _check_whole(fit: Fit | None, *, strict: bool) -> None:
    """Refuse weights that leave a part of the model random and, if ``strict``, those of a larger model."""
    if fit and (gaps := fit.gaps()):
        raise UserError(
            f"the weights do not give the whole model: {gaps}; scores of a model that is partly random mean "
            f"nothing, so give trained weights of this config with MODEL.WEIGHTS ({fit.differences()})"
        )
    if fit and fit.unexpected and strict:
        raise UserError(
            f"the weights are of a larger model ({fit.differences()}); use the config they were trained with, or set "
            "MODEL.WEIGHTS_STRICT False to leave that out"
        )


def _seed(cfg: CfgNode, folder: Path | None) -> int:
    """The seed of the run in ``folder`` if there is one, else that of the config, else a new one."""
    seed = None if folder is None else from_main_process(read_seed(folder))
    if seed is None:
        return int(cfg.SEED) if cfg.SEED >= 0 else new_seed()
    if 0 <= cfg.SEED != seed:
        _logger.warning("SEED %d is not used: the run that is resumed has seed %d", cfg.SEED, seed)
    return seed


def _load(cfg: CfgNode, checkpointer: TrainingCheckpointer, *, resume: bool) -> tuple[int, int]:
    """Load what there is; return the first iteration and the one to stop before."""
    scheduler = checkpointer.checkpointables["scheduler"]
    extra = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    start_iter = int(extra.get("iteration", -1)) + 1
    resumed = resume and checkpointer.has_checkpoint()
    if cfg.SOLVER.RESET_ITER and not resumed:
        start_iter = 0
    max_iter = cfg.SOLVER.TRAIN_ITER if cfg.SOLVER.TRAIN_ITER >= 0 else cfg.SOLVER.MAX_ITER
    if start_iter and not resumed:
        if start_iter >= max_iter:
            raise UserError(
                f"MODEL.WEIGHTS is of iteration {start_iter - 1} and training ends at {max_iter}: nothing is "
                "left to train; set SOLVER.RESET_ITER True to start at 0 from these weights"
            )
        _logger.info("MODEL.WEIGHTS is of iteration %d: training starts at %d", start_iter - 1, start_iter)
    if 0 < start_iter < max_iter:
        move_schedule(scheduler, start_iter)
    return start_iter, max(start_iter, max_iter)
