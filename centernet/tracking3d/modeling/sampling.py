"""Which candidates train: positives spread evenly over the objects, negatives evenly over overlaps.

Source: Libra R-CNN (arXiv 1904.02701) section 3.1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.mode import Mode
from .assignment import NEGATIVE

__all__ = ["BalancedSampler", "sample_evenly", "sample_randomly"]

_BINS = 3


def sample_randomly(indices: Tensor, count: int) -> Tensor:
    """``count`` of ``indices [N]`` at random; all of them, in their order, if there are not more."""
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]


def sample_evenly(assigned: Tensor, count: int, *, mode: Mode = "modern") -> Tensor:
    """Positives, about as many of each object.

    Args:
        assigned: int64 ``[N]``, see :func:`.assignment.assign_boxes`.
        count: how many at most.
        mode: if the objects have too few, the rest is drawn from all positives: ``"parity"`` from the drawn ones, too,
            so that fewer than ``count`` remain; ``"modern"`` from the others.

    Returns:
        int64 ``[<= count]``, indices into ``assigned``, each once.
    """
    positive = torch.nonzero(assigned >= 0).flatten()
    if len(positive) <= count:
        return positive
    shuffled = positive[torch.randperm(len(positive), device=positive.device)]
    owner = assigned[shuffled]
    order = owner.argsort(stable=True)
    sizes = torch.bincount(owner)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(order), device=order.device) - starts[owner[order]]
    share = round(count / int((sizes > 0).sum())) + 1
    drawn, rest = shuffled[order[rank < share]], shuffled[order[rank >= share]]
    missing = count - len(drawn)
    if missing <= 0:
        return sample_randomly(drawn, count)
    more = sample_randomly(positive if mode == "parity" else rest, missing)
    return torch.cat((drawn, more)).unique()


def _sample_negatives(assigned: Tensor, greatest: Tensor, count: int, *, include_apart: bool) -> Tensor:
    """Negatives, evenly from thirds of the overlap; without ``include_apart``, those that overlap nothing come last."""
    negative = assigned == NEGATIVE
    candidates = torch.nonzero(negative).flatten()
    if len(candidates) <= count:
        return candidates
    pool = negative if include_apart else negative & (greatest > 0)
    step = greatest.max() / _BINS
    taken = torch.zeros_like(negative)
    for i in range(_BINS):
        here = pool & (greatest >= i * step) & (greatest < (i + 1) * step)
        taken[sample_randomly(torch.nonzero(here).flatten(), count // _BINS)] = True
    for source in (pool, negative):
        left = torch.nonzero(source & ~taken).flatten()
        taken[sample_randomly(left, count - int(taken.sum()))] = True
    return torch.nonzero(taken).flatten()


@dataclass
class BalancedSampler:
    """Samples the candidates of one picture after the other.

    ``"parity"``: the published sampler changes itself when it first has to choose among negatives. Only then do those
    without any overlap take part in the choice; for later pictures of a batch they fill up what is missing. Make one
    for each batch. ``"modern"``: they take part always.

    Attributes:
        count: candidates a picture at most.
        positive_fraction: share of them that may be positive.
        negatives_per_positive: negatives at most for each positive (for one where there is none); None: no such limit.
        mode: see above and :func:`sample_evenly`.
    """

    count: int
    positive_fraction: float
    negatives_per_positive: float | None = None
    mode: Mode = "modern"
    _used: bool = False

    def __call__(self, assigned: Tensor, greatest: Tensor) -> tuple[Tensor, Tensor]:
        """Sample one picture.

        Args:
            assigned: int64 ``[N]``, see :func:`.assignment.assign_boxes`.
            greatest: float ``[N]``, greatest IoU of each candidate with any annotated box.

        Returns:
            ``(positive, negative)``, int64 indices into ``assigned``.
        """
        positive = sample_evenly(assigned, int(self.count * self.positive_fraction), mode=self.mode)
        count = self.count - len(positive)
        if self.negatives_per_positive is not None:
            count = min(count, int(self.negatives_per_positive * max(len(positive), 1)))
        choice = int((assigned == NEGATIVE).sum()) > count
        include_apart = self.mode == "modern" or not self._used
        self._used = self._used or choice
        return positive, _sample_negatives(assigned, greatest, count, include_apart=include_apart)
