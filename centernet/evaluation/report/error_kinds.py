"""What kinds of errors a detector makes, and the average precision that each kind costs.

Source: Bolya, Foley, Hays, Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors" (arXiv
2008.08115), sections 2.2 and 2.3, with its thresholds ``tf = 0.5`` (foreground) and ``tb = 0.1`` (background). For a
detection that found no object, with its largest IoU over the objects concerned:

- classification: IoU >= tf with an object of another class (right place, wrong class);
- localisation: tb <= IoU < tf with an object of its own class;
- both: tb <= IoU < tf with an object of another class;
- duplicate: IoU >= tf with an object of its own class that a better detection has found;
- background: IoU < tb with every object;
- missed: an object that was not found and that no classification or localisation error points at.

Where several fit, the paper leaves open which holds; here the first of duplicate, classification, localisation, both,
background. What a kind costs is the gain in AP at IoU tf when an oracle mends it and nothing else: classification and
localisation errors become hits of the object that they point at (of several claims to one object the best scored stays,
the others are removed); both, duplicate and background errors are removed; missed objects are not asked for. The costs
do not add up to 100 - AP, because the kinds hide each other. Two more figures of the paper: the gain if every false
positive were removed, and if no object were asked for that was not found.
"""

from typing import NamedTuple

import numpy as np

from .matching import Case, Matches, average_precision, box_iou, match, rows_of_images

__all__ = ["HIT", "IGNORED", "KINDS", "Errors", "classify", "cost_of_images", "costs"]

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND_KIND, MISSED = range(len(KINDS))
HIT, IGNORED = -1, -2


class Errors(NamedTuple):
    """``kinds`` int64 ``[D]``: index into :data:`KINDS`, :data:`HIT` or :data:`IGNORED`; ``target`` int64 ``[D]``: the
    object that a hit found or an error points at, -1 none; ``missed`` bool ``[G]``; ``unfound`` bool ``[G]``: missed,
    or pointed at by errors only."""

    kinds: np.ndarray
    target: np.ndarray
    missed: np.ndarray
    unfound: np.ndarray

    def counts(self) -> dict[str, int]:
        """How often each kind occurs."""
        counts = {kind: int((self.kinds == code).sum()) for code, kind in enumerate(KINDS)}
        return counts | {"missed": int(self.missed.sum())}


def classify(case: Case, matches: Matches | None = None, *, tf: float = FOREGROUND, tb: float = BACKGROUND) -> Errors:
    """The kind of every error.

    Args:
        matches: of :func:`centernet.evaluation.report.matching.match` at IoU ``tf``; made if not given.
    """
    matches = match(case, tf) if matches is None else matches
    kinds = np.full(len(matches.target), BACKGROUND_KIND, np.int64)
    target = matches.target.copy()
    for dets, objs in rows_of_images(case):
        rows = np.flatnonzero(~matches.hit[dets] & ~matches.ignored[dets]) + dets.start
        columns = np.flatnonzero(~case.objects.crowd[objs]) + objs.start
        if len(rows) and len(columns):
            overlap = box_iou(case.found.boxes[rows], case.objects.boxes[columns])
            own = case.found.classes[rows][:, None] == case.objects.classes[columns][None]
            kinds[rows], at = _kind_and_target(overlap, own, tf, tb)
            target[rows] = np.where(at >= 0, columns[at], -1)
    kinds[matches.hit], kinds[matches.ignored] = HIT, IGNORED
    unfound = ~case.objects.crowd
    unfound[matches.target[matches.hit]] = False
    missed = unfound.copy()
    missed[target[(kinds == CLASSIFICATION) | (kinds == LOCALISATION)]] = False
    return Errors(kinds, target, missed, unfound)


def _kind_and_target(overlap: np.ndarray, own: np.ndarray, tf: float, tb: float) -> tuple[np.ndarray, np.ndarray]:
    same, other = np.where(own, overlap, -1.0), np.where(own, -1.0, overlap)
    best_same, best_other = same.max(axis=1), other.max(axis=1)
    kinds = np.select(
        [best_same >= tf, best_other >= tf, best_same >= tb, best_other >= tb],
        [DUPLICATE, CLASSIFICATION, LOCALISATION, BOTH],
        BACKGROUND_KIND,
    )
    at = np.select(
        [(kinds == DUPLICATE) | (kinds == LOCALISATION), (kinds == CLASSIFICATION) | (kinds == BOTH)],
        [same.argmax(axis=1), other.argmax(axis=1)],
        -1,
    )
    return kinds, at


