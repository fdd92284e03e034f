"""What happens when a visitor does something; knows nothing of the page's layout.

The model runs once for what a visitor brings. Threshold, heatmap and labels only filter and draw again.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError
from ..heatmap import draw_heatmap, first_stage_heatmap
from ..sources import SourceError
from ..visualize import resolve_metadata
from .drawing import draw_findings
from .findings import read_findings
from .markup import explain_score, sentence, table
from .models import ModelShelf
from .pictures import Shot, example_pictures, holds_video, read_uploads

__all__ = ["Detected", "PageActions", "View", "Visit"]

logger = logging.getLogger(__name__)

_OUR_DEFECT = "Something went wrong inside the program; its terminal says what. Other pictures may work."


@dataclass
class Visit:
    """What one visitor looks at: pictures, or frames of a video, with the detections of one model."""

    model: str = ""
    class_names: list[str] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    is_video: bool = False


class Detected(NamedTuple):
    """``visit`` and sentences about it, as HTML."""

    visit: Visit
    message: str


class View(NamedTuple):
    """A picture, drawn.

    Attributes:
        picture: uint8 ``[H, W, 3]`` RGB; None where there is nothing to see.
        title: its name.
        found: the table of detections, as HTML.
        message: what could not be shown, as HTML.
    """

    picture: np.ndarray | None = None
    title: str = ""
    found: str = ""
    message: str = ""


class PageActions:
    """The page's functions. They may run in several threads at once.

    Args:
        shelf: the models.
    """

    def __init__(self, shelf: ModelShelf) -> None:
        self.shelf = shelf

    def examples(self, model: str) -> list[tuple[np.ndarray, str]]:
        """Example pictures for a model, ``(uint8 RGB, title)``."""
        return [(pixels, title) for title, pixels in example_pictures(self._class_names(model))]

    def explain(self, model: str) -> str:
        """What the model's score means, as Markdown."""
        try:
            return explain_score(self.shelf.config(model))
        except UserError:  # said when the model is used
            return ""

    def detect_uploads(
        self, model: str, paths: Sequence[str], progress: Callable[[float, str], object] | None = None
    ) -> Detected:
        """Detections in uploaded pictures or a video. Pictures that cannot be read are named, the others are shown.

        Args:
            model: its name.
            paths: of the uploaded files.
            progress: called with a share in [0, 1] and words.
        """
        broken: list[str] = []

        def pictures() -> Any:
            uploads = read_uploads(paths)
            for number in range(uploads.count):
                try:
                    name, image = next(uploads.pictures)
                except StopIteration:
                    return
                except SourceError as error:
                    broken.append(str(error))
                    continue
                if progress is not None:
                    progress(number / uploads.count, name)
                yield name, image

        detected = self._detect(model, pictures, broken)
        detected.visit.is_video = holds_video(paths)
        return detected

    def detect_example(self, model: str, number: int) -> Detected:
        """Detections in one of the model's :meth:`examples`."""

        def pictures() -> Any:
            pixels, title = self.examples(model)[number]
            yield title, np.ascontiguousarray(pixels[:, :, ::-1])

        return self._detect(model, pictures, [])

    def _detect(self, model: str, pictures: Callable[[], Any], broken: list[str]) -> Detected:
        visit = Visit()
        try:
            predictor = self.shelf.get(model)
            visit = Visit(model, list(predictor.categories.names))
            start = time.perf_counter()
            for name, image in pictures():
                found = read_findings(predictor(image, channels="BGR"), predictor.cfg)
                visit.shots.append(Shot.of(name, image, found))
            seconds = time.perf_counter() - start
        except UserError as error:
            return Detected(Visit(), sentence(escape(_capital(str(error))), wrong=True))
        except Exception:
            logger.exception("the page failed")
            return Detected(Visit(), sentence(_OUR_DEFECT, wrong=True))
        message = "".join(sentence(escape(_capital(text)), wrong=True) for text in broken)
        if visit.shots:
            message += sentence(_summary(visit, seconds))
        return Detected(visit, message)

    def view(self, visit: Visit, number: int, threshold: float, heatmap: bool, stages: bool) -> View:
        """One of the visit's pictures, drawn.

        Args:
            visit: what the visitor looks at.
            number: of the picture or frame, from 1.
            threshold: smallest score shown.
            heatmap: with the first stage's P(object) over the picture.
            stages: with the probability of each stage.
        """
        if not visit.shots:
            return View()
        shot = visit.shots[min(max(int(number), 1), len(visit.shots)) - 1]
        pixels, message = shot.pixels(), ""
        if heatmap:
            try:
                pixels = draw_heatmap(pixels, self._heatmap(visit.model, shot, pixels))
            except UserError as error:
                message = sentence(escape(_capital(str(error))), wrong=True)
        if stages and shot.findings.objectness is None:
            message += sentence(escape(f"{visit.model} does not tell P(object) and P(class | object) apart."))
        found = shot.findings.at_least(threshold)
        drawn = draw_findings(pixels, found, visit.class_names, shot.width, stages)
        rows = table(found, len(shot.findings), threshold, visit.class_names, stages)
        return View(drawn, shot.name, rows, message)

    def results_file(self, visit: Visit, threshold: float) -> str:
        """All detections of the visit with at least this score, as JSON text; '' where there is nothing yet.

        ``{"model", "threshold", "pictures": [{"file", "width", "height", "detections": [...]}]}``; boxes are x1, y1,
        x2, y2 in pixels of the original picture.
        """
        if not visit.shots:
            return ""
        pictures = [
            {
                "file": shot.name,
                "width": shot.width,
                "height": shot.height,
                "detections": shot.findings.at_least(threshold).records(visit.class_names),
            }
            for shot in visit.shots
        ]
        content = {"model": visit.model, "threshold": threshold, "pictures": pictures}
        return json.dumps(content, ensure_ascii=False, indent=1)

    def _heatmap(self, model: str, shot: Shot, pixels: np.ndarray) -> np.ndarray:
        if shot.heatmap is None:
            image = np.ascontiguousarray(pixels[:, :, ::-1])
            shot.heatmap = first_stage_heatmap(self.shelf.get(model), image)
        return shot.heatmap

    def _class_names(self, model: str) -> list[str]:
        try:
            return list(resolve_metadata(self.shelf.config(model)).thing_classes)
        except UserError:  # said when the model is used
            return []


def _summary(visit: Visit, seconds: float) -> str:
    first, count = visit.shots[0], len(visit.shots)
    each = f"{seconds / count:.2f} s" + (" each" if count > 1 else "")
    what = f"<b>{count} {'frames' if visit.is_video else 'pictures'}</b>"
    if count == 1:
        what = f"<b>{escape(first.name)}</b>, {first.width} x {first.height} pixels"
    return f"{what}; {escape(visit.model)} took {each}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
