"""Checkpoints of every published layout fit our models; whatever else they hold is refused."""

import pytest
import torch
import torchvision
from released_layout import CONFIGS, LAYOUTS, parameters, released_shapes

from centernet.config_file import load_config
from centernet.errors import UserError
from centernet.modeling.build import build_detector
from centernet.tracking3d.weights import convert_released, is_released
from centernet.weights import match_names

PARAMETERS = {
    "QD3DT_R101_nuScenes": 91_114_595,
    "QD3DT_R101_Waymo": 89_761_495,
    "QD3DT_DLA34_KITTI": 67_036_577,
    "QD3DT_DLA34_KITTI_subtrain": 67_036_577,
}
TENSORS = {"resnet101": 726, "dla34": 348}


def without_numbers(config):
    """The model and the tensors of its published file, shapes only."""
    with torch.device("meta"):
        model = build_detector(load_config(CONFIGS / f"{config}.yaml", ["MODEL.DEVICE", "meta"]))
        shapes = released_shapes(*LAYOUTS[config])
        return model, shapes, {name: torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("config", LAYOUTS)
def test_every_published_tensor_has_its_place(config):
    model, shapes, tensors = without_numbers(config)
    assert len(shapes) == TENSORS[LAYOUTS[config][0]]
    assert parameters(shapes) == PARAMETERS[config]
    match = match_names(model.state_dict(), {f"module.{name}": value for name, value in tensors.items()})
    assert match.layout == "QD-3DT"
    assert match.left_out == ["embed_head.depth_embed.weight", "embed_head.depth_embed.bias"]
    assert {name: value.shape for name, value in match.tensors.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    own = sum(parameter.numel() for parameter in model.parameters())
    assert own + convert_released(tensors).dropped == PARAMETERS[config]


def test_the_background_moves_or_goes():
    classes = 3
    _, shapes, _ = without_numbers("QD3DT_DLA34_KITTI")
    rows = {"fc_reg": 4, "fc_dep": 1, "fc_dep_uncer": 1, "fc_dim": 3, "fc_rot": 8, "fc_2dc": 2}
    tensors = {name: torch.zeros(1) for name in shapes}
    tensors["bbox_head.fc_cls.bias"] = torch.arange(classes)
    for name, count in rows.items():
        head = "bbox_head" if name == "fc_reg" else "bbox_3d_head"
        tensors[f"{head}.{name}.bias"] = torch.arange(classes).repeat_interleave(count)
    converted = convert_released(tensors).tensors
    assert converted["roi_heads.box_predictor.cls_score.bias"].tolist() == [1, 2, 0]
    for name, count in rows.items():
        own = "box_predictor.bbox_pred" if name == "fc_reg" else f"box3d_head.{name}"
        assert converted[f"roi_heads.{own}.bias"].tolist() == [1] * count + [2] * count


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("backbone.layer2.0.conv2_offset.weight", "deformable convolutions"),
        ("mask_head.convs.0.weight", "mask_head.convs.0.weight"),
        ("bbox_3d_head.fc_dep.scale", "no published model has"),
        ("backbone.level9.tree1.conv1.weight", "level9"),
    ],
)
def test_unknown_entries_are_refused(name, words):
    model, _, tensors = without_numbers("QD3DT_DLA34_KITTI")
    tensors[name] = torch.zeros(1)
    with pytest.raises(UserError, match=words):
        match_names(model.state_dict(), tensors)


@pytest.mark.parametrize("config", ["QD3DT_R101_Waymo", "QD3DT_DLA34_KITTI", "CenterNet2-3DT_DLA34_KITTI"])
def test_imagenet_weights_fill_the_body(config):
    with torch.device("meta"):
        model = build_detector(load_config(CONFIGS / f"{config}.yaml", ["MODEL.DEVICE", "meta"]))
        if "R101" in config:
            tensors = torchvision.models.resnet101().state_dict()
        else:
            body = [name for name in released_shapes("dla34", 7, 20) if name.startswith("backbone.")]
            state = {name: torch.zeros(shape) for name, shape in released_shapes("dla34", 7, 20).items()}
            tensors = {name.removeprefix("backbone."): state[name] for name in body}
            tensors["fc.weight"], tensors["fc.bias"] = torch.zeros(1000, 512, 1, 1), torch.zeros(1000)
    match = match_names(model.state_dict(), tensors)
    assert match.prefix == "backbone.bottom_up."
    assert match.left_out == ["fc.bias", "fc.weight"]
    body = {name: value.shape for name, value in model.state_dict().items() if name.startswith(match.prefix)}
    assert {name: value.shape for name, value in match.tensors.items()} == body


def test_other_files_are_not_taken_for_released_ones():
    model, _, _ = without_numbers("QD3DT_DLA34_KITTI")
    assert not is_released(model.state_dict())
    assert match_names(model.state_dict(), model.state_dict()).layout == "a whole detector"
