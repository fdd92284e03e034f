"""The ways to run a model that `benchmark.py inference` compares: each becomes a call without arguments that takes one
batch from the tensor of pictures to detections."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from centernet.modeling.fixed_size import FixedSizeDetector

from .detectors import config_of, detector, is_rival

__all__ = [
    *("EAGER", "OPTIMISED", "VARIANTS", "Case"),
    *("build_call", "count_detections", "default_variants", "pictures", "watched_call"),
]

# of our models: as Predictor runs them, and as model(batched_inputs)
EAGER, PUBLISHED, OPTIMISED = "eager", "eager, published bits", "optimised"
HALF = {"cpu": "eager, bfloat16", "cuda": "eager, float16"}
FORMATS = {"TorchScript": "torchscript", "torch.export": "torch_export", "onnxruntime": "onnx"}
_SUFFIXES = {"torchscript": ".ts", "torch_export": ".pt2", "onnx": ".onnx"}


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        model: a name of :data:`~.detectors.RIVALS`, of the model zoo, or a YAML file.
        variant: of :data:`VARIANTS`.
        size: height and width of the pictures, pixels.
        weights: a file; '' for random weights.
        fitted: norms of random weights are fitted to the pictures.
        folder: where exported files are and are put.
    """

    model: str
    variant: str
    device: str
    size: tuple[int, int]
    batch: int
    weights: str = ""
    opts: tuple[str, ...] = ()
    fitted: bool = False
    folder: str = ""

    def detector(self) -> nn.Module:
        return detector(self.model, self.device, self.size, self.weights, self.opts, self.fitted)


def pictures(size: tuple[int, int], batch: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Noise: uint8 ``[B, 3, H, W]``, and the sizes, int64 ``[B, 2]``."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, *size), generator=generator, dtype=torch.uint8)
    return images.to(device), torch.tensor([size] * batch, device=device)


def build_call(case: Case) -> Callable[[], Any]:
    """A call that runs one batch and returns the detections, on the device.

    Raises:
        UserError, ImportError: this variant is not to be had here.
    """
    return VARIANTS[case.variant](case)


def watched_call(case: Case) -> tuple[Callable[[], Any], nn.Module]:
    """A call of the eager or optimised variant, uncompiled, and the model whose modules it runs.

    Raises:
        UserError, ImportError: this variant is not to be had here.
    """
    if case.variant == EAGER:
        return _eager(case), case.detector()
    model = _optimised_detector(case, compile=False, cuda_graphs=False)
    inputs = pictures(case.size, case.batch, case.device)
    return lambda: model(*inputs), model.model


def default_variants(model: str, device: str) -> list[str]:
    """Those that make sense for a model on a device."""
    half = [HALF["cuda"]] if device == "cuda" else []  # bfloat16 under autocast pays on few CPUs: by name only
    if is_rival(model):
        return [EAGER, *half]
    return [EAGER, *half, PUBLISHED, OPTIMISED, *(FORMATS if device == "cpu" else ())]


def _eager(case: Case) -> Callable[[], Any]:
    if is_rival(case.model):
        return _published(case)
    from centernet.inference.network import Network

    network, batch = Network(config_of(case.model, case.device, case.opts), case.detector()), _batch(case)
    return lambda: network(batch)


def _published(case: Case) -> Callable[[], Any]:
    model, batch = case.detector(), _batch(case)
    return lambda: model(batch)


def _batch(case: Case) -> list[dict[str, Any]]:
    images, _ = pictures(case.size, case.batch, case.device)
    height, width = case.size
    return [{"image": image, "height": height, "width": width} for image in images]


def _half(case: Case) -> Callable[[], Any]:
    call, kind = _eager(case), case.device
    dtype = torch.float16 if kind == "cuda" else torch.bfloat16

    def run() -> Any:
        with torch.autocast(kind, dtype):
            return call()

    return run


def _optimised_detector(case: Case, **options: Any) -> Any:
    from centernet.inference.optimization import optimize_detector

    return optimize_detector(FixedSizeDetector(case.detector()), canvases=[case.size], **options)


def _optimised(case: Case) -> Callable[[], Any]:
    model = _optimised_detector(case)
    inputs = pictures(case.size, case.batch, case.device)
    return lambda: model(*inputs)


def _exported(case: Case) -> Callable[[], Any]:
    from centernet.export import export_model, load_exported

    form = FORMATS[case.variant]
    height, width = case.size
    name = f"{Path(case.model).stem}-{height}x{width}-{case.batch}{_SUFFIXES[form]}"
    path = Path(case.folder) / name
    if not path.exists():
        fixed = {"dynamic": False, "height": height, "width": width, "batch": case.batch}
        inside = {"preprocess": False, "postprocess": False}
        cfg = config_of(case.model, case.device, case.opts)
        export_model(FixedSizeDetector(case.detector()), path, cfg=cfg, format=form, **fixed, **inside)
    model = load_exported(path)
    inputs = pictures(case.size, case.batch)
    return lambda: model(*inputs)


VARIANTS: dict[str, Callable[[Case], Callable[[], Any]]] = {
    EAGER: _eager,
    **dict.fromkeys(HALF.values(), _half),
    PUBLISHED: _published,
    OPTIMISED: _optimised,
    **dict.fromkeys(FORMATS, _exported),
}


def count_detections(found: Any) -> int:
    """How many boxes a call of any variant has found in its batch."""
    if isinstance(found, list):
        return sum(len(item["instances"] if "instances" in item else item["boxes"]) for item in found)
    return int(torch.as_tensor(found.valid).sum())
