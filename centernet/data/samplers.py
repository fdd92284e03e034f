"""Endless streams of dataset indices that can be resumed at any iteration exactly.

A stream is a pure function of its seed: the index at position 0, 1, 2, ... never depends on the number of
processes, of workers, or on where reading began. It is made of *rounds* (for a shuffled dataset, epochs).
:class:`ResumableSampler` deals positions to the processes; :class:`ResumableBatchSampler` makes batches,
grouped by aspect ratio if wanted, and can start at iteration ``k`` after index arithmetic alone.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import Sampler

from ..errors import UserError
from .index import Records

__all__ = [
    "ClassAwareSampler",
    "IndexStream",
    "MultiDatasetSampler",
    "RepeatFactorStream",
    "ResumableBatchSampler",
    "ResumableSampler",
    "ShuffledStream",
    "WeightedStream",
    "class_aware_weights",
    "multi_dataset_weights",
    "repeat_factors",
]

Pair = tuple[int, int]  # position in the stream, index into the dataset


class IndexStream:
    """An endless sequence of dataset indices, made of rounds that are functions of seed and number alone."""

    def __init__(self, seed: int) -> None:
        self.seed = int(seed)

    def round(self, number: int) -> np.ndarray:
        """Indices int64 [n] of round ``number`` = 0, 1, ..."""
        raise NotImplementedError

    def round_length(self, number: int) -> int:
        """Number of indices of a round; cheaper than making it."""
        raise NotImplementedError

    def pairs(self, start: int = 0) -> Iterator[Pair]:
        """``(position, index)`` from position ``start`` on, without end."""
        begin = 0  # position of the round's first index
        for number in itertools.count():
            length = self.round_length(number)
            if begin + length > start:
                indices = self.round(number)
                first = max(start - begin, 0)
                yield from zip(range(begin + first, begin + length), indices[first:].tolist(), strict=True)
            begin += length

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number])


class ShuffledStream(IndexStream):
    """Every index of 0 ... size-1 once a round, in a new random order each (``TrainingSampler``)."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(seed)
        self.size = _positive(size)

    def round(self, number: int) -> np.ndarray:
        return self._generator(number).permutation(self.size)

    def round_length(self, number: int) -> int:
        return self.size


class RepeatFactorStream(IndexStream):
    """Index i ``factors[i]`` times a round, fractions rounded at random (``RepeatFactorTrainingSampler``)."""

    def __init__(self, factors: Sequence[float] | np.ndarray | torch.Tensor, seed: int) -> None:
        """
        Args:
            factors: float [n], each at least 1 (see :func:`repeat_factors`).
            seed: of the stream.
        """
        super().__init__(seed)
        self.factors = np.asarray(factors, np.float64)
        _positive(len(self.factors))

    def round(self, number: int) -> np.ndarray:
        generator = self._generator(number)
        repeats = self._repeats(generator)
        return generator.permutation(np.repeat(np.arange(len(repeats)), repeats))

    def round_length(self, number: int) -> int:
        return int(self._repeats(self._generator(number)).sum())

    def _repeats(self, generator: np.random.Generator) -> np.ndarray:
        whole = np.floor(self.factors)
        return (whole + (generator.random(len(whole)) < self.factors - whole)).astype(np.int64)


class WeightedStream(IndexStream):
    """Independent draws, index i with probability ``weights[i] / sum(weights)``; a round has n draws."""

    def __init__(self, weights: Sequence[float] | np.ndarray | torch.Tensor, seed: int) -> None:
        """
        Args:
            weights: float [n], not negative, not all zero.
            seed: of the stream.

        Raises:
            ValueError: the weights are not as said.
        """
        super().__init__(seed)
        values = np.asarray(weights, np.float64)
        _positive(len(values))
        if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
            raise ValueError("sampling weights must be finite, not negative and not all zero")
        self.weights = values
        self._cumulative = np.cumsum(values)

    def round(self, number: int) -> np.ndarray:
        draws = self._generator(number).random(len(self.weights)) * self._cumulative[-1]
        # 'right' steps over zero weights; rounding at the very end must stay at the last one that counts
        last = int(np.flatnonzero(self.weights)[-1])
        return np.minimum(np.searchsorted(self._cumulative, draws, side="right"), last)

    def round_length(self, number: int) -> int:
        return len(self.weights)


