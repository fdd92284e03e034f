"""Reading files of weights: no code of a .pth runs, and what of the model a file does not give is known."""

import pickle
from typing import Any, NamedTuple

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from .errors import UserError

__all__ = ["UNREADABLE", "Fit", "SafeCheckpointer"]

# What reading something that holds no weights raises, somewhere in pickle, zip or fvcore, and what a failed
# download does (an OSError).
UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    AssertionError,
    AttributeError,
    TypeError,
)

# Entries that a file need not give: counters that PyTorch fills in, and constants of the config.
_OWN = ("num_batches_tracked", "pixel_mean", "pixel_std", "freq_weight", "fed_loss_cls_weights")

Shape = tuple[int, ...]


class Fit(NamedTuple):
    """What a file gave a model. Constants and counters that a file may lack are left out everywhere."""

    total: int  # entries of the model
    absent: list[str]  # entries that the file lacks
    misshapen: list[tuple[str, Shape, Shape]]  # name, shape in the file, shape in the model
    unused: int  # entries of the file that are not in the model

    @property
    def loaded(self) -> int:
        return self.total - len(self.absent) - len(self.misshapen)

    def gaps(self) -> str:
        """'3 of 90 entries missing (such as a.weight), 1 of another shape (such as ...)'; '' if none."""
        parts = []
        if self.absent:
            parts.append(f"{len(self.absent)} of the model's {self.total} entries missing (such as {self.absent[-1]})")
        if self.misshapen:
            name, in_file, in_model = self.misshapen[0]
            parts.append(f"{len(self.misshapen)} of another shape (such as {name}: {in_file} there, {in_model} here)")
        return ", ".join(parts)


class _SafeReading(Checkpointer):
    """The last step of detectron2's reading, for every format but pickles: tensors and plain types only."""

    def _load_file(self, f: str) -> dict[str, Any]:
        return torch.load(f, map_location="cpu", weights_only=True)


class SafeCheckpointer(DetectionCheckpointer, _SafeReading):
    """detectron2's checkpointer with user-readable errors; ``fit`` says what the last load gave the model."""

    fit: Fit | None = None  # None: nothing was loaded yet

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file; '' loads nothing.

        Raises:
            UserError: it cannot be fetched or read, or holds no weights.
        """
        try:
            return super().load(path, *args, **kwargs)
        except UNREADABLE as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            hint = "; fetch it by other means and give its path" if "://" in path else ""
            raise UserError(f"the weights file {path} cannot be read: {reason}{hint}") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            return super()._load_file(filename)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"the weights file {filename} cannot be read: it is damaged, or holds Python objects that only "
                "running code of the file could restore; save its tensors alone and load that"
            ) from error

    def _load_model(self, checkpoint: Any) -> Any:
        if not isinstance(checkpoint.get("model"), dict):
            raise UserError("the weights file holds no dict of tensors under 'model'")
        return super()._load_model(checkpoint)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Nothing is logged: who loads says what he makes of ``fit``."""
        self.fit = _fit(self.model, incompatible)


def _fit(model: nn.Module, incompatible: Any) -> Fit:
    # a module used in two places has two names for each tensor; one of them is enough
    state = model.state_dict(keep_vars=True)
    missing = set(incompatible.missing_keys)
    given = {id(tensor) for name, tensor in state.items() if name not in missing}
    needed = {name for name in state if name.rpartition(".")[2] not in _OWN}
    misshapen = [(name, tuple(a), tuple(b)) for name, a, b in incompatible.incorrect_shapes if name in needed]
    absent = [name for name in state if name in needed & missing and id(state[name]) not in given]
    wrong = {name for name, _, _ in misshapen}
    return Fit(
        total=len(needed),
        absent=sorted(name for name in absent if name not in wrong),
        misshapen=misshapen,
        unused=len(incompatible.unexpected_keys),
    )
