"""A file is accepted only if it finds in real pictures what the model finds.

Detections are compared as sets: two whose scores are equal but for rounding may come in either order, and at the end of
the list one of them may be the last that is kept.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..errors import UserError
from .pictures import CoreProgram, ResizeRule, resized_size, round_up
from .request import Request

__all__ = ["Difference", "Tolerance", "check_program", "compare", "network_inputs"]

Run = Callable[..., Sequence[np.ndarray]]
Resizer = Callable[[np.ndarray], np.ndarray]
_BATCHES = (1, 2, 5)
_logger = logging.getLogger(__name__)


class Tolerance(NamedTuple):
    """Attributes: ``boxes``: pixels of the network input, any coordinate; ``scores``."""

    boxes: float
    scores: float


EXACT = Tolerance(0.1, 1e-4)
_AT_THE_CUT = 0.1  # share of the detections
_GREY_LEVELS = 0.1  # mean difference of a resizing from Pillow's, which rounds some of them the other way


class Difference(NamedTuple):
    """Between the detections of two programs.

    Attributes:
        detections: of the first.
        boxes, scores: the largest difference of two that were matched (same class), pixels and probability.
        at_the_cut: without a partner, but with a score as good as that of the last one kept or of the threshold.
        missing: without a partner otherwise.
    """

    detections: int
    boxes: float
    scores: float
    at_the_cut: int
    missing: int

    def joined(self, other: "Difference") -> "Difference":
        """Of both."""
        return Difference(
            self.detections + other.detections,
            max(self.boxes, other.boxes),
            max(self.scores, other.scores),
            self.at_the_cut + other.at_the_cut,
            self.missing + other.missing,
        )


NO_DIFFERENCE = Difference(0, 0.0, 0.0, 0, 0)


def compare(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray], tolerance: Tolerance, threshold: float = 0.0
) -> Difference:
    """Match the detections of a batch, image by image.

    Args:
        expected, found: ``boxes [B, K, 4], scores [B, K], classes [B, K], valid [B, K]``, in any order of detections.
        threshold: smallest score that a detection can have.
    """
    total = NO_DIFFERENCE
    for first, second in zip(_images(expected), _images(found), strict=True):
        total = total.joined(_compare_image(first, second, expected[3].shape[1], tolerance, threshold))
    return total


def _images(batch: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for boxes, scores, classes, valid in zip(*batch[:4], strict=True):
        yield boxes[valid], scores[valid], classes[valid]


def _compare_image(
    expected: tuple[np.ndarray, ...], found: tuple[np.ndarray, ...], slots: int, tolerance: Tolerance, threshold: float
) -> Difference:
    boxes = np.abs(expected[0][:, None] - found[0][None]).max(axis=2, initial=0)
    scores = np.abs(expected[1][:, None] - found[1][None])
    cost = np.maximum(boxes / tolerance.boxes, scores / tolerance.scores)
    cost[expected[2][:, None] != found[2][None]] = np.inf
    cost[np.isnan(cost)] = np.inf
    pairs = []
    for row in range(len(cost)):
        if cost.shape[1] and cost[row].min() <= 1:
            pairs.append((row, int(cost[row].argmin())))
            cost[:, pairs[-1][1]] = np.inf
    rows, columns = [row for row, _ in pairs], [column for _, column in pairs]
    alone = [np.delete(expected[1], rows), np.delete(found[1], columns)]
    cut = 0
    for (_, ranked, _), scores_alone in zip((expected, found), alone, strict=True):
        last = ranked.min(initial=np.inf) if len(ranked) == slots else threshold
        cut += int((scores_alone <= max(last, threshold) + tolerance.scores).sum())
    return Difference(
        len(expected[0]),
        float(boxes[rows, columns].max(initial=0)),
        float(scores[rows, columns].max(initial=0)),
        cut,
        sum(map(len, alone)) - cut,
    )


def network_inputs(
    pictures: Sequence[np.ndarray],
    rule: ResizeRule,
    divisor: int,
    canvas: tuple[int, int],
    *,
    fixed: bool,
    smallest: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch as evaluation makes it, and smaller where it would not fit into ``canvas``.

    Args:
        pictures: uint8 ``[H, W, 3]``, channel order of ``INPUT.FORMAT``, any sizes.
        canvas: height and width, pixels.
        fixed: whether the batch is padded to ``canvas``, not only to multiples of ``divisor``.
        smallest: least height and width, pixels.

    Returns:
        images uint8 ``[B, 3, H, W]``, image_sizes and picture_sizes int64 ``[B, 2]``.
    """
    resized = []
    for picture in pictures:
        height, width = resized_size(picture.shape[0], picture.shape[1], *rule)
        shrink = min(1.0, canvas[0] / height, canvas[1] / width)
        size = max(1, int(width * shrink)), max(1, int(height * shrink))
        resized.append(np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)))
    sizes = torch.tensor([image.shape[:2] for image in resized])
    if not fixed:
        canvas = tuple(round_up(max(int(side), smallest), divisor) for side in sizes.amax(dim=0))  # type: ignore[assignment]
    images = torch.zeros((len(resized), 3, *canvas), dtype=torch.uint8)
    for image, pixels in zip(images, resized, strict=True):
        image[:, : pixels.shape[0], : pixels.shape[1]] = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return images, sizes, torch.tensor([picture.shape[:2] for picture in pictures])