class ResumableSampler(Sampler):
    """``(position, index)`` of every ``world_size``-th position of a stream, from ``start + rank`` on."""

    def __init__(
        self,
        stream: IndexStream,
        start: int = 0,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """
        Args:
            stream: the same on all processes.
            start: first position of all processes together.
            rank, world_size: default to those of this process.
        """
        self.stream = stream
        self.start = start
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size

    def __iter__(self) -> Iterator[Pair]:
        return itertools.islice(self.stream.pairs(self.start + self.rank), 0, None, self.world_size)


class ResumableBatchSampler(Sampler):
    """Batches of ``(position, index)`` pairs of this process, from iteration ``start_iteration`` on, without
    end.

    Without groups, iteration ``i`` of all processes together takes positions ``i * batch * world`` and
    following, dealt in turn. With groups, the stream fills one bucket a group; a bucket that reaches the
    batch size is a batch. Batches are numbered in the order in which they fill up and dealt to the processes
    in turn, so all images of a batch are of one group.
    """

    def __init__(
        self,
        stream: IndexStream,
        batch_size: int,
        *,
        groups: Sequence[int] | np.ndarray | None = None,
        start_iteration: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """
        Args:
            stream: the same on all processes.
            batch_size: images of one process and iteration.
            groups: int [n], the group of each dataset index; None for no grouping.
            start_iteration: batches of this process to skip.
            rank, world_size: default to those of this process.
        """
        self.stream = stream
        self.batch_size = _positive(batch_size)
        self.groups = None if groups is None else np.asarray(groups)
        self.start_iteration = start_iteration
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size

    def __iter__(self) -> Iterator[list[Pair]]:
        return self._plain() if self.groups is None else self._grouped()

    def _plain(self) -> Iterator[list[Pair]]:
        start = self.start_iteration * self.batch_size * self.world_size
        pairs = iter(ResumableSampler(self.stream, start, rank=self.rank, world_size=self.world_size))
        while True:
            yield list(itertools.islice(pairs, self.batch_size))

    def _grouped(self) -> Iterator[list[Pair]]:
        wanted = self.start_iteration * self.world_size + self.rank  # number of the next batch that is ours
        before = 0  # number of the first batch of the round at hand
        for batches in self._rounds_of_batches():
            ours = (
                batches[wanted - before :: self.world_size] if wanted < before + len(batches) else batches[:0]
            )
            for batch in ours.tolist():
                yield [(position, index) for position, index in batch]
            wanted += len(ours) * self.world_size
            before += len(batches)

    def _rounds_of_batches(self) -> Iterator[np.ndarray]:
        """For each round of the stream, the batches that fill up in it, int64 [n, batch_size, 2], in that
        order."""
        assert self.groups is not None
        names = np.unique(self.groups)
        pending = {name: np.empty((0, 2), np.int64) for name in names}
        begin = 0
        for number in itertools.count():
            indices = self.stream.round(number)
            pairs = np.stack([np.arange(begin, begin + len(indices)), indices], axis=1)
            group_of = self.groups[indices]
            full = []
            for name in names:
                queue = np.concatenate([pending[name], pairs[group_of == name]])
                used = len(queue) // self.batch_size * self.batch_size
                full.append(queue[:used].reshape(-1, self.batch_size, 2))
                pending[name] = queue[used:]
            batches = np.concatenate(full)
            yield batches[np.argsort(batches[:, -1, 0])]
            begin += len(indices)


class ClassAwareSampler(ResumableSampler):
    """Draws images of rare classes as often as those of frequent ones; yields dataset indices (see
    :func:`class_aware_weights`)."""

    def __init__(self, dataset_dicts: Sequence[dict[str, Any]], seed: int | None = None, start: int = 0) -> None:
        """
        Args:
            dataset_dicts: detectron2's dataset dicts with ``annotations``.
            seed: the same on all processes; None draws one and shares it.
            start: indices that all processes together have read before.
        """
        super().__init__(WeightedStream(class_aware_weights(dataset_dicts), _seed(seed)), start)

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        return (index for _, index in super().__iter__())


class MultiDatasetSampler(ResumableSampler):
    """Draws from several datasets in a given ratio; yields dataset indices (see
    :func:`multi_dataset_weights`)."""

    def __init__(self, cfg: Any, sizes: Sequence[int], seed: int | None = None, start: int = 0) -> None:
        """
        Args:
            cfg: its ``DATALOADER.DATASET_RATIO`` is the ratio.
            sizes: images of each dataset, in the order in which they are concatenated.
            seed: the same on all processes; None draws one and shares it.
            start: indices that all processes together have read before.
        """
        weights = multi_dataset_weights(sizes, cfg.DATALOADER.DATASET_RATIO)
        super().__init__(WeightedStream(weights, _seed(seed)), start)

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        return (index for _, index in super().__iter__())


def repeat_factors(dataset_dicts: Sequence[dict[str, Any]], threshold: float) -> np.ndarray:
    """Repeat factors float64 [n] after the LVIS paper (arXiv 1908.03195), as detectron2 computes them.

    ``f(c)`` is the part of the images with class ``c``; the factor of an image is the largest
    ``max(1, sqrt(threshold / f(c)))`` of its classes, 1 if it has none. Several data sets count as one: a class
    that is frequent in one of them is not repeated for being rare in another.
    """
    if isinstance(dataset_dicts, Records):
        return _repeat_factors(dataset_dicts, threshold)
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dataset_dicts, threshold)
    return factors.numpy().astype(np.float64)


def class_aware_weights(dataset_dicts: Sequence[dict[str, Any]], power: float = 1.0) -> np.ndarray:
    """Weight of each image: the sum over its classes ``c`` (each counted once) of ``1 / f(c)**power``.

    ``f(c)`` is the number of images with class ``c``. An image without annotations gets weight 0.

    Returns:
        float64 [n].
    """
    if isinstance(dataset_dicts, Records):
        return _class_aware_weights(dataset_dicts, power)
    classes = [{annotation["category_id"] for annotation in image["annotations"]} for image in dataset_dicts]
    frequency = Counter(itertools.chain.from_iterable(classes))
    # summed exactly: the order of a set must not change the last bit
    return np.array([math.fsum(frequency[c] ** -power for c in image) for image in classes])


def _repeat_factors(records: Records, threshold: float) -> np.ndarray:
    owners, classes = records.image_classes()
    frequency = np.bincount(classes) / max(len(records), 1)
    with np.errstate(divide="ignore"):
        of_classes = np.maximum(1.0, np.sqrt(threshold / frequency))
    factors = np.ones(len(records))
    np.maximum.at(factors, owners, of_classes[classes])
    return factors.astype(np.float32).astype(np.float64)  # detectron2's are float32


def _class_aware_weights(records: Records, power: float) -> np.ndarray:
    owners, classes = records.image_classes()
    # Python's power, as below: numpy's may differ in the last bit
    of_classes = np.array([count**-power if count else 0.0 for count in np.bincount(classes).tolist()])
    shares = of_classes[classes]
    begin = np.searchsorted(owners, np.arange(len(records) + 1))
    # sums of up to two numbers are exact already
    weights = np.bincount(owners, shares, minlength=len(records))
    many, numbers = np.flatnonzero(np.diff(begin) > 2), shares.tolist()
    bounds = zip(begin[many].tolist(), begin[many + 1].tolist(), strict=True)
    weights[many] = [math.fsum(numbers[first:end]) for first, end in bounds]
    return weights


def multi_dataset_weights(sizes: Sequence[int], ratio: Sequence[float]) -> np.ndarray:
    """Weight of each image of dataset ``d``: ``max(sizes) / sizes[d] * ratio[d] / sum(ratio)``.

    Returns:
        float64 [sum(sizes)], in the order of the concatenated datasets.

    Raises:
        UserError: not one ratio a dataset.
    """
    if len(sizes) != len(ratio):
        raise UserError(
            f"DATALOADER.DATASET_RATIO has {len(ratio)} numbers for {len(sizes)} datasets in DATASETS.TRAIN"
        )
    weights = [max(sizes) / size * part / sum(ratio) for size, part in zip(sizes, ratio, strict=True)]
    return np.repeat(weights, sizes)


def _seed(seed: int | None) -> int:
    return comm.shared_random_seed() if seed is None else seed


def _positive(number: int) -> int:
    if number < 1:
        raise ValueError(f"expected a positive number, got {number}")
    return number
