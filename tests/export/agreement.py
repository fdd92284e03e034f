"""Do all formats find what eager finds? The whole table, on real pictures:

python tests/export/agreement.py [--models ...] [--formats ...] [--pictures FOLDER]
"""

import argparse
import sys
import tempfile
import time
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from PIL import Image

from centernet.config_file import load_config
from centernet.export import export_model, load_exported
from centernet.export.checking import EXACT, NO_DIFFERENCE, compare, network_inputs
from centernet.export.metadata import score_threshold
from centernet.export.pictures import ResizeRule
from centernet.export.request import SUFFIXES
from centernet.inference.optimization import optimize_detector
from centernet.modeling.build import build_detector
from centernet.modeling.fixed_size import FixedSizeDetector

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT.parent / "shared" / "data" / "coco_mini" / "images" / "val"
MODELS = [
    "CenterNet-FPN_R50_1x",
    "CenterNet2_R50_1x",
    "CenterNet2-F_R50_1x",
    "CenterNet2_DLA-BiFPN-P3_4x",
    "CenterNet2_DLA-BiFPN-P5_640_16x",
]
DEFORMABLE = ["CenterNet-S4_DLA_8x", "CenterNet2_R2-101-DCN-BiFPN_1280_4x"]
FORMATS = ["compiled", "torchscript", "torch_export", "onnx"]
CANVASES = [(256, 384), (384, 256), (384, 512), (512, 640)]  # five pictures each


def spread_weights(model):
    """Weights from the names of the parameters, with scores and boxes that differ from cell to cell. Random weights as
    a training starts with give scores that are equal but for rounding."""
    state = model.state_dict()
    for key, value in state.items():
        if key.startswith("pixel_") or not value.is_floating_point() or key.endswith("freq_weight"):
            continue
        random = np.random.RandomState(zlib.crc32(key.encode()))
        z = torch.from_numpy(random.standard_normal(tuple(value.shape)).astype(np.float32)).reshape(value.shape)
        if value.ndim > 1:
            gain = 0.5 if "box_predictor" in key else 0.2 if "offset" in key else 1.0
            state[key] = z * gain / np.prod(value.shape[1:]) ** 0.5
        elif key.endswith(("running_var", "scale")) or "weights" in key:  # of a BiFPN: below 0 an edge is dead
            state[key] = 1 + 0.1 * z.abs()
        elif key.endswith(".weight"):
            state[key] = (0.5 if ".res" in key else 1.0) + 0.05 * z  # with 1.0 a ResNet's sums grow and grow
        elif "centernet_head.bbox_pred" in key:
            state[key] = 4 + z
        elif "agn_hm" in key or "cls_logits" in key:
            state[key] = -1 + 0.1 * z
        else:
            state[key] = 0.05 * z
    model.load_state_dict(state)
    return model


def build(name, *opts):
    """Config and detector of a published config, with :func:`spread_weights`."""
    words = ("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *opts)
    cfg = load_config(ROOT / "configs" / f"{name}.yaml", [str(word) for word in words])
    torch.manual_seed(0)
    return cfg, FixedSizeDetector(spread_weights(build_detector(cfg).eval()))


def batches(cfg, divisor, files, canvases=CANVASES, sizes=(1, 2, 5)):
    """Each canvas with its share of the pictures, one, two and five at a time, as the models are shown them."""
    share = len(files) // len(canvases)
    for number, canvas in enumerate(canvases):
        canvas = tuple(-(-side // divisor) * divisor for side in canvas)
        pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files[number * share :][:share]]
        if cfg.INPUT.FORMAT == "BGR":
            pictures = [np.ascontiguousarray(picture[:, :, ::-1]) for picture in pictures]
        for size in sizes:
            for start in range(0, len(pictures) - size + 1, size):
                batch = pictures[start : start + size]
                yield network_inputs(batch, ResizeRule.of(cfg), divisor, canvas, fixed=True)[:2]


def in_format(name, cfg, detector, folder):
    """The detector in another form, called alike."""
    if name == "compiled":
        return optimize_detector(detector, precision="float32", compile=True)
    path = Path(folder) / f"model{SUFFIXES[name]}"
    picture = np.asarray(Image.open(sorted((ROOT / "centernet/export/photos").glob("*.jpg"))[0]))
    export_model(detector, path, cfg=cfg, format=name, height=256, width=256, pictures=[picture])
    return load_exported(path)


@torch.no_grad()
def difference(cfg, cases, expected, other):
    """Of all cases, and CPU seconds."""
    total, began = NO_DIFFERENCE, time.process_time()
    for inputs, wanted in zip(cases, expected, strict=True):
        found = other(*inputs)
        arrays = ([value.numpy() for value in result] for result in (wanted, found))
        total = total.joined(compare(*arrays, EXACT, score_threshold(cfg)))
    return total, time.process_time() - began


@torch.no_grad()
def rows(models, formats, files):
    """Lines of the table."""
    yield "| model | form | detections | boxes, px | scores | at the cut | missing | CPU s | eager |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for model in models:
        cfg, detector = build(model)
        cases = list(batches(cfg, detector.divisor, files))
        began = time.process_time()
        expected = [detector(*inputs) for inputs in cases]
        eager = time.process_time() - began
        for name in formats:
            with tempfile.TemporaryDirectory() as folder:
                other = in_format(name, cfg, detector, folder)
                found, seconds = difference(cfg, cases, expected, other)
            yield (
                f"| {model} | {name} | {found.detections} | {found.boxes:.2g} | {found.scores:.2g} | "
                f"{found.at_the_cut} | {found.missing} | {seconds:.0f} | {eager:.0f} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    for line in rows(options.models, options.formats, sorted(options.pictures.glob("*.jpg"))[: options.count]):
        print(line, flush=True)


if __name__ == "__main__":
    main()
