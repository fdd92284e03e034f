"""Models of the page by name: made when somebody first chooses them, and shared by all visitors."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

from detectron2.config import CfgNode

from ...config_file import check_weights
from ...errors import UserError
from ..predictor import Predictor
from .findings import LOWEST_SCORE

__all__ = ["ModelShelf"]

_KEPT = 2  # models in memory at a time


class ModelShelf:
    """Models by name, the last two used ones in memory.

    Args:
        configs: ``{name: function that gives the config}``; the first name is the page's default. A function may
            raise ``UserError``.
        optimize: see :class:`~..predictor.Predictor`.
    """

    def __init__(self, configs: Mapping[str, Callable[[], CfgNode]], optimize: bool = False) -> None:
        if not configs:
            raise UserError(
                "the page needs a model: give --config-file FILE --opts MODEL.WEIGHTS FILE, or put weights of the zoo "
                "into a folder and set CENTERNET_WEIGHTS to that"
            )
        self._optimize = optimize
        self._configs = dict(configs)
        self._ready: OrderedDict[str, Predictor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """All names, the default first."""
        return list(self._configs)

    def config(self, name: str) -> CfgNode:
        """The config of a model that has weights.

        Raises:
            UserError: no such model, or it has no weights.
        """
        if name not in self._configs:
            raise UserError(f"this page has no model '{name}': choose one of its list")
        cfg = self._configs[name]().clone()
        if not cfg.MODEL.WEIGHTS:
            raise UserError(
                f"the model {name} has no weights, so it would find nothing that means something: start the page with "
                "--opts MODEL.WEIGHTS FILE, or choose another model"
            )
        check_weights(cfg)
        return cfg

    def get(self, name: str) -> Predictor:
        """The model, which reports every detection from :data:`~.findings.LOWEST_SCORE` on. Visitors wait for one
        another while a model is made.

        Raises:
            UserError: no such model, or its weights are missing, broken or those of another model.
        """
        with self._lock:
            if name not in self._ready:
                self._ready[name] = Predictor(self.config(name), threshold=LOWEST_SCORE, optimize=self._optimize)
            self._ready.move_to_end(name)
            while len(self._ready) > _KEPT:
                self._ready.popitem(last=False)
            return self._ready[name]
