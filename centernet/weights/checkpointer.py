"""detectron2's checkpointer on top of the safe reader: every published layout in, and a report of what fitted."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..errors import UserError
from .architecture import check_architecture
from .layouts import Match, is_constant, match_names, may_lack
from .reader import UNREADABLE, fetch, read_weights

__all__ = ["Fit", "SafeCheckpointer", "listed"]

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]


def listed(names: Sequence[str], most: int = 6) -> str:
    """'a, b, c and 4 more'."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


class Fit(NamedTuple):
    """What a file gave a model. Constants and counters that a file may lack are left out everywhere."""

    total: int  # entries of the model
    absent: list[str]  # entries that the file lacks
    misshapen: list[tuple[str, Shape, Shape]]  # name, shape in the file, shape in the model
    unexpected: list[str]  # entries of the file that are not in the model
    layout: str = "a whole detector"  # see :mod:`.layouts`
    body: str = ""  # the prefix of the body that the file is for; '' if it is for the whole model
    body_absent: tuple[str, ...] = ()  # entries of the body that the file lacks and should have

    @property
    def loaded(self) -> int:
        return self.total - len(self.absent) - len(self.misshapen)

    def gaps(self) -> str:
        """'3 of 90 entries missing (such as a.weight), 1 of another shape (such as ...)'; '' if none."""
        parts = []
        if self.absent:
            parts.append(f"{len(self.absent)} of the model's {self.total} entries missing (such as {self.absent[-1]})")
        if self.misshapen:
            name, in_file, in_model = self.misshapen[0]
            parts.append(f"{len(self.misshapen)} of another shape (such as {name}: {in_file} there, {in_model} here)")
        return ", ".join(parts)

    def differences(self) -> str:
        """Names of all that does not fit, the first few of each kind; '' if everything does."""
        shapes = [f"{name} ({in_file} there, {in_model} here)" for name, in_file, in_model in self.misshapen]
        kinds = (("missing", self.absent), ("of another shape", shapes), ("not in the model", self.unexpected))
        return "; ".join(f"{kind}: {listed(names)}" for kind, names in kinds if names)

    def of_body(self) -> "Fit":
        """The same for the body alone; what files for classification need not have does not count."""
        return self._replace(absent=list(self.body_absent))


class SafeCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with user-readable errors; ``fit`` says what the last load gave the model."""

    fit: Fit | None = None  # None: nothing was loaded yet
    _match: Match | None = None

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file; '' loads nothing.

        Raises:
            UserError: it cannot be fetched or read, or holds no weights, or those of the other BiFPN.
        """
        try:
            return super().load(fetch(path) if path else path, *args, **kwargs)
        except UNREADABLE as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"the weights file {path} cannot be read: {reason}") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        file = read_weights(filename)
        return {**file.training, "model": file.tensors}

    def _load_model(self, checkpoint: Any) -> Any:
        model = self.model.state_dict()
        check_architecture(model, checkpoint["model"])
        self._match = match_names(model, checkpoint["model"])
        if self._match.prefix:
            left_out = f"; left out: {listed(self._match.left_out)}" if self._match.left_out else ""
            logger.info("Weights: %s, for %s*%s", self._match.layout, self._match.prefix, left_out)
        checkpoint["model"] = dict(self._match.tensors)
        return super()._load_model(checkpoint)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Nothing is logged: who loads says what he makes of ``fit``."""
        assert self._match is not None
        self.fit = _fit(self.model, self._match, incompatible.incorrect_shapes)
        self._match = None  # its tensors are copied by now


def _fit(model: nn.Module, match: Match, incorrect_shapes: Sequence[tuple[str, Any, Any]]) -> Fit:
    # a module used in two places has two names for each tensor; one of them is enough
    state = model.state_dict(keep_vars=True)
    missing = {name for name in state if name not in match.tensors}
    given = {id(tensor) for name, tensor in state.items() if name not in missing}
    needed = {name for name in state if not is_constant(name)}
    misshapen = [(name, tuple(a), tuple(b)) for name, a, b in incorrect_shapes if name in needed]
    absent = sorted(name for name in needed & missing if id(state[name]) not in given)
    return Fit(
        total=len(needed),
        absent=absent,
        misshapen=misshapen,
        unexpected=sorted(name for name in match.tensors if name not in state and not is_constant(name)),
        layout=match.layout,
        body=match.prefix,
        body_absent=tuple(name for name in absent if name.startswith(match.prefix) and not may_lack(name, state)),
    )
