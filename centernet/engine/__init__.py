"""The training loop, its hooks, checkpoints that survive a kill, and the start of one or many processes."""

from .atomic_file import write_atomically, write_text_atomically
from .checkpoint import TrainingCheckpointer
from .hooks import Evaluation, MetricWriter, StopOnSignal
from .launch import run
from .process_group import one_voice, taking_turns
from .progress_bar import ProgressBar
from .train import check_run, evaluate, train
from .trainer import NonFiniteLossError, Trainer

__all__ = [
    "Evaluation",
    "MetricWriter",
    "NonFiniteLossError",
    "ProgressBar",
    "StopOnSignal",
    "Trainer",
    "TrainingCheckpointer",
    "check_run",
    "evaluate",
    "one_voice",
    "run",
    "taking_turns",
    "train",
    "write_atomically",
    "write_text_atomically",
]