class _State(NamedTuple):
    """What AP is computed from; an oracle changes it."""

    classes: np.ndarray
    scores: np.ndarray
    hit: np.ndarray
    kept: np.ndarray
    objects: np.ndarray

    def ap(self, label: int) -> float:
        rows = np.flatnonzero(self.kept & (self.classes == label))
        return average_precision(self.scores[rows], self.hit[rows], int(self.objects[label]))

    def mean_ap(self) -> float:
        """Percent; 100 if nothing is asked for."""
        order = np.argsort(self.classes, kind="stable")
        classes, scores, hit, kept = (field[order] for field in self[:4])
        state = _State(classes, scores, hit, kept, self.objects)
        ends = np.searchsorted(state.classes, np.arange(len(self.objects) + 1))
        values = []
        for label in np.flatnonzero(self.objects > 0):
            rows = slice(ends[label], ends[label + 1])
            kept = state.kept[rows]
            values.append(
                average_precision(state.scores[rows][kept], state.hit[rows][kept], int(self.objects[label]))
            )
        return 100.0 * float(np.mean(values)) if values else 100.0


def _state(case: Case, errors: Errors) -> _State:
    found = case.found
    return _State(found.classes, found.scores, errors.kinds == HIT, errors.kinds != IGNORED, case.counts)


def costs(case: Case, errors: Errors) -> dict[str, float]:
    """AP at IoU tf (``"AP"``, percent), and what would be gained, in points of it, without each of :data:`KINDS`,
    without ``"all false positives"`` and without ``"all unfound objects"``."""
    state = _state(case, errors)
    now = state.mean_ap()
    without_misses = {
        "missed": errors.missed,
        "all unfound objects": errors.unfound,
    }
    gains = {KINDS[code]: _redirected(case, errors, state, code).mean_ap() - now for code in (0, 1)}
    for code in (BOTH, DUPLICATE, BACKGROUND_KIND):
        gains[KINDS[code]] = state._replace(kept=state.kept & (errors.kinds != code)).mean_ap() - now
    for name, dropped in without_misses.items():
        fewer = np.bincount(case.objects.classes[dropped], minlength=len(state.objects))
        gains[name] = state._replace(objects=state.objects - fewer).mean_ap() - now
    gains["all false positives"] = state._replace(kept=state.kept & state.hit).mean_ap() - now
    order = ("AP", *KINDS, "all false positives", "all unfound objects")
    return {name: ({"AP": now} | gains)[name] for name in order}


def _redirected(case: Case, errors: Errors, state: _State, code: int) -> _State:
    """Errors of this kind become hits of the object they point at; one hit an object, the best scored."""
    mended = errors.kinds == code
    claims = np.flatnonzero(mended | state.hit)
    best = claims[np.lexsort((~state.hit[claims], -state.scores[claims], errors.target[claims]))]
    first = np.r_[True, np.diff(errors.target[best]) != 0][: len(best)]
    hit = np.zeros_like(state.hit)
    hit[best[first]] = True
    kept = state.kept.copy()
    kept[best[~first]] = False
    classes = state.classes.copy()
    classes[mended] = case.objects.classes[errors.target[mended]]
    return state._replace(classes=classes, hit=hit, kept=kept)


def cost_of_images(case: Case, errors: Errors, shortlist: int = 60) -> list[tuple[int, float]]:
    """The pictures whose errors cost most: ``(row of case.images, points of AP at IoU tf)``, worst first.

    The cost is the gain if the picture's false positives were removed and its unfound objects not asked for. It is
    computed for the ``shortlist`` pictures with most unfound objects and highest scored false positives.
    """
    wrong = errors.kinds >= 0
    rough = np.bincount(case.found.images[wrong], case.found.scores[wrong], len(case.images))
    rough = rough + np.bincount(case.objects.images[errors.unfound], minlength=len(case.images))
    state = _state(case, errors)
    asked = np.flatnonzero(state.objects > 0)
    now = {int(label): state.ap(int(label)) for label in asked}
    result = []
    for image in np.argsort(-rough, kind="stable")[:shortlist].tolist():
        if rough[image] == 0:
            break
        here = wrong & (case.found.images == image)
        gone = case.objects.classes[errors.unfound & (case.objects.images == image)]
        fewer = state.objects - np.bincount(gone, minlength=len(state.objects))
        better = state._replace(kept=state.kept & ~here, objects=fewer)
        touched = {*gone.tolist(), *case.found.classes[here].tolist()} & set(now)
        gain = sum(better.ap(label) - now[label] for label in touched if fewer[label] > 0)
        result.append((image, 100.0 * gain / max(1, len(asked))))
    return sorted(result, key=lambda entry: -entry[1])
