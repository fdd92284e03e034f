"""Whole small detectors as files, on the photographs of the package."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_cfg, tiny_model

from centernet.errors import UserError
from centernet.export import build, export_model, load_exported
from centernet.export.metadata import KEYS
from centernet.modeling.fixed_size import FixedSizeDetector

ROOT = Path(__file__).resolve().parents[2]
ONE_STAGE, SINGLE, CASCADE = "CenterNet-FPN_R50_1x", "CenterNet2-F_R50_1x", "CenterNet2_R50_1x"
FEW = ["MODEL.CENTERNET.PRE_NMS_TOPK_TEST", 60, "MODEL.CENTERNET.POST_NMS_TOPK_TEST", 60]
SIZES = ["INPUT.MIN_SIZE_TEST", 128, "INPUT.MAX_SIZE_TEST", 192]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]
PHOTOS = sorted((ROOT / "centernet" / "export" / "photos").glob("*.jpg"))
FULL = ["MODEL.CENTERNET.POST_NMS_TOPK_TEST", 8]  # a list that is always full
NAMES = ["ant", "bee", "cow", "dog", "elk"]


def detector(name, *opts):
    words = [*FEW, *SIZES, *opts]
    return tiny_cfg(name, *words), FixedSizeDetector(tiny_model(name, *words))


def export(path, name=CASCADE, opts=(), **options):
    cfg, model = detector(name, *opts)
    options = {"height": 128, "width": 192, "model": "small", "class_names": NAMES, **options}
    return cfg, model, export_model(model, path, cfg=cfg, **options)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """A two-stage model: pictures of one size in, boxes in their pixels out."""
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    options = {"dynamic": False, "height": 90, "width": 120, "preprocess": True, "postprocess": True}
    return path, *export(path, SINGLE, format="onnx", **options)


def as_evaluation(model, cfg, picture_bgr):
    """Detections by detectron2's lists."""
    from centernet.data import build_test_resize

    resized = build_test_resize(cfg).get_transform(picture_bgr).apply_image(picture_bgr)
    image = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    height, width = picture_bgr.shape[:2]
    with torch.no_grad():
        return model.model([{"image": image, "height": height, "width": width}])[0]["instances"]


def test_a_file_says_what_it_is(onnx_file):
    path, cfg, _, metadata = onnx_file
    loaded = load_exported(path)
    assert loaded.metadata == metadata
    assert tuple(sorted(metadata)) == tuple(sorted(KEYS))
    assert json.loads(metadata["class_names"]) == NAMES
    assert (metadata["model"], metadata["input_format"]) == ("small", "BGR")
    assert loaded.inputs == ["pictures"]
    with pytest.raises(UserError, match="this file takes pictures, but 2 inputs were given"):
        loaded(torch.zeros((1, 3, 64, 64), dtype=torch.uint8), torch.tensor([[64, 64]]))
    assert json.loads(metadata["outputs"]) == ["boxes", "scores", "classes", "valid", "image_sizes"]
    assert json.loads(metadata["canvas"]) == [90, 120]
    check = json.loads(metadata["check"])
    assert check["images"] == len(PHOTOS) == 3
    assert check["detections"] > 50
    assert (check["missing"], check["batches"]) == (0, [1])
    assert check["boxes"] < 0.1
    assert check["scores"] < 1e-4
    assert check["grey_levels"] < 0.1
    assert type(cfg).load_cfg(metadata["config"]).INPUT.MIN_SIZE_TEST == 128
    assert str(ROOT).encode() not in path.read_bytes()


def test_pictures_in_and_boxes_of_pictures_out(onnx_file):
    path, cfg, model, _ = onnx_file
    picture = np.array(Image.open(PHOTOS[0]).convert("RGB").resize((120, 90)))[:, :, ::-1].copy()
    found = load_exported(path)(picture[None])
    expected = as_evaluation(model, cfg, picture)
    boxes = found.boxes[0][found.valid[0]]
    assert len(boxes) == len(expected)
    # grey levels that are rounded otherwise move boxes a little; the first ones stay the first
    assert torch.allclose(boxes[:5], expected.pred_boxes.tensor[:5], atol=1.0)
    assert torch.allclose(found.scores[0][:5], expected.scores[:5], atol=5e-3)


