"""Federated loss: which classes take part in a step. Source: "Probabilistic two-stage detection" (arXiv 2103.07461)
section 5.2."""

import torch
from torch import Tensor


def federated_classes(
    labels: Tensor, num_sample: int, num_classes: int, weight: Tensor | None = None, limit: int = -1
) -> Tensor:
    """Classes of one step: all that are present, filled up by a weighted draw without replacement.

    Args:
        labels: int64 ``[R]`` in ``[0, num_classes]``; ``num_classes`` is background and counts as present where it
            occurs.
        num_sample: classes wanted; if more are present, all present ones are returned.
        weight: float ``[num_classes]``, relative chance of a class to be drawn; None: equal.
        limit: when > 0, classes with index >= limit are never drawn.

    Returns:
        int64 ``[S]``: the present labels ascending, then the drawn ones.
    """
    present = torch.unique(labels)
    missing = num_sample - len(present)
    if missing <= 0:
        return present
    chance = present.new_zeros(num_classes + 1, dtype=torch.float32)
    chance[:num_classes] = 1.0 if weight is None else weight.to(chance)
    chance[present] = 0
    if limit > 0:
        chance[limit:] = 0
    drawable = min(missing, int((chance > 0).sum()))
    if drawable == 0:
        return present
    return torch.cat((present, torch.multinomial(chance, drawable, replacement=False)))
