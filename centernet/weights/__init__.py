"""Weights: files of every published layout into tensors by name, safely, and a report of what of them fits."""

from . import sources  # noqa: F401  registers package:// and timm:// addresses
from .architecture import follow_weights
from .checkpointer import Fit, SafeCheckpointer
from .layouts import Match, match_names
from .reader import WeightsFile, fetch, read_weights

__all__ = ["Fit", "Match", "SafeCheckpointer", "WeightsFile", "fetch", "follow_weights", "match_names", "read_weights"]