def test_the_runner_needs_no_pytorch(onnx_file, tmp_path, load_tool):
    path, *_ = onnx_file
    small = tmp_path / "picture.png"
    picture = Image.open(PHOTOS[0]).convert("RGB").resize((120, 90))
    picture.save(small)
    command = [sys.executable, ROOT / "tools" / "onnx_runner.py", path, small, "--threshold", "0"]
    watched = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    command[1:1] = ["-c", watched]
    result = subprocess.run(
        [*map(str, command), "--json", str(tmp_path / "found.json")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "found.json").read_text())
    found = load_exported(path)(np.array(picture)[None, :, :, ::-1].copy())
    assert len(rows) == int(found.valid.sum()) == len(result.stdout.splitlines()) > 10
    assert np.allclose([row["box"] for row in rows], found.boxes[0][: len(rows)], atol=0.006)
    assert [row["class"] for row in rows] == [NAMES[c] for c in found.classes[0][: len(rows)]]
    other = subprocess.run([*map(str, command[:-3]), str(PHOTOS[0])], capture_output=True, text=True)
    assert other.returncode == 1
    assert other.stderr.strip().splitlines()[-1] == "error: this file is for pictures of 90 x 120 pixels"


def runs_alone(path, load):
    """Whether another process without this package can run the file on two images."""
    code = (
        f"import sys, torch, torchvision; model = {load}(sys.argv[1]); "
        "model = getattr(model, 'module', lambda: model)(); "
        "found = model(torch.zeros(2, 3, 160, 192, dtype=torch.uint8), torch.tensor([[160, 192], [150, 100]])); "
        "assert found[0].shape[0] == 2, found[0].shape; "
        "assert not {'centernet', 'detectron2'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=path.parent)
    return result.returncode == 0 or pytest.fail(result.stderr)


def test_torchscript_of_any_size(tmp_path):
    path = tmp_path / "model.ts"
    cfg, model, metadata = export(path, format="torchscript", preprocess=True, postprocess=True)
    check = json.loads(metadata["check"])
    assert (check["batches"], check["images"], check["missing"]) == ([1, 2, 5], 24, 0)
    loaded = load_exported(path)
    assert loaded.metadata == metadata
    picture = np.array(Image.open(PHOTOS[1]).convert("RGB"))[:, :, ::-1].copy()
    found, expected = loaded(picture[None]), as_evaluation(model, cfg, picture)
    assert int(found.valid.sum()) == len(expected) > 10
    assert torch.allclose(found.scores[0][:5], expected.scores[:5], atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ending, form, load", [(".ts", "torchscript", "torch.jit.load"), (".pt2", "torch_export", "torch.export.load")]
)
def test_pytorch_files_need_nothing_of_ours(tmp_path, ending, form, load):
    export(tmp_path / f"model{ending}", SINGLE, format=form)
    assert runs_alone(tmp_path / f"model{ending}", load)


def test_a_file_that_finds_something_else_is_not_written(tmp_path, monkeypatch):
    """The captured model has other weights than the one it is compared with."""
    capture = build.torchscript_format.capture

    def of_another(program, *arguments):
        other = copy.deepcopy(program)
        next(other.detector.model.roi_heads.box_predictor.parameters()).data.mul_(1.5)
        return capture(other, *arguments)

    monkeypatch.setattr(build.torchscript_format, "capture", of_another)
    path = tmp_path / "model.ts"
    with pytest.raises(UserError, match=r"torchscript file is not written: of \d+ detections in 12 pictures \d+"):
        export(path, format="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_scores_that_are_all_alike_hide_no_difference(tmp_path, monkeypatch):
    """All classes equal, boxes somewhere else: no detection has a partner, and all are as good as the last one."""
    capture = build.torchscript_format.capture

    def moved(program, *arguments):
        other = copy.deepcopy(program)
        other.detector.model.proposal_generator.centernet_head.bbox_pred.bias.data.add_(3)
        return capture(other, *arguments)

    def all_alike(cfg, model):
        for branch in ("agn_hm", "cls_logits"):
            torch.nn.init.zeros_(getattr(model.model.proposal_generator.centernet_head, branch).weight)
        return cfg, model

    monkeypatch.setattr(build.torchscript_format, "capture", moved)
    cfg, model = all_alike(*detector(ONE_STAGE, "MODEL.CENTERNET.WITH_AGN_HM", True, *FULL))
    options = {"format": "torchscript", "dynamic": False, "height": 128, "width": 192}
    with pytest.raises(UserError, match="too much alike to say why"):
        export_model(model, tmp_path / "model.ts", cfg=cfg, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_of_nothing_is_said(tmp_path, caplog):
    options = {"format": "torchscript", "dynamic": False, "opts": ("MODEL.CENTERNET.INFERENCE_TH", 0.99)}
    *_, metadata = export(tmp_path / "model.ts", ONE_STAGE, **options)
    assert json.loads(metadata["check"])["detections"] == 0
    assert "finds nothing in the 3 pictures" in caplog.text


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"path": "model.pt"}, r"model\.pt must end in \.onnx"),
        ({"format": "tflite"}, "no export format 'tflite': use one of onnx, torchscript, torch_export"),
        ({"height": 100, "dynamic": False}, "multiples of 32, not 100 x 192"),
        ({"batch": 0, "dynamic": False}, "at least 1"),
        ({"opts": ("MODEL.MASK_ON", True)}, "only boxes are exported: set MODEL.MASK_ON to False"),
        ({"path": "model.pt2", "format": "torch_export", "preprocess": True}, "torch_export cannot resize pictures"),
        ({"path": "file/model.onnx"}, "is a file, not a folder"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_one_sentence(tmp_path, options, sentence):
    (tmp_path / "file").write_text("")
    options = {"path": "model.onnx", "format": "onnx", **options}
    with pytest.raises(UserError, match=sentence):
        export(tmp_path / options.pop("path"), **options)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package or "onnx_operators" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install -e '.\[export\]'"):
        export(tmp_path / "model.onnx", format="onnx")


def test_files_that_are_no_exports(tmp_path):
    (tmp_path / "model.ts").write_bytes(b"something")
    with pytest.raises(UserError, match="no exported model"):
        load_exported(tmp_path / "model.pth")
    with pytest.raises(UserError, match="there is no file"):
        load_exported(tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"model\.ts cannot be read"):
        load_exported(tmp_path / "model.ts")


@pytest.mark.slow
@pytest.mark.parametrize("name", [ONE_STAGE, SINGLE, CASCADE])
@pytest.mark.parametrize("ending, form", [(".onnx", "onnx"), (".pt2", "torch_export"), (".ts", "torchscript")])
def test_any_batch_height_and_width(tmp_path, name, ending, form):
    path = tmp_path / f"model{ending}"
    _, model, metadata = export(path, name, format=form, postprocess=True)
    check = json.loads(metadata["check"])
    assert (check["missing"], check["batches"]) == (0, [1, 2, 5])
    images = torch.randint(0, 256, (3, 3, 224, 160), dtype=torch.uint8)
    sizes = torch.tensor([[224, 160], [200, 90], [161, 160]])
    found = load_exported(path)(images, sizes, sizes)
    with torch.no_grad():
        expected = model(images, sizes)
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.slow
def test_torch_export_with_pictures_of_one_size(tmp_path):
    path = tmp_path / "model.pt2"
    options = {"dynamic": False, "height": 90, "width": 120, "batch": 2, "preprocess": True}
    _, _, metadata = export(path, format="torch_export", **options)
    assert json.loads(metadata["check"])["missing"] == 0
    found = load_exported(path)(torch.zeros(2, 90, 120, 3, dtype=torch.uint8))
    assert found.boxes.shape[0] == 2
