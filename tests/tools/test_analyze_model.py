"""Counts of a model by part: the published sizes, and work that fits hand counts."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import deform_conv2d

sys.path.append(str(Path(__file__).resolve().parents[1] / "engine"))
from small_run import write_config


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("analyze_model")


# parameters, trainable, backbone with neck, first stage, ROI heads: specification, section 6.5
PUBLISHED = {
    "CenterNet-FPN_R50_1x": (32241945, 32019545, 27323584, 4918361, 0),
    "CenterNet2-F_R50_1x": (43680287, 43457887, 27323584, 2373898, 13982805),
    "CenterNet2_DLA-BiFPN-P3_4x": (47618043, 47618043, 19189588, 930728, 27497727),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(tool, name):
    report = tool.analyze(name, [])
    part = {row["part"]: row["parameters"] for row in report["parts"]}
    boxes = sum(count for words, count in part.items() if words.startswith("box "))
    first = part["first-stage head"] + part["rest of the first stage"]
    sums = part["backbone"] + part["neck"], first, boxes
    assert (report["parameters"], report["trainable"], *sums) == PUBLISHED[name]
    assert sum(part.values()) == report["parameters"]


def test_work_of_a_small_model(tool, tmp_path, capsys):
    config = str(write_config(tmp_path))
    file = tmp_path / "a.json"
    assert tool.main([config, "--size", "64", "96", "--size", "96", "128", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "GFLOP, 64 x 96 | M activations, 64 x 96 | GFLOP, 96 x 128 |" in out
    assert "Not counted (operator, calls): " in out
    assert not {"nms_best", "roi_align_levels"} & set(out.replace(",", " ").split())

    (report,) = json.loads(file.read_text())
    for kind in ("flops", "activations"):
        assert report[kind][1] > report[kind][0] > 0
        assert sum(row[kind][0] for row in report["parts"]) == report[kind][0]
    part = {row["part"]: row for row in report["parts"]}
    assert [words for words in part if words.startswith("box head")] == ["box head 1", "box head 2", "box head 3"]
    inputs, width, regions = 32 * 7 * 7, 32, 20
    assert part["box head 1"]["flops"] == [regions * (inputs * width + width * width)] * 2
    assert part["ROI pooling, scores, NMS"]["activations"] == [3 * regions * inputs] * 2


@pytest.mark.slow
def test_a_rival_is_compared(tool, tmp_path, capsys):
    assert tool.main([str(write_config(tmp_path)), "--size", "64", "96", "--against", "faster_rcnn"]) == 0
    out = capsys.readouterr().out
    assert "| box head | 13,895,680 | " in out
    assert "small / Faster R-CNN R50-FPN (detectron2): parameters 0." in out


def test_a_deformable_convolution_counts_its_samples(tool):
    class Layer(nn.Module):
        def forward(self, x, offset, weight):
            return deform_conv2d(x, offset, weight, padding=1)

    from fvcore.nn import FlopCountAnalysis

    inputs = torch.zeros(1, 4, 8, 8), torch.zeros(1, 18, 8, 8), torch.zeros(6, 4, 3, 3)
    flops = FlopCountAnalysis(Layer(), inputs).set_op_handle(**tool.HANDLERS)
    assert flops.total() == 6 * 64 * 4 * 9 + 4 * 4 * 9 * 64
    assert not flops.unsupported_ops()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["CenterNet2_R50_2x"], "did you mean"),
        (["no_net"], "there is no model"),
        (["x.yaml", "--size", "8", "8"], "at least 32 pixels"),
    ],
)
def test_mistakes_are_one_sentence(tool, words, sentence, capsys):
    assert tool.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1
