"""A function on tensors of fixed shapes as one CUDA graph: a single launch instead of hundreds of kernels'."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["CUDAGraphs"]

_WARM_UP = 3  # runs before a capture: libraries choose their kernels and allocate


class CUDAGraphs:
    """Captures ``function`` once for each shape and type of its arguments, and replays.

    Graphs share memory, so calls follow one another, also from several threads and streams. Results are copies.

    Args:
        function: tensors on one GPU in, any nesting of tensors out; no host synchronisation.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Any]] = {}
        self._done: torch.cuda.Event | None = None  # the last replay and the copies of its results
        self._pool: Any = None

    def __call__(self, *args: Tensor) -> Any:
        """
        Raises:
            RuntimeError: ``function`` cannot be captured.
        """
        key = tuple((arg.shape, arg.dtype, arg.device) for arg in args)
        with self._lock, torch.cuda.device(args[0].device):
            stream = torch.cuda.current_stream()
            if self._done is not None:
                stream.wait_event(self._done)
            if key not in self._graphs:
                self._graphs[key] = self._capture(args)
            graph, inputs, outputs = self._graphs[key]
            for static, arg in zip(inputs, args, strict=True):
                static.copy_(arg)
            graph.replay()
            results = tree_map(Tensor.clone, outputs)
            self._done = stream.record_event()
        return results

    def _capture(self, args: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Any]:
        inputs = tuple(arg.clone() for arg in args)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._function(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # other threads may allocate or wait meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = self._function(*inputs)
        return graph, inputs, outputs
