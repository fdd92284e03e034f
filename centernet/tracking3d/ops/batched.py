"""Records of many objects as tensors that share their first axis: what a tracker and its motion models remember."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self


@dataclass(frozen=True)
class Batched:
    """Base of frozen dataclasses whose fields are tensors ``[M, ...]`` or records of ``M`` rows themselves.

    Nothing changes in place: every method returns a new record. Every field is an argument of ``__init__``.
    """

    def __len__(self) -> int:
        return next(iter(vars(self).values())).__len__()

    def _map(self, change: Callable[..., Tensor], *others: "Batched") -> Self:
        columns = zip(*(vars(record).values() for record in (self, *others)), strict=True)
        return type(self)(
            *(
                values[0]._map(change, *values[1:]) if isinstance(values[0], Batched) else change(*values)
                for values in columns
            )
        )

    def select(self, index: Tensor) -> Self:
        """The rows of ``index``: integer ``[K]``, or bool ``[M]``."""
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        return self._map(lambda value: value.index_select(0, index))

    def first(self, count: int) -> Self:
        """The first ``count`` rows, as views."""
        return self._map(lambda value: value[:count])

    def put(self, index: Tensor, rows: Self) -> Self:
        """This record with the rows of ``index`` (integer ``[K]``, no row twice) replaced by ``rows`` (K of them)."""
        return self._map(lambda value, row: value.index_copy(0, index, row.to(value.dtype)), rows)

    def to(self, device: torch.device) -> Self:
        return self._map(lambda value: value.to(device))

    def as_dict(self) -> dict[str, Any]:
        """Names and values; records inside as dicts of their own."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.as_dict() if isinstance(value, Batched) else value for name, value in values.items()}

    def restored(self, values: Mapping[str, Any]) -> Self:
        """A record of this type with the values of :meth:`as_dict`; ``self`` gives types, names and device alone.

        Raises:
            KeyError: a field has no value, or a value no field.
        """
        names = {field.name for field in fields(self)}
        if names != set(values):
            raise KeyError(f"{type(self).__name__} has {sorted(names)}, the saved state {sorted(values)}")
        restored = {}
        for name in names:
            own = getattr(self, name)
            restored[name] = own.restored(values[name]) if isinstance(own, Batched) else values[name].to(own.device)
        return replace(self, **restored)


def concat(records: Sequence[Any]) -> Any:
    """Records of one type (at least one), one behind the other."""
    if len(records) == 1:
        return records[0]
    return records[0]._map(lambda *values: torch.cat(values), *records[1:])
