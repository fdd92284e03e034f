"""Training images that cannot be read: replaced, counted, named once, and too many of them stop the run.

A replacement is chosen by the seed and the position in the stream (see :class:`.mapper.MappedDataset`), so that it is
the same with any number of workers and after a resume.
"""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.utils import comm

from ..errors import UserError, writing

__all__ = ["BAD_IMAGES_FILE", "BadImage", "BadImages"]

BAD_IMAGES_FILE = "bad_images.jsonl"
_logger = logging.getLogger(__name__)


class BadImage(NamedTuple):
    """An image that was left out, and why, in a few words."""

    file: str
    reason: str


class BadImages:
    """The bad images of a run.

    With several processes each one knows those that it met itself and, from each checkpoint on, those of the others;
    the limit is compared with what a process knows.

    Attributes:
        limit: so many different ones are replaced (DATALOADER.BAD_IMAGE_LIMIT).
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._reasons: dict[str, str] = {}
        self._unwritten: list[BadImage] = []
        self._folder: Path | None = None

    def __len__(self) -> int:
        return len(self._reasons)

    def open(self, folder: Path) -> None:
        """Keep ``folder/bad_images.jsonl``: a line ``{"file", "reason"}`` for each image known so far and to come.

        Collective.

        Raises:
            UserError: the file cannot be written.
        """
        path = folder / BAD_IMAGES_FILE
        if comm.is_main_process():
            with writing(path):
                if self._reasons:
                    path.write_text("".join(map(_line, self._reasons.items())), "utf-8")
                else:
                    path.unlink(missing_ok=True)
            self._unwritten.clear()
        comm.synchronize()
        self._folder = folder
        for bad in self._unwritten:
            self._append(bad)
        self._unwritten.clear()

    def add(self, bad: BadImage) -> None:
        """Count an image.

        Raises:
            UserError: it is one too many; or the list cannot be written.
        """
        new = bad.file not in self._reasons
        if new:
            self._reasons[bad.file] = bad.reason
            self._append(bad)
        if len(self) > self.limit:
            raise UserError(self._too_many(bad))
        if new:
            _logger.warning(
                "Image %s cannot be read and is replaced by another one: %s (%d of at most %d)",
                bad.file, bad.reason, len(self), self.limit,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Names and reasons, of all processes. Collective."""
        for reasons in comm.all_gather(self._reasons):
            for file, reason in reasons.items():
                self._reasons.setdefault(file, reason)
        return {"reasons": dict(self._reasons)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._reasons = dict(state_dict["reasons"])

    def _append(self, bad: BadImage) -> None:
        if self._folder is None:
            self._unwritten.append(bad)
        else:
            path = self._folder / BAD_IMAGES_FILE
            with writing(path), open(path, "a", encoding="utf-8") as file:
                file.write(_line(bad))

    def _too_many(self, bad: BadImage) -> str:
        if not self.limit:
            sentence = f"cannot read image {bad.file}: {bad.reason}"
            advice = "mend or remove it, or let some be replaced by others with DATALOADER.BAD_IMAGE_LIMIT"
        else:
            sentence = (
                f"{len(self)} training images cannot be read, the last one {bad.file} ({bad.reason}), and "
                f"DATALOADER.BAD_IMAGE_LIMIT is {self.limit}"
            )
            advice = "mend or remove them, or raise the limit"
        listed = f" ({self._folder / BAD_IMAGES_FILE} lists them)" if self._folder and self.limit else ""
        return f"{sentence}; {advice}{listed}"


def _line(bad: tuple[str, str]) -> str:
    return json.dumps({"file": bad[0], "reason": bad[1]}, ensure_ascii=False) + "\n"
