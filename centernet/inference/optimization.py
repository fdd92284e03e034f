"""A detector made fast for inference: folded norms, channels-last, half precision, compiled, as CUDA graphs."""

import copy
import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.fixed_size import FixedSizeDetector
from ..ops.detections import PaddedDetections
from .canvases import Canvases
from .compilation import CompiledModules, in_compiler_thread
from .cuda_graphs import CUDAGraphs
from .fold_norms import fold_norms
from .low_precision import DTYPES, fastest_precision, place_in_memory, use_precision

__all__ = ["OptimizedDetector", "optimize_detector"]

_logger = logging.getLogger(__name__)


def optimize_detector(
    detector: FixedSizeDetector,
    *,
    precision: str = "auto",
    channels_last: bool | None = None,
    compile: bool | None = None,
    canvases: Sequence[tuple[int, int]] = (),
    cuda_graphs: bool | None = None,
) -> "OptimizedDetector":
    """A copy of ``detector`` that is called alike and finds the same, faster.

    Args:
        detector: in evaluation mode; stays as it is.
        precision: of the heavy layers, 'float32', 'bfloat16', 'float16' or 'auto': bfloat16 where the hardware
            multiplies it, float16 on older GPUs, else float32. See :mod:`.low_precision`.
        channels_last: memory layout of maps; None: on CPUs and in half precision.
        compile: backbone, first-stage head and box heads go through ``torch.compile`` at the first batch of a size.
            None: on GPUs; on CPUs oneDNN's kernels are what takes the time, and a compiled model is 0 to 5 % faster.
        canvases: heights and widths in pixels that batches are padded to if ``compile`` or ``cuda_graphs``; larger
            batches run uncompiled. Padding changes results (GroupNorm sees it). None given: nothing is padded, and the
            first 8 sizes that come are compiled.
        cuda_graphs: replay one graph a canvas and batch size; None: on GPUs.

    Raises:
        UserError: an unknown precision, or one that the device does not compute; canvases that do not suit the model;
            ``cuda_graphs`` without a GPU.
    """
    device: torch.device = detector.model.pixel_mean.device  # type: ignore[union-attr, assignment]
    if precision not in ("auto", *DTYPES):
        raise UserError(f"precision is {precision!r}, but must be 'auto', 'float32', 'bfloat16' or 'float16'")
    dtype = DTYPES[fastest_precision(device) if precision == "auto" else precision]
    if cuda_graphs and device.type != "cuda":
        raise UserError(f"CUDA graphs need a GPU, but this model is on {device.type}: leave cuda_graphs out")
    fast = FixedSizeDetector(copy.deepcopy(detector.model).eval().requires_grad_(False), fast=True)
    with torch.no_grad():
        folded = fold_norms(fast, lambda: _small_run(fast))
        use_precision(fast, dtype)
        if channels_last or (channels_last is None and (device.type == "cpu" or dtype != torch.float32)):
            place_in_memory(fast)
    _logger.debug("Folded %d norms; heavy layers in %s", folded, dtype)
    compile, cuda_graphs = (device.type == "cuda" if wish is None else wish for wish in (compile, cuda_graphs))
    return OptimizedDetector(fast.model, Canvases(canvases, fast.divisor), compile=compile, cuda_graphs=cuda_graphs)


def _small_run(detector: FixedSizeDetector) -> tuple[list[Tensor], Any]:
    """Through every layer; what is compared are the maps (boxes of equal scores may change places)."""
    side = -(-64 // detector.divisor) * detector.divisor
    device: Any = detector.model.pixel_mean.device  # type: ignore[union-attr]
    noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255
    sizes = torch.tensor([[side, side]], device=device)
    features = detector.features(detector.normalise(noise.to(device), sizes))
    if detector.two_stage:
        detector.classify(features, detector.propose(features, sizes), sizes)
    return list(features.values()), detector.model.proposal_generator.maps(features)  # type: ignore[union-attr, operator]


class OptimizedDetector(FixedSizeDetector):
    """What :func:`optimize_detector` returns. May be called from several threads; copied and pickled if nothing is
    compiled."""

    def __init__(self, model: nn.Module, canvases: Canvases, *, compile: bool, cuda_graphs: bool) -> None:
        """``model`` is the detector's own: its heavy modules get other forward methods."""
        super().__init__(model, fast=True)
        self._canvases = canvases
        self._lock = threading.Lock()
        self._prepared: set[Any] = set()  # shapes and types of images
        self._compiled = CompiledModules(self._heavy_modules()) if compile else None
        self._graphs = CUDAGraphs(self._detect) if cuda_graphs else None

    def forward(self, images: Tensor, image_sizes: Tensor) -> PaddedDetections:
        """See :meth:`.FixedSizeDetector.forward`. The first batch of a size takes long if it is compiled."""
        return self.detect_with_objectness(images, image_sizes)[0]

    def detect_with_objectness(self, images: Tensor, image_sizes: Tensor) -> tuple[PaddedDetections, Tensor]:
        """See :meth:`.FixedSizeDetector.detect_with_objectness`."""
        if self._compiled is None and self._graphs is None:
            return self._detect(images, image_sizes)
        with self._lock:
            placed = self._canvases.place(images)
        if placed is None:
            return self._detect(images, image_sizes)
        key = placed.shape, placed.dtype
        if key in self._prepared:
            return self._run(placed, image_sizes)
        with self._lock:
            result = in_compiler_thread(self._run, placed, image_sizes)
            self._prepared.add(key)
        return result  # type: ignore[no-any-return]

    def warm_up(self, batch_sizes: Sequence[int] = (1,), *, dtype: torch.dtype = torch.uint8) -> None:
        """Compile and capture ahead, for all canvases so far and for batches of ``batch_sizes`` images of ``dtype``."""
        device: Any = self.model.pixel_mean.device
        for height, width in self._canvases.sizes:
            for batch in batch_sizes:
                images = torch.zeros((batch, 3, height, width), dtype=dtype, device=device)
                self(images, torch.tensor([[height, width]] * batch, device=device))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_lock": threading.Lock()})

    def _run(self, images: Tensor, image_sizes: Tensor) -> tuple[PaddedDetections, Tensor]:
        with self._compiled.active() if self._compiled else nullcontext():
            graphs = self._graphs
            if graphs is None:
                return self._detect(images, image_sizes)
            try:
                return graphs(images, image_sizes)  # type: ignore[no-any-return]
            except RuntimeError as error:
                result = self._detect(images, image_sizes)  # raises again if it was not the capture
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                _logger.warning("This model runs without CUDA graphs: %s", reason)
                self._graphs = None
                return result

    def _detect(self, images: Tensor, image_sizes: Tensor) -> tuple[PaddedDetections, Tensor]:
        # one mode whoever calls: a graph of the other is compiled anew
        with torch.inference_mode(False), torch.no_grad():
            return super().detect_with_objectness(images, image_sizes)

    def _heavy_modules(self) -> list[nn.Module]:
        heads = [head for head, _ in self._second_stage._stages()] if self.two_stage else []
        return [self.model.backbone, self._first_stage.centernet_head, *heads]  # type: ignore[list-item]
