"""Writing to a tracking service: the same run after a resume, and no failure of the service ends a training."""

import logging
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from detectron2.utils.logger import log_every_n_seconds

from ..atomic_file import write_text_atomically
from ..random_state import keep_random_state

__all__ = ["RemoteWriter", "flat_config"]

_WINDOW = 20  # iterations that are smoothed over, as in metrics.json


class RemoteWriter(EventWriter):
    """Sends what detectron2's event storage has got since the last time.

    Attributes:
        service: its name, for people.
        id_file: in the run folder; holds the service's id of the run.
    """

    service: str
    id_file: str

    def __init__(self, folder: Path) -> None:
        self._id_path = folder / self.id_file
        self._last = -1  # iteration

    def read_id(self) -> str | None:
        """The service's id of the run that goes on, if there is one."""
        return self._id_path.read_text("utf-8").strip() if self._id_path.is_file() else None

    def keep_id(self, run_id: str) -> None:
        """Write it into the run folder, for a resume."""
        write_text_atomically(self._id_path, run_id + "\n")

    @abstractmethod
    def send(self, iteration: int, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        """Send what belongs to an iteration; pictures are uint8 ``[H, W, 3]``, RGB."""

    @abstractmethod
    def finish(self) -> None:
        """Tell the service that this is all."""

    def write(self) -> None:
        """Send all that is new. What the service refuses is lost there, not in metrics.json."""
        storage = get_event_storage()
        rows, pictures = self._new_scalars(storage), _pictures(storage)
        with self._never_fatal():
            for iteration in sorted({*rows, *pictures}):
                self.send(iteration, rows.get(iteration, {}), pictures.get(iteration, {}))

    def close(self) -> None:
        """End the run there."""
        with self._never_fatal():
            self.finish()

    @contextmanager
    def _never_fatal(self) -> Iterator[None]:
        try:
            with keep_random_state():  # a client may draw the time that it waits before it tries again
                yield
        except Exception as error:  # of somebody else's service: whatever it is, the training goes on
            message = f"{self.service} did not take the figures ({type(error).__name__}: {error}); training goes on"
            log_every_n_seconds(logging.WARNING, message, n=600, name=__name__)

    def _new_scalars(self, storage: EventStorage) -> dict[int, dict[str, float]]:
        rows: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last:
                rows[iteration][name] = value
        self._last = max(rows, default=self._last)
        return dict(rows)


def _pictures(storage: EventStorage) -> dict[int, dict[str, np.ndarray]]:
    # detectron2 has no public way to them; its TensorBoard writer reads the same list
    found: defaultdict[int, dict[str, np.ndarray]] = defaultdict(dict)
    for name, picture, iteration in storage._vis_data:
        found[iteration][name] = np.ascontiguousarray(np.asarray(picture).transpose(1, 2, 0))
    return dict(found)


def flat_config(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"SOLVER.BASE_LR": 0.01, ...}``; lists and tuples as text."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | bool | str) else str(value)
    return flat
