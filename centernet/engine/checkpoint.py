"""Checkpoints that a kill cannot damage and that say in one line what of a file went into the model."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from ..errors import UserError
from .atomic_file import write_atomically, write_text_atomically

__all__ = ["TrainingCheckpointer"]

# What reading something that holds no weights raises, somewhere in pickle, zip or fvcore.
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
)


class _SafeReading(Checkpointer):
    """The last step of detectron2's reading, for every format but pickles: tensors and plain types only."""

    def _load_file(self, f: str) -> dict[str, Any]:
        return torch.load(f, map_location="cpu", weights_only=True)


class TrainingCheckpointer(DetectionCheckpointer, _SafeReading):
    """detectron2's checkpointer (same files, same names) with atomic writes and user-readable errors.

    A checkpoint is a dict of tensors and plain types: ``model``, one entry a checkpointable (``optimizer``,
    ``scheduler``, ``trainer``) and ``iteration``, the last one done. ``last_checkpoint`` names the newest
    file; it is renamed into place after that one, so it never names a file that is not complete.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and point ``last_checkpoint`` to it.

        Every process must call this: the state of a checkpointable may be gathered from all of them. Only the
        main process writes.

        Raises:
            UserError: the disk is full or the folder is gone; the previous checkpoint is still whole.
        """
        state = {key: item.state_dict() for key, item in self.checkpointables.items()}
        if not self.save_dir or not self.save_to_disk:
            return
        file = os.path.join(self.save_dir, f"{name}.pth")
        data = {"model": self.model.state_dict(), **state, **kwargs}
        write_atomically(file, lambda stream: torch.save(data, stream))
        self.tag_last_checkpoint(os.path.basename(file))
        self.logger.info("Saved checkpoint %s", file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` to a file of ``save_dir``."""
        write_text_atomically(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With ``resume``, load everything from the newest checkpoint, if there is one; otherwise the weights
        of ``path`` alone ('' for none). Returns what else the file holds, such as ``iteration``.

        Raises:
            UserError: the file cannot be read, or nothing in it fits the model.
        """
        if resume and self.has_checkpoint():
            last = self.get_checkpoint_file()
            if not os.path.isfile(last):
                tag = os.path.join(self.save_dir, "last_checkpoint")
                raise UserError(f"{tag} names {last}, which does not exist; write the name of another one into it")
            return self._load_with_errors(last, None)
        return self._load_with_errors(path, [])

    def _load_with_errors(self, path: str, checkpointables: list[str] | None) -> dict[str, Any]:
        try:
            return self.load(path, checkpointables)
        except (OSError, AssertionError, *_UNREADABLE) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            hint = "; fetch it by other means and give its path" if "://" in path else ""
            raise UserError(f"the weights file {path} cannot be loaded: {reason}{hint}") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            return super()._load_file(filename)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"the weights file {filename} is damaged, or holds Python objects that only running code "
                "of the file could restore; save its tensors alone and load that"
            ) from error

    def _load_model(self, checkpoint: Any) -> Any:
        if not isinstance(checkpoint.get("model"), dict):
            raise UserError("the weights file holds no dict of tensors under 'model'")
        return super()._load_model(checkpoint)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """One line with counts instead of a page of names. Nothing loaded at all is an error."""
        names = _entries_of(self.model)
        missing = [name for name in incompatible.missing_keys if name in names]
        loaded = len(names) - len(missing)
        if not loaded:
            other = len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes)
            raise UserError(
                f"MODEL.WEIGHTS does not fit this model at all: none of its {other} entries is one of the "
                f"model's {len(names)}; give the weights of this config, or '' to start from random ones"
            )
        parts = [f"{loaded} of the model's {len(names)} entries loaded"]
        shapes = incompatible.incorrect_shapes
        if missing:
            parts.append(f"{len(missing)} not in the file, or of another shape, stay as initialised")
        if shapes:
            name, in_file, in_model = shapes[0]
            parts.append(f"{len(shapes)} of another shape (such as {name}: {in_file} there, {in_model} here)")
        if incompatible.unexpected_keys:
            parts.append(f"{len(incompatible.unexpected_keys)} of the file are not used")
        self.logger.info("Weights: %s", "; ".join(parts))


def _entries_of(model: nn.Module) -> set[str]:
    """Names in the state dict, without constants of the config and counters that PyTorch itself fills in."""
    names = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    return names - {"pixel_mean", "pixel_std"}