def check_program(
    run: Run,
    program: CoreProgram,
    request: Request,
    rule: ResizeRule,
    pictures: Sequence[np.ndarray],
    *,
    resizer: Resizer | None = None,
    threshold: float = 0.0,
) -> dict[str, Any]:
    """Compare a loaded file with the model.

    Args:
        run: the file: inputs as arrays, outputs as arrays.
        program: the model itself, with the same outputs.
        pictures: uint8 ``[H, W, 3]``, channel order of ``INPUT.FORMAT``.
        resizer: the resizing inside the file, with ``preprocess``: it is compared with Pillow's, and the model sees
            what it gives.
        threshold: smallest score that a detection can have.

    Returns:
        Figures for the file's metadata.

    Raises:
        UserError: they differ; with the worst figure.
    """
    total, checked, grey = NO_DIFFERENCE, 0, [0.0]
    batches = _BATCHES if request.dynamic else (request.batch,)
    for size in batches:
        for batch in _batches(pictures, size, request):
            inputs = core = _core_inputs(batch, program, request, rule)
            if resizer is not None:
                inputs = (torch.from_numpy(np.stack(batch)),)
                resized = torch.from_numpy(resizer(inputs[0].numpy()))
                grey.append(float((resized.float() - core[0].float()).abs().mean()))
                core = (resized, *core[1:])
            with torch.inference_mode():
                expected = program(*core)
            found = run(*(value.numpy() for value in inputs))
            pixels = max(1.0, float((core[2] / core[1]).max())) if request.postprocess else 1.0
            allowed = EXACT._replace(boxes=EXACT.boxes * pixels)
            total = total.joined(compare([value.numpy() for value in expected], found, allowed, threshold))
            checked += len(batch)
    figures = {**total._asdict(), "images": checked, "batches": list(batches), "allowed": EXACT._asdict()}
    if resizer is not None:
        figures["grey_levels"] = max(grey)
    _accept(total, checked, max(grey), request)
    return figures


def _accept(total: Difference, checked: int, grey: float, request: Request) -> None:
    if total.detections == 0:
        _logger.warning(
            "The model finds nothing in the %d pictures that the %s file was compared on, so the comparison says "
            "little: give pictures with its objects, or a lower threshold",
            checked,
            request.format,
        )
    if total.at_the_cut > max(2 * checked, _AT_THE_CUT * total.detections):
        raise UserError(
            f"the {request.format} file is not written: {total.at_the_cut} detections in {checked} pictures have no "
            f"partner, and their scores are too much alike to say why (at most {_AT_THE_CUT:.0%} may be); compare on "
            "other pictures, or with trained weights"
        )
    if total.missing:
        raise UserError(
            f"the {request.format} file is not written: of {total.detections} detections in {checked} pictures "
            f"{total.missing} have no partner within {EXACT.boxes} pixels, {EXACT.scores} in score and of the same "
            f"class (the others differ by {total.boxes:.2g} pixels and {total.scores:.2g}); export another format or "
            "report this model"
        )
    if grey > _GREY_LEVELS:
        raise UserError(
            f"the {request.format} file is not written: its resized pictures differ from those of evaluation by "
            f"{grey:.2g} grey levels on average (allowed: {_GREY_LEVELS}); leave preprocess out"
        )


def _batches(pictures: Sequence[np.ndarray], size: int, request: Request) -> Iterator[list[np.ndarray]]:
    """Every picture at least once; batches are filled up with mirrored ones. With ``preprocess`` the pictures of a
    batch have one size: the picture and its mirror images."""
    flips: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda picture: picture,
        lambda picture: picture[:, ::-1],
        lambda picture: picture[::-1],
        lambda picture: picture[::-1, ::-1],
        lambda picture: picture[:, :, ::-1],
    ]
    if request.preprocess:
        for picture in pictures:
            if not request.dynamic:
                resized = Image.fromarray(picture).resize((request.width, request.height), Image.Resampling.BILINEAR)
                picture = np.asarray(resized)
            yield [np.ascontiguousarray(flips[number % len(flips)](picture)) for number in range(size)]
        return
    for start in range(0, len(pictures), size):
        numbers = range(start, start + size)
        yield [
            np.ascontiguousarray(flips[number // len(pictures) % len(flips)](pictures[number % len(pictures)]))
            for number in numbers
        ]


def _core_inputs(
    batch: Sequence[np.ndarray], program: CoreProgram, request: Request, rule: ResizeRule
) -> tuple[torch.Tensor, ...]:
    divisor = program.divisor
    if request.preprocess:
        inputs = network_inputs(batch, rule, divisor, (10**6, 10**6), fixed=False)
    else:
        inputs = network_inputs(
            batch,
            rule,
            divisor,
            (request.height, request.width),
            fixed=not request.dynamic,
            smallest=request.smallest(program.coarsest),
        )
    return inputs if request.postprocess else inputs[:2]
