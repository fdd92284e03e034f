"""Checkpoints that a kill cannot damage and that say in one line what of a file went into the model."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..errors import UserError
from ..weights import SafeCheckpointer
from .atomic_file import write_atomically, write_text_atomically
from .last_checkpoint import (
    LAST_CHECKPOINT,
    begin_run,
    has_checkpoint,
    last_checkpoint,
    name_run,
    numbered_checkpoints,
    run_of,
)
from .manifest import manifest_of, read_manifest, write_manifest

__all__ = ["TrainingCheckpointer"]


class TrainingCheckpointer(SafeCheckpointer):
    """detectron2's checkpointer (same files, same names) with atomic writes and user-readable errors.

    A checkpoint is a dict of tensors and plain types: ``model``, one entry a checkpointable (``optimizer``,
    ``scheduler``, ``trainer``, ...) and ``iteration``, the last one done. Its manifest lies beside it (see
    :mod:`.manifest`). ``last_checkpoint`` names the newest file; it is renamed into place after that one, so it never
    names a file that is not complete.

    Attributes:
        strict: ImageNet weights must fit the whole body of the model (MODEL.WEIGHTS_STRICT).
        kept: that many numbered checkpoints are kept, the newest ones; 0 for all (SOLVER.CHECKPOINTS_KEPT).
        config_sha256: of the run's config, for the manifests.
    """

    strict: bool = True
    kept: int = 0
    config_sha256: str = ""
    _run: str = ""
    _resumed_from: Path | None = None

    def configure(self, cfg: CfgNode) -> None:
        """Take the attributes from the config of a run."""
        self.strict, self.kept = cfg.MODEL.WEIGHTS_STRICT, cfg.SOLVER.CHECKPOINTS_KEPT
        self.config_sha256 = hashlib.sha256(cfg.dump().encode()).hexdigest()

    def begin_run(self, *, resume: bool) -> None:
        """Tell a run from an earlier one in the same folder. For the main process, once the folder is there."""
        self._run = begin_run(Path(self.save_dir), resume=resume)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and point ``last_checkpoint`` to it.

        Every process must call this: the state of a checkpointable may be gathered from all of them. Only the
        main process writes. A folder that was removed during the run is made again.

        Raises:
            UserError: the disk is full or the folder cannot be written; the previous checkpoint is still whole. Or the
                folder had been removed; the checkpoint is saved.
        """
        state = {key: item.state_dict() for key, item in self.checkpointables.items()}
        if not self.save_dir or not self.save_to_disk:
            return
        folder = Path(self.save_dir)
        removed = bool(self._run) and not run_of(folder)  # others may have made it again, to write into it
        if removed:
            with contextlib.suppress(OSError):  # the write says it better
                folder.mkdir(parents=True, exist_ok=True)
            name_run(folder, self._run)
        file = folder / f"{name}.pth"
        data = {"model": self.model.state_dict(), **state, **kwargs}
        with contextlib.suppress(OSError):  # of another file of this name: it must not outlive that one
            manifest_of(file).unlink()
        written = write_atomically(file, lambda stream: torch.save(data, stream))
        iteration = int(kwargs.get("iteration", -1))
        origin = {"run": self._run, "config_sha256": self.config_sha256}
        write_manifest(file, written, iteration=iteration, entries=data, **origin)
        self.tag_last_checkpoint(file.name)
        self.logger.info("Saved checkpoint %s", file)
        if removed:
            raise UserError(
                f"OUTPUT_DIR {folder} was removed during the run: it is there again, with {file.name} but without the "
                "earlier checkpoints, log and metrics; go on with --resume"
            )
        self._remove_old_ones(file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` to a file of ``save_dir``."""
        write_text_atomically(Path(self.save_dir) / LAST_CHECKPOINT, last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether there is anything to resume from, whole or not."""
        return has_checkpoint(self.save_dir)

    def get_checkpoint_file(self) -> str:
        """The newest whole checkpoint of the run, '' if it has none. Collective.

        Raises:
            UserError: all of them are damaged.
        """
        found = last_checkpoint(self.save_dir)
        return str(found) if found else ""

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With ``resume``, load everything from the newest whole checkpoint, if there is one; otherwise the weights
        of ``path`` alone ('' for none). Returns what else the file holds, such as ``iteration``.

        Raises:
            UserError: the file cannot be read, nothing in it fits the model, or it is for another body; all
                checkpoints are damaged.
        """
        last = self.get_checkpoint_file() if resume else ""
        if not last:
            return self.load(path, [])
        self._resumed_from = Path(last)
        manifest = read_manifest(self._resumed_from)
        if manifest and self.config_sha256 and manifest.config_sha256 not in ("", self.config_sha256):
            self.logger.info("The config was changed since %s was saved: the new one holds", last)
        return self.load(last)

    def _remove_old_ones(self, newest: Path) -> None:
        if self.kept <= 0:
            return
        for file in numbered_checkpoints(newest.parent)[: -self.kept]:
            if file in (newest, self._resumed_from):
                continue
            try:
                file.unlink()
                manifest_of(file).unlink(missing_ok=True)
            except OSError as error:
                self.logger.warning("The old checkpoint %s cannot be removed: %s", file, error.strerror)

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
