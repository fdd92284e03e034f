"""Shards of pictures through a model: decoding in threads beside it, true batches, one part a shard."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import torch

from ...errors import UserError
from ..images import SourceError
from ..predictor import Predictor
from .identity import instances_of
from .lists import Listed
from .parts import Label, encode_part, row_of, table_schema
from .reading import Reader

__all__ = ["Settings", "ShardPredictor"]

_AHEAD = 2  # batches that are decoded before the model asks for them


class Settings(NamedTuple):
    """What every worker of a run is told; plain values.

    Attributes:
        job: digest of the run, for the labels of its parts.
        threshold: smallest score that is kept.
        batch_size: pictures at a time.
        loaders: threads that read and decode beside the model; 0 reads in between.
        class_names: of the model's classes.
        text_ids: whether ids of pictures are texts.
        precision, optimize: of the model, see :class:`~..predictor.Predictor`.
    """

    job: str
    threshold: float
    batch_size: int
    loaders: int
    class_names: tuple[str, ...]
    text_ids: bool
    precision: str = "float32"
    optimize: bool = False


_Read: TypeAlias = dict[str, Any] | SourceError  # an entry for the network, or what is wrong with the picture


class _Batch(NamedTuple):
    shard: int
    listed: Sequence[Listed]
    is_last: bool  # of its shard


class ShardPredictor:
    """A model that turns shards into parts."""

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self._predictor = predictor
        self._settings = settings
        self._schema = table_schema(text_ids=settings.text_ids, masks=bool(predictor.cfg.MODEL.MASK_ON))
        self._reader = Reader()

    def run(
        self, shards: Iterable[tuple[int, Sequence[Listed]]], advance: Callable[[int], object] = lambda count: None
    ) -> Iterator[tuple[Label, bytes]]:
        """Each shard's label and the Parquet file of its part.

        Args:
            shards: numbers and pictures.
            advance: is told how many pictures have been done, after each batch.

        Raises:
            UserError: the model finds no detections by its kind, or has too little memory.
        """
        rows: list[dict[str, Any]] = []
        broken: list[dict[str, Any]] = []
        for batch, pictures in self._read_ahead(self._batches(shards)):
            found = self._predict([picture for picture in pictures if not isinstance(picture, SourceError)])
            for listed, picture in zip(batch.listed, pictures, strict=True):
                if isinstance(picture, SourceError):
                    broken.append({"image_id": listed.image_id, "key": listed.key, "reason": str(picture)})
                    continue
                instances = instances_of(next(found), self._settings.threshold)
                size, names = (picture["height"], picture["width"]), self._settings.class_names
                rows.append(row_of(listed.image_id, listed.key, size, instances, names))
            advance(len(batch.listed))
            if batch.is_last:
                detections = sum(len(row["scores"]) for row in rows)
                label = Label(self._settings.job, batch.shard, len(rows) + len(broken), broken, detections)
                yield label, encode_part(rows, self._schema, label)
                rows, broken = [], []

    def _batches(self, shards: Iterable[tuple[int, Sequence[Listed]]]) -> Iterator[_Batch]:
        size = self._settings.batch_size
        for number, listed in shards:
            for start in range(0, len(listed), size):
                yield _Batch(number, listed[start : start + size], start + size >= len(listed))

    def _read_ahead(self, batches: Iterable[_Batch]) -> Iterator[tuple[_Batch, list[_Read]]]:
        if not self._settings.loaders:
            for batch in batches:
                yield batch, [self._read(listed) for listed in batch.listed]
            return
        pool = ThreadPoolExecutor(self._settings.loaders, thread_name_prefix="loader")
        waiting: deque[tuple[_Batch, list[Future[_Read]]]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, [pool.submit(self._read, listed) for listed in batch.listed]))
                if len(waiting) > _AHEAD:
                    first, futures = waiting.popleft()
                    yield first, [future.result() for future in futures]
            for first, futures in waiting:
                yield first, [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, listed: Listed) -> _Read:
        picture = self._reader.read(listed)
        if isinstance(picture, SourceError):
            return picture
        try:
            return self._predictor.prepare(picture, name=f"picture {listed.key}")
        except SourceError as error:
            return error

    def _predict(self, entries: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        try:
            return iter(self._predictor.network(entries) if entries else ())
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has too little memory for {len(entries)} pictures at a time: give a smaller --batch-size, "
                "and another --output, since a picture's result depends a little on the others of its batch"
            ) from error
