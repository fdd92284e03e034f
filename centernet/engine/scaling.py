"""Linear scaling of a schedule to the number of processes ("ImageNet in 1 hour", arXiv 1706.02677)."""

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from ..errors import UserError

__all__ = ["scale_to_processes"]


def scale_to_processes(cfg: CfgNode, processes: int) -> CfgNode:
    """The config for ``processes``, if SOLVER.REFERENCE_WORLD_SIZE says that it is meant for another number of them.

    Done by detectron2, with one line in the log: batch size and learning rate grow in proportion, iterations (also
    warm-up, steps and periods) shrink. The images a process has at a step stay the same, whatever the
    SOLVER.GRADIENT_ACCUMULATION. TRAIN_ITER is scaled as well, and no period is rounded to zero.

    Args:
        cfg: is not changed.

    Returns:
        ``cfg`` itself if there is nothing to scale, else a changed copy, frozen if ``cfg`` is, whose
        REFERENCE_WORLD_SIZE is ``processes``: scaling it again changes nothing.

    Raises:
        UserError: REFERENCE_WORLD_SIZE is negative or does not divide SOLVER.IMS_PER_BATCH.
    """
    reference = cfg.SOLVER.get("REFERENCE_WORLD_SIZE", 0)
    batch = cfg.SOLVER.IMS_PER_BATCH
    if reference < 0 or (reference and batch % reference):
        raise UserError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}: it is the number of processes that SOLVER.IMS_PER_BATCH "
            f"({batch}) is meant for and must divide it; 0 scales nothing"
        )
    if reference in (0, processes):
        return cfg
    scaled = DefaultTrainer.auto_scale_workers(cfg, processes)
    frozen = scaled.is_frozen()
    scaled.defrost()
    if cfg.SOLVER.TRAIN_ITER > 0:
        scaled.SOLVER.TRAIN_ITER = max(1, round(cfg.SOLVER.TRAIN_ITER * reference / processes))
    scaled.SOLVER.CHECKPOINT_PERIOD = max(1, scaled.SOLVER.CHECKPOINT_PERIOD)
    if cfg.TEST.EVAL_PERIOD > 0:
        scaled.TEST.EVAL_PERIOD = max(1, scaled.TEST.EVAL_PERIOD)
    if frozen:
        scaled.freeze()
    return scaled
