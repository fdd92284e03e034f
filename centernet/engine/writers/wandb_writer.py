"""Weights & Biases (https://wandb.ai). Its own environment variables say where to: WANDB_PROJECT, WANDB_MODE, ..."""

import os
import secrets
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ...errors import UserError
from .remote import RemoteWriter, flat_config

__all__ = ["WandbWriter"]


class WandbWriter(RemoteWriter):
    """One W&B run for one run folder. Needs the package ``wandb``."""

    service, id_file = "Weights & Biases", "wandb.id"

    def __init__(self, folder: Path, cfg: CfgNode) -> None:
        """
        Args:
            folder: of the run; its name becomes the run's.
            cfg: shown with the run.

        Raises:
            UserError: W&B refuses to start.
        """
        import wandb

        super().__init__(folder)
        self._wandb = wandb
        run_id = self.read_id() or secrets.token_hex(4)
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "centernet2"),
                name=os.environ.get("WANDB_NAME", folder.name),
                id=run_id,
                resume="allow",
                dir=str(folder),
                config=flat_config(cfg),
                settings=wandb.Settings(console="off"),  # the log is ours
            )
        except Exception as error:  # refused, unreachable, not logged in: classes differ between versions
            raise UserError(
                f"WRITERS: W&B does not start ({textwrap.shorten(str(error), 280)}); log in with 'wandb login', "
                "set WANDB_MODE=offline, or leave wandb out of WRITERS"
            ) from error
        self.keep_id(run_id)

    def send(self, iteration: int, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        # rows that a resumed run repeats are the same as before, and W&B leaves them out
        shown = {name: self._wandb.Image(picture) for name, picture in pictures.items()}
        self._run.log({**scalars, **shown}, step=iteration)

    def finish(self) -> None:
        """Finish the run there."""
        self._run.finish()
