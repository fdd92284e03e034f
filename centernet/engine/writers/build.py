"""Writers by the names that the config key ``WRITERS`` gives them."""

import importlib.util
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

from ...errors import UserError
from ..run_folder import METRICS_FILE
from .mlflow_writer import MLflowWriter
from .wandb_writer import WandbWriter

__all__ = ["build_writers", "check_writers"]

_REMOTE = {"wandb": WandbWriter, "mlflow": MLflowWriter}


def check_writers(cfg: CfgNode) -> None:
    """Refuse unknown names and packages that are not installed.

    Raises:
        UserError: either of them.
    """
    known = ("tensorboard", *_REMOTE)
    for name in cfg.WRITERS:
        if name not in known:
            raise UserError(f"WRITERS names '{name}': use {', '.join(known)} (log and metrics.json are always written)")
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"WRITERS names '{name}', whose package is not installed: pip install {name}, or take it out of WRITERS"
            )


def build_writers(cfg: CfgNode, folder: Path, start_iter: int, max_iter: int) -> list[EventWriter]:
    """Writers of the main process; the log and metrics.json always, the others as ``WRITERS`` says.

    Args:
        folder: of the run.
        start_iter: TensorBoard is told to hide what an earlier process wrote for iterations that are done again.

    Raises:
        UserError: a service cannot be reached or refuses.
    """
    writers: list[EventWriter] = [CommonMetricPrinter(max_iter), JSONWriter(str(folder / METRICS_FILE))]
    writers += [_REMOTE[name](folder, cfg) for name in dict.fromkeys(cfg.WRITERS) if name in _REMOTE]
    if "tensorboard" in cfg.WRITERS:
        writers.append(TensorboardXWriter(str(folder), purge_step=start_iter))  # last: it takes the pictures away
    return writers
