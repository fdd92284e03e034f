"""Published models in all formats on real pictures; ``python tests/export/agreement.py`` prints the whole table."""

import os
from pathlib import Path

import pytest
import torch
from agreement import DEFORMABLE, MODELS, PICTURES, batches, build, difference, in_format

FOLDER = Path(os.environ.get("CENTERNET_DATA", PICTURES.parents[2])) / "coco_mini" / "images" / "val"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs pictures in {FOLDER}"),
]


@torch.no_grad()
@pytest.mark.parametrize(
    "model, form",
    [
        *((model, "onnx") for model in MODELS),
        (MODELS[1], "torchscript"),
        (MODELS[1], "torch_export"),
        (DEFORMABLE[0], "onnx"),
        (DEFORMABLE[0], "torchscript"),
    ],
)
def test_finds_what_eager_finds(tmp_path, model, form):
    cfg, detector = build(model)
    files = sorted(FOLDER.glob("*.jpg"))[:5]
    cases = list(batches(cfg, detector.divisor, files, canvases=[(256, 384)]))
    expected = [detector(*inputs) for inputs in cases]
    found, _ = difference(cfg, cases, expected, in_format(form, cfg, detector, tmp_path))
    assert found.detections > 100
    assert found.missing == 0
    assert found.at_the_cut <= 0.01 * found.detections
