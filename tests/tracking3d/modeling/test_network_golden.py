"""Networks and detections equal the published program's on weights and pictures that a recipe defines.

Without the reference numbers the pyramid and the proposals of the KITTI model are compared with a small copy.
"""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_backbone, build_proposal_generator
from detectron2.structures import Boxes, ImageList
from released_layout import CONFIGS, LAYOUTS, recipe, recipe_picture, released_shapes

from centernet.config_file import load_config
from centernet.modeling.build import build_detector
from centernet.tracking3d.weights import convert_released
from centernet.weights import SafeCheckpointer

NORMALISED = ["MODEL.DEVICE", "cpu", "MODEL.PIXEL_MEAN", "[0.0, 0.0, 0.0]", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"]
END = torch.tensor([0.0, 0.0, 1.0, 1.0])  # the published boxes include their last pixel
CASES = {
    "network_kitti_dla34.npz": ("QD3DT_DLA34_KITTI", "image.kitti"),
    "network_nusc_r101.npz": ("QD3DT_R101_nuScenes", "image.nusc"),
}


def close(found, expected, tolerance=1e-4):
    """Within a share of the greatest value (the bar is 1e-3)."""
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def check_patches(numbers, features, logits, deltas):
    for name, values in features.items():
        close(values[0, :8, :8, :8], numbers[f"{name}_patch"])
    for i, (cls, reg) in enumerate(zip(logits, deltas, strict=True), start=2):
        if f"rpn_cls{i}_patch" in numbers:
            close(cls[0, :8, :8, :8], numbers[f"rpn_cls{i}_patch"])
            close(reg[0, :8, :8, :8], numbers[f"rpn_reg{i}_patch"])


def check_proposals(numbers, proposals):
    scores = proposals.objectness_logits.sigmoid()
    assert len(proposals) == numbers["n_proposals"]
    assert scores.sum().item() == pytest.approx(float(numbers["proposals_score_sum"]), rel=1e-5)
    close(torch.cat((proposals.proposal_boxes.tensor - END, scores[:, None]), 1)[:20], numbers["proposals20"])


def test_pyramid_and_proposals(tracking3d_data):
    """A third of a model; the whole ones are below."""
    numbers = tracking3d_data("network_kitti_dla34_small.npz")
    cfg = load_config(CONFIGS / "QD3DT_DLA34_KITTI.yaml", NORMALISED)
    backbone = build_backbone(cfg).eval()
    rpn = build_proposal_generator(cfg, backbone.output_shape()).eval()
    shapes = released_shapes(*LAYOUTS["QD3DT_DLA34_KITTI"])
    wanted = {name: shape for name, shape in shapes.items() if name.startswith(("backbone.", "neck.", "rpn_head."))}
    tensors = convert_released({name: recipe(name, shape) for name, shape in wanted.items()}).tensors
    parts = torch.nn.ModuleDict({"backbone": backbone, "proposal_generator": rpn})
    parts.load_state_dict(tensors)
    height, width = map(int, numbers["size_resized"])
    images = ImageList.from_tensors([recipe_picture("image.kitti", height, width)], backbone.size_divisibility)
    with torch.no_grad():
        features = backbone(images.tensor)
        check_patches(numbers, features, *rpn.rpn_head(list(features.values())))
        check_proposals(numbers, rpn(images, features)[0][0])


@pytest.fixture(scope="module", params=CASES)
def network(request, golden3d, tmp_path_factory):
    """A model that has read a file of the published layout, and its numbers."""
    numbers = golden3d(request.param)
    config, tag = CASES[request.param]
    shapes = released_shapes(*LAYOUTS[config])
    path = tmp_path_factory.mktemp("released") / "latest.pth"
    meta = {"mmdet_version": "1", "CLASSES": ("person", "vehicle", "bike"), "config": "model = dict()", "epoch": 24}
    torch.save({"meta": meta, "state_dict": {name: recipe(name, shape) for name, shape in shapes.items()}}, path)
    model = build_detector(load_config(CONFIGS / f"{config}.yaml", NORMALISED)).eval()
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(str(path))
    path.unlink()
    assert checkpointer.fit.layout == "QD-3DT"
    assert checkpointer.fit.differences() == ""
    return model, numbers, tag


def picture(numbers, tag):
    height, width = map(int, numbers["size_original"])
    return {
        "image": recipe_picture(tag, *map(int, numbers["size_resized"])),
        "height": height,
        "width": width,
        "resize_factor": float(numbers["scale_factor"]),
    }


@pytest.mark.slow
def test_every_stage(network):
    model, numbers, tag = network
    with torch.no_grad():
        images = model.preprocess_image([picture(numbers, tag)])
        assert tuple(images.tensor.shape[-2:]) == tuple(numbers["size_pad"])
        close(images.tensor[0, :, :8, :8], numbers["image_patch"])
        body = model.backbone.bottom_up(images.tensor)
        features = model.backbone(images.tensor)
        named = {f"c{i}": values for i, values in enumerate(body.values(), start=2)} | features
        check_patches(numbers, named, *model.proposal_generator.rpn_head(list(features.values())))
        check_proposals(numbers, model.proposal_generator(images, features)[0][0])
        check_heads(model.roi_heads, numbers, features)


def check_heads(heads, numbers, features):
    """Six boxes, one far larger than the picture and one smaller than a cell."""
    rois = Boxes(torch.from_numpy(numbers["rois"]) + END)
    pooled = heads.pooler([features[name] for name in heads.in_features], [rois])
    close(pooled[:, :8], numbers["roi_feat_patch"])
    logits, deltas = heads.box_predictor(heads.box_head(pooled))
    close(logits, np.roll(numbers["bbox_cls"], -1, axis=1))
    close(deltas, numbers["bbox_reg"][:, 4:])
    outputs = heads.box3d_head(pooled)
    names = ("head3d_dep", "head3d_dep_uncer", "head3d_dim", "head3d_rot", "head3d_cen2d")
    for name, found in zip(names, outputs, strict=True):
        by_class = numbers[name].reshape(len(rois), heads.num_classes + 1, -1)[:, 1:]
        close(found.reshape(by_class.shape), by_class)
    close(heads.embedding_head(pooled), numbers["embed"])


@pytest.mark.slow
def test_detections(network):
    model, numbers, tag = network
    found = model([picture(numbers, tag)])[0]["instances"]
    assert found.pred_classes.tolist() == numbers["det_labels"].tolist()  # in the published order
    close(torch.cat((found.pred_boxes.tensor - END, found.scores[:, None]), 1), numbers["det_boxes"])
    close(found.pred_depth[:, None], numbers["det_depth"])
    close(found.pred_depth_confidence[:, None], numbers["det_conf"])
    close(found.pred_alpha[:, None], numbers["det_alpha"])
    close(found.pred_dims, numbers["det_dims"])
    close(found.pred_center2d, numbers["det_cen2d"])
    close(found.embeddings, numbers["det_embeds"])
