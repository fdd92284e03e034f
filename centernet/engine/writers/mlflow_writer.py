"""MLflow (https://mlflow.org). Its environment variables say where to: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

import os
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from ...errors import UserError
from .remote import RemoteWriter, flat_config

__all__ = ["MLflowWriter"]

_LONGEST_VALUE = 500  # characters of a parameter, the smallest limit of its stores
_PARAMETERS_AT_ONCE = 100


class MLflowWriter(RemoteWriter):
    """One MLflow run for one run folder. Needs the package ``mlflow``."""

    service, id_file = "MLflow", "mlflow.id"

    def __init__(self, folder: Path, cfg: CfgNode) -> None:
        """
        Args:
            folder: of the run; its name becomes the run's.
            cfg: its keys become the parameters of a run that is new.

        Raises:
            UserError: the tracking store refuses or cannot be reached.
        """
        from mlflow import MlflowClient

        super().__init__(folder)
        try:
            self._client = MlflowClient()
            run_id = self.read_id()
            if run_id is None:
                run_id = self._start(folder, cfg)
            else:
                self._client.update_run(run_id, "RUNNING")
            self._run_id = run_id
            self._sent = self._last_step()
        except Exception as error:  # of a store that is not ours; classes differ between versions
            raise UserError(
                f"WRITERS: MLflow does not start ({textwrap.shorten(str(error), 280)}); look at MLFLOW_TRACKING_URI "
                f"and {self.id_file} of the run folder, or leave mlflow out of WRITERS"
            ) from error

    def _start(self, folder: Path, cfg: CfgNode) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "centernet2")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run_id = str(self._client.create_run(number, run_name=folder.name).info.run_id)
        self.keep_id(run_id)
        parameters = [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in flat_config(cfg).items()]
        for first in range(0, len(parameters), _PARAMETERS_AT_ONCE):
            self._client.log_batch(run_id, params=parameters[first : first + _PARAMETERS_AT_ONCE])
        return run_id

    def _last_step(self) -> int:
        """The last iteration that the run has: what a resumed run repeats is the same and is not sent again."""
        return max((metric.step for metric in self._client.get_metric_history(self._run_id, "lr")), default=-1)

    def send(self, iteration: int, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        from mlflow.entities import Metric

        if iteration <= self._sent:
            return
        now = int(1000 * time.time())
        # MLflow allows no '@' and the like in names
        metrics = [Metric(_allowed(name), value, now, iteration) for name, value in scalars.items()]
        self._client.log_batch(self._run_id, metrics=metrics)
        for name, picture in pictures.items():
            self._client.log_image(self._run_id, picture, key=_allowed(name), step=iteration)

    def finish(self) -> None:
        """Mark the run as ended there."""
        self._client.set_terminated(self._run_id)


def _allowed(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-./ " else "_" for letter in name)
