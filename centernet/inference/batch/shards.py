"""Shards of pictures through a model: decoding in threads beside it, true batches, one part a shard."""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import torch

from ...errors import UserError
from ..batching import in_batches
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
        batch_size: most pictures at a time; pictures of a batch have the same size after resizing and padding.
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
            advance: is told of each picture that is done.

        Raises:
            UserError: the model finds no detections by its kind, or has too little memory.
        """
        ahead, now = itertools.tee(shards)
        read = self._read_ahead(itertools.chain.from_iterable(listed for _, listed in ahead))
        with contextlib.closing(read):
            for number, listed in now:
                rows: list[dict[str, Any]] = []
                broken: list[dict[str, Any]] = []
                of_shard = (self._by_size(entry) for entry in itertools.islice(read, len(listed)))
                results = in_batches(of_shard, self._predict, self._settings.batch_size)
                for entry, result in zip(listed, results, strict=True):
                    if isinstance(result, Exception):
                        broken.append({"image_id": entry.image_id, "key": entry.key, "reason": str(result)})
                    else:
                        found = instances_of(result, self._settings.threshold)
                        rows.append(row_of(entry.image_id, entry.key, found, self._settings.class_names))
                    advance(1)
                detections = sum(len(row["scores"]) for row in rows)
                label = Label(self._settings.job, number, len(listed), broken, detections)
                yield label, encode_part(rows, self._schema, label)

    def _by_size(self, read: _Read) -> tuple[tuple[int, int], dict[str, Any]] | SourceError:
        """With the size that the picture is padded to: only pictures of one size share a batch."""
        return read if isinstance(read, SourceError) else (self._predictor.network.canvas(read["image"]), read)

    def _read_ahead(self, listed: Iterable[Listed]) -> Generator[_Read, None, None]:
        """Pictures in their order, some of them read by threads before they are asked for."""
        if not self._settings.loaders:
            yield from map(self._read, listed)
            return
        pool = ThreadPoolExecutor(self._settings.loaders, thread_name_prefix="loader")
        waiting: deque[Future[_Read]] = deque()
        try:
            for entry in listed:
                waiting.append(pool.submit(self._read, entry))
                if len(waiting) > _AHEAD * self._settings.batch_size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
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

    def _predict(self, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            return self._predictor.predict_prepared(entries)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has too little memory for {len(entries)} pictures at a time: give a smaller --batch-size, "
                "the run goes on with it"
            ) from error
