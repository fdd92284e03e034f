"""``torch.compile`` of the heavy modules of a model, for calls that ask for it."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import nn

__all__ = ["CompiledModules", "in_compiler_thread"]

_MOST_GRAPHS = 64  # of one function: sizes x batch sizes x modules of one class
_logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _compiler_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="compiler")


# a forked child has none of its parent's threads
os.register_at_fork(after_in_child=_compiler_thread.cache_clear)


def in_compiler_thread(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, in the one thread that compiles: PyTorch 2.11 crashes where a thread goes on with what one
    that has ended began. To run what is compiled, any thread will do."""

    def work() -> Any:
        # each shape is a graph, and beyond the limit PyTorch would silently run uncompiled
        with torch._dynamo.config.patch(recompile_limit=_MOST_GRAPHS, accumulated_recompile_limit=4 * _MOST_GRAPHS):
            return function(*args)

    return _compiler_thread().submit(work).result()


class CompiledModules:
    """Gives ``modules`` a second, compiled forward pass, used inside :meth:`active`. Names and tensors stay.

    What PyTorch cannot compile on this machine runs as it is, with one warning.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._local = threading.local()
        self._failed = False
        for module in modules:
            module.forward = _Forward(self, module.forward)  # type: ignore[method-assign, assignment]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, calls of this thread run compiled. The first one of a shape compiles: :func:`in_compiler_thread`."""
        self._local.active = True
        try:
            yield
        finally:
            self._local.active = False

    @property
    def in_use(self) -> bool:
        return getattr(self._local, "active", False) and not self._failed

    def give_up(self, error: Exception) -> None:
        """``error``: why something could not be compiled, though it runs."""
        if not self._failed:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            _logger.warning("PyTorch cannot compile this model here, so it runs uncompiled: %s", reason)
        self._failed = True


class _Forward:
    def __init__(self, owner: CompiledModules, eager: Any) -> None:
        self._owner = owner
        self._eager = eager
        self._compiled = torch.compile(eager, dynamic=False)

    def __call__(self, *args: Any) -> Any:
        if not self._owner.in_use:
            return self._eager(*args)
        try:
            return self._compiled(*args)
        except Exception as error:  # whatever dynamo, inductor, its C++ compiler or Triton raise
            result = self._eager(*args)  # raises again if it was not the compiler
            self._owner.give_up(error)
            return result
