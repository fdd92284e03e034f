"""The training loop, its hooks, checkpoints that survive a kill, and the start of one or many processes.

- start: ``launch`` (one or many processes), ``process_group``, ``processes``, ``train`` (from a config to a run)
- a step: ``trainer``, ``step`` (its options), ``precision``, ``accumulation``, ``clipping``, ``non_finite``,
  ``batch_dump``
- what learns: ``optimizer``, ``schedule``, ``scaling`` (to another number of processes), ``preparation`` of the model,
  ``ema``
- around a step: ``observers`` (which hooks, in which order), ``hooks``, ``best_checkpoint``, ``validation_loss``,
  ``pictures``, ``progress_bar``, ``memory``, ``writers/``
- what lasts: ``checkpoint``, ``last_checkpoint`` (the newest whole one), ``manifest``, ``random_state``,
  ``run_folder``, ``run_record`` (``run.json``), ``logs``, ``atomic_file``, ``faults`` (what went wrong, in a
  sentence)
"""

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
