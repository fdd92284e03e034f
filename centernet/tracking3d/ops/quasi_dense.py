"""Losses of the embeddings that tell objects apart: many positives for each key object.

Source: Pang et al., "Quasi-Dense Similarity Learning" (arXiv 2006.06664) section 3.2, with the margin and the mining of
QD-3DT's program.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .codecs import at_least_float32
from .mode import Mode
from .overlaps import iou_2d

UNMATCHED = -1
"""Identity of a key object that the reference picture does not show."""

NEGATIVE = -2
"""Identity of everything that is no object."""

_LIMIT = 80.0  # of the published program, whose exponentials would overflow
_ABSENT = -1e30  # as a logarithm: nothing; finite, so gradients stay finite
_NEGATIVES_PER_POSITIVE = 3
_MARGIN = 0.3  # squared distances of cosines up to it are good enough
_TINY = 1e-6


class KeyReference(NamedTuple):
    """Embeddings of one key picture and its reference.

    Attributes:
        key: float ``[K, E]``, of the key's positives.
        key_ids: int64 ``[K]``, index of the same object among the reference's annotations, or :data:`UNMATCHED`.
        reference: float ``[R, E]``: the reference's annotations, its positives, its negatives, the key's negatives.
        reference_ids: int64 ``[R]``, see :func:`reference_identities`.
    """

    key: Tensor
    key_ids: Tensor
    reference: Tensor
    reference_ids: Tensor


def reference_identities(boxes: Tensor, positives: Tensor, negatives: int) -> Tensor:
    """Identities of the reference embeddings.

    Args:
        boxes: float ``[G, 4]``, annotated in the reference picture, continuous ``xyxy``.
        positives: float ``[P, 4]``, proposals; each is the object that it overlaps most.
        negatives: how many embeddings follow that are no objects.

    Returns:
        int64 ``[G + P + negatives]``.
    """
    own = torch.arange(len(boxes), device=boxes.device)
    nearest = iou_2d(positives, boxes).argmax(1) if len(boxes) else own.new_full((len(positives),), NEGATIVE)
    return torch.cat((own, nearest, own.new_full((negatives,), NEGATIVE)))


def contrastive_losses(similarity: Tensor, positive: Tensor, limit: float | None = None) -> Tensor:
    """``ln(1 + sum_p sum_n exp(s_n - s_p))`` of each row, finite for all finite similarities.

    Args:
        similarity: float ``[K, R]``, dot products.
        positive: bool ``[K, R]``, the pair is one object; all other pairs are negatives.
        limit: negatives count as at most this (published: 80), or None.

    Returns:
        float ``[K]``; 0 for rows without positives or without negatives.
    """
    similarity = at_least_float32(similarity)
    absent = torch.full_like(similarity, _ABSENT)
    upper = similarity if limit is None else similarity.clamp(max=limit)
    attraction = torch.where(positive, -similarity, absent).logsumexp(1)
    repulsion = torch.where(positive, absent, upper).logsumexp(1)
    return F.softplus(attraction + repulsion)


def quasi_dense_losses(pairs: Sequence[KeyReference], *, mode: Mode = "modern") -> dict[str, Tensor]:
    """Contrastive and auxiliary cosine loss of a batch.

    ``"parity"``: pictures with a single matched key object are left out, and unmatched key objects are pulled towards
    the first reference object by the auxiliary loss. ``"modern"``: the single one counts, unmatched ones do not.

    Args:
        pairs: one per key picture, at least one.
        mode: see above.

    Returns:
        float scalars ``loss_asso`` (mean over matched rows, then over pictures) and ``loss_iou`` (the published name;
        squared distances of cosines from 1 or 0, the hardest negatives only, mean over the pairs of the batch).
    """
    contrastive, distances, counts = [], [], []
    for pair in pairs:
        matched = pair.key_ids != UNMATCHED
        contrastive.append(_contrastive_loss(pair, matched, mode))
        distance, count = _cosine_distances(pair, matched, mode)
        distances.append(distance)
        counts.append(count)
    return {
        "loss_asso": torch.stack(contrastive).sum() / len(pairs),
        "loss_iou": torch.stack(distances).sum() / (torch.stack(counts).sum() + _TINY),
    }


def _products(key: Tensor, reference: Tensor) -> Tensor:
    with torch.autocast(key.device.type, enabled=False):  # in half precision large products are off by whole numbers
        return at_least_float32(key) @ at_least_float32(reference).T


def _cosines(key: Tensor, reference: Tensor) -> Tensor:
    return _products(F.normalize(at_least_float32(key), dim=1), F.normalize(at_least_float32(reference), dim=1))


def _contrastive_loss(pair: KeyReference, matched: Tensor, mode: Mode) -> Tensor:
    similarity = _products(pair.key, pair.reference)
    positive = pair.key_ids[:, None] == pair.reference_ids
    losses = contrastive_losses(similarity, positive, _LIMIT if mode == "parity" else None)
    number = matched.sum()
    counted = matched & (number != 1) if mode == "parity" else matched
    return torch.where(counted, losses, torch.zeros_like(losses)).sum() / number.clamp(min=1)


def _cosine_distances(pair: KeyReference, matched: Tensor, mode: Mode) -> tuple[Tensor, Tensor]:
    """Summed squared distances of one picture's pairs that count, and the number of those pairs."""
    cosine = _cosines(pair.key, pair.reference)
    if mode == "parity":  # which takes the unmatched for the first object, and skips a picture with one matched row
        ids, counted = pair.key_ids.clamp(min=0), (matched.sum() != 1).expand_as(matched)
    else:
        ids, counted = pair.key_ids, matched
    same = ids[:, None] == pair.reference_ids
    positive, negative = same & counted[:, None], ~same & counted[:, None]
    distance = (cosine - same.to(cosine)).square().flatten()
    # hardest first; what is no negative comes last
    hardness = torch.where(negative.flatten(), distance, torch.full_like(distance, -1.0)).sort(descending=True).values
    number, wanted = positive.sum(), _NEGATIVES_PER_POSITIVE * positive.sum()
    drawn = (torch.arange(len(hardness), device=hardness.device) < wanted) & (hardness >= 0)
    far = torch.where(drawn & (hardness > _MARGIN), hardness, torch.zeros_like(hardness)).sum()
    near = torch.where(positive.flatten(), distance, torch.zeros_like(distance)).sum()
    return near + far, number + drawn.sum()
