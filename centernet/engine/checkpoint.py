"""Checkpoints that a kill cannot damage and that say in one line what of a file went into the model."""

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..weights import SafeCheckpointer
from .atomic_file import write_atomically, write_text_atomically

__all__ = ["TrainingCheckpointer"]


class TrainingCheckpointer(SafeCheckpointer):
    """detectron2's checkpointer (same files, same names) with atomic writes and user-readable errors.

    ``strict``: ImageNet weights must fit the whole body of the model (MODEL.WEIGHTS_STRICT).

    A checkpoint is a dict of tensors and plain types: ``model``, one entry a checkpointable (``optimizer``,
    ``scheduler``, ``trainer``) and ``iteration``, the last one done. ``last_checkpoint`` names the newest
    file; it is renamed into place after that one, so it never names a file that is not complete.
    """

    strict: bool = True

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
            UserError: the file cannot be read, nothing in it fits the model, or it is for another body.
        """
        if resume and self.has_checkpoint():
            last = self.get_checkpoint_file()
            if not os.path.isfile(last):
                tag = os.path.join(self.save_dir, "last_checkpoint")
                raise UserError(f"{tag} names {last}, which does not exist; write the name of another one into it")
            return self.load(last)
        return self.load(path, [])

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """One line with counts instead of a page of names. Nothing loaded at all is an error."""
        super()._log_incompatible_keys(incompatible)
        fit = self.fit
        assert fit is not None
        if not fit.loaded:
            raise UserError(
                f"MODEL.WEIGHTS does not fit this model at all: none of its {len(fit.unexpected) + len(fit.misshapen)} "
                f"entries is one of the model's {fit.total} ({fit.differences()}); give the weights of this config, or "
                "'' to start from random ones"
            )
        if fit.body and self.strict and (differences := fit.of_body().differences()):
            raise UserError(
                f"MODEL.WEIGHTS is for another body than this model's {fit.body}* ({differences}); give those of this "
                "depth and kind, or set MODEL.WEIGHTS_STRICT False to take what fits"
            )
        parts = [f"{fit.loaded} of the model's {fit.total} entries loaded"]
        gaps = fit.gaps()
        if gaps:
            parts.append(f"{gaps}: these stay as initialised")
        if fit.unexpected:
            parts.append(f"{len(fit.unexpected)} of the file are not used")
        self.logger.info("Weights: %s", "; ".join(parts))
        if not fit.body and (differences := fit.differences()):
            self.logger.info("Weights that differ: %s", differences)
