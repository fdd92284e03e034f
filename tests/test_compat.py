"""The original package can be replaced by this one: paths, names, signatures, copies side by side, lightness."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances

import centernet
from centernet.compat import PUBLISHED, offer_published_names
from centernet.config import add_centernet_config

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "CenterNet2_R50_1x.yaml"
PROGRAM = Path(__file__).with_name("published_surface.py")
OLD_LAYOUT = "third_party/CenterNet2/projects/CenterNet2"
# where the original's folder lies in its clients, what they put on sys.path, and the parent they import it by
VARIANTS = {
    "on the path": ("third_party/CenterNet2", "third_party/CenterNet2", ""),
    "layout before 2022": (OLD_LAYOUT, OLD_LAYOUT, ""),
    "third_party": ("third_party/CenterNet2", "", "third_party.CenterNet2"),
    "vendored twice over": ("Detic/third_party/CenterNet2", "", "Detic.third_party.CenterNet2"),
    "beside": ("CenterNet2", "", "CenterNet2"),
    "models": ("models/CenterNet2", "", "models.CenterNet2"),
    "projects": ("projects/x/models", "", "projects.x.models"),
}  # fmt: skip


def place(root, folder, how):
    """Our tree at ``root / folder``, as a copy or as symbolic links."""
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    for name in ("centernet", "train_net.py"):
        if how == "link":
            (target / name).symlink_to(ROOT / name)
        elif (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)


def run(root, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    child = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


def import_all(root, parents, folders):
    return run(root, PROGRAM, json.dumps([parents, [str(root / folder) for folder in folders], str(CONFIG)]))


def test_all_parents_in_one_process(tmp_path):
    """Six copies: every path and name below each, none mixed with another's, though one registers for all."""
    variants = {name: variant for name, variant in VARIANTS.items() if name != "on the path"}
    for number, (folder, _, _) in enumerate(variants.values()):
        place(tmp_path, folder, ("copy", "link")[number % 2])
    folders, parents = ({variant[part]: None for variant in variants.values()} for part in (1, 2))
    assert import_all(tmp_path, list(parents), list(folders)) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["copy", "link"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_parent_in_a_process_of_its_own(variant, how, tmp_path):
    folder, on_path, parent = VARIANTS[variant]
    place(tmp_path, folder, how)
    assert import_all(tmp_path, [parent], [on_path]) == []


CALLS_OF_SETUP = """
import json
from argparse import Namespace
from CenterNet2.train_net import setup
cfg = setup(Namespace(config_file=CONFIG, opts=["MODEL.DEVICE", "cpu", "OUTPUT_DIR", "here/auto"], eval_only=False))
print(json.dumps([cfg.is_frozen(), cfg.OUTPUT_DIR, cfg.MODEL.CENTERNET.ONLY_PROPOSAL]))
"""


def test_setup_of_the_training_script(tmp_path):
    """From the folder above, without the package on the path."""
    place(tmp_path, "CenterNet2", "copy")
    program = CALLS_OF_SETUP.replace("CONFIG", repr(str(CONFIG)))
    assert run(tmp_path, "-c", program) == [True, "here/CenterNet2_R50_1x", True]
    assert sorted(os.listdir(tmp_path)) == ["CenterNet2"]


SIGNATURES = {
    "modeling.dense_heads.utils.reduce_sum": "tensor",
    "modeling.dense_heads.utils._transpose": "training_targets num_loc_list",
    "modeling.layers.heatmap_focal_loss.heatmap_focal_loss_jit": "inputs targets pos_inds labels alpha beta gamma "
    "reduction sigmoid_clamp ignore_high_fp",
    "modeling.layers.heatmap_focal_loss.binary_heatmap_focal_loss_jit": "inputs targets pos_inds alpha beta gamma "
    "sigmoid_clamp ignore_high_fp",
    "modeling.layers.iou_loss.IOULoss": "loc_loss_type",
    "modeling.layers.iou_loss.IOULoss.forward": "self pred target weight reduction",
    "modeling.layers.iou_loss.giou_loss": "boxes1 boxes2 reduction eps",
    "modeling.layers.ml_nms.ml_nms": "boxlist nms_thresh max_proposals score_field label_field",
    "modeling.layers.deform_conv.DFConv2d": "in_channels out_channels with_modulated_dcn kernel_size stride groups "
    "dilation deformable_groups bias padding",
    "modeling.roi_heads.fed_loss.load_class_freq": "path freq_weight",
    "modeling.roi_heads.fed_loss.get_fed_loss_inds": "gt_classes num_sample_cats C weight fed_cls_inds",
    "modeling.backbone.fpn_p5.LastLevelP6P7_P5": "in_channels out_channels",
    "modeling.backbone.dlafpn.dla34": "cfg pretrained",
    "modeling.backbone.bifpn.BiFPN": "cfg bottom_up in_features out_channels norm num_levels num_bifpn separable_conv",
    "modeling.debug.debug_train": "images gt_instances flattened_hms reg_targets labels pos_inds shapes_per_level "
    "locations strides",
    "modeling.debug.debug_test": "images logits_pred reg_pred agn_hm_pred preds vis_thresh debug_show_name mult_agn",
    "modeling.debug.debug_second_stage": "images instances proposals vis_thresh save_debug debug_show_name",
    "data.transforms.custom_augmentation_impl.EfficientDetResizeCrop": "size scale interp",
    "data.transforms.custom_transform.EfficientDetResizeCropTransform": "scaled_h scaled_w offset_y offset_x "
    "img_scale target_size interp",
    "data.custom_build_augmentation.build_custom_augmentation": "cfg is_train",
    "data.custom_dataset_dataloader.build_custom_train_loader": "cfg mapper",
    "data.datasets.coco.register_distill_coco_instances": "name metadata json_file image_root",
    "modeling.meta_arch.centernet_detector.CenterNetDetector": "cfg",
}


@pytest.mark.parametrize("path, published", SIGNATURES.items())
def test_signature(path, published):
    scope = {}
    module = path.rpartition(".IOULoss.")[0] or path.rpartition(".")[0]
    exec(f"import centernet.{module}; value = centernet.{path}", scope)
    parameters = list(inspect.signature(scope["value"]).parameters.values())
    names = published.split()
    assert [p.name for p in parameters[: len(names)]] == names
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters[: len(names)])
    assert all(p.default is not p.empty for p in parameters[len(names) :])  # ours come after, and may be left out


def test_defaults_of_the_first_stage_are_those_of_the_config():
    cfg = get_cfg()
    add_centernet_config(cfg)
    defaults = {p.name: p.default for p in inspect.signature(centernet.CenterNet.__init__).parameters.values()}
    renamed = {"INFERENCE_TH": "score_thresh", "SOI": "sizes_of_interest", "FPN_STRIDES": "strides"}
    renamed |= {f"NMS_TH_{mode}": f"nms_thresh_{mode.lower()}" for mode in ("TRAIN", "TEST")}
    # of the head, which the first stage is handed ready-made
    head = {"NORM", "USE_DEFORMABLE", "NUM_CLS_CONVS", "NUM_BOX_CONVS", "NUM_SHARE_CONVS", "PRIOR_PROB"}
    for key, value in cfg.MODEL.CENTERNET.items():
        if key not in head:
            default = defaults[renamed.get(key, key.lower())]
            assert (
                torch.equal(torch.tensor(default), torch.tensor(value))
                if key == "SOI"
                else (list(default) == value if isinstance(value, list) else default == value)
            ), key
    assert (defaults["in_channels"], defaults["vis_thresh"], defaults["device"]) == (256, 0.5, "cuda")
    assert defaults["not_clamp_box"] is defaults["debug"] is False
    assert defaults["centernet_head"] is None


def test_focal_losses():
    """The vectors of the specification, section 13.1."""
    from centernet.modeling.layers.heatmap_focal_loss import binary_heatmap_focal_loss_jit, heatmap_focal_loss_jit

    logits = torch.tensor([[0.3, -1], [2, 0.5], [-3, 4]])
    targets = torch.tensor([[1, 0.2], [0.5, 0], [0, 0.9]])
    zero = torch.tensor([0])
    rules = {"alpha": 0.25, "beta": 4, "gamma": 2, "sigmoid_clamp": 1e-4}

    def close(loss, *expected):
        assert [float(part) for part in loss] == pytest.approx(expected, rel=1e-4)

    close(heatmap_focal_loss_jit(logits, targets, zero, zero, **rules, reduction="sum"), 0.0250983, 0.3677393)
    close(heatmap_focal_loss_jit(logits, targets, zero, zero, **rules, ignore_high_fp=0.85), 0.0250983, 0.2901012)
    for shape in ((-1,), (-1, 1)):  # of one channel
        column = logits[:, 0].reshape(shape), targets[:, 0].reshape(shape), zero
        close(binary_heatmap_focal_loss_jit(*column, **rules), 0.02509832, 0.07742935)
        close(binary_heatmap_focal_loss_jit(*column, **rules, ignore_high_fp=0.85), 0.02509832, 8.196e-5)
    close(heatmap_focal_loss_jit(logits, targets, zero, zero), 4 * 0.0250983, 0.3677393 / 0.75)  # alpha -1: no weights
    with pytest.raises(ValueError, match="use 'sum'"):
        heatmap_focal_loss_jit(logits, targets, zero, zero, reduction="mean")


@pytest.mark.parametrize("kind, value", [("iou", 0.67688668), ("linear_iou", 0.49180329), ("giou", 0.53942233)])
def test_iou_loss(kind, value):
    from centernet.modeling.layers.iou_loss import IOULoss

    pred, target = torch.tensor([[2.0, 3, 4, 5]] * 2), torch.tensor([[1.0, 1, 5, 6]] * 2)
    loss = IOULoss(kind)
    assert loss(pred, target, reduction="none").tolist() == pytest.approx([value] * 2, rel=1e-5)
    assert float(loss(pred, target)) == pytest.approx(2 * value, rel=1e-5)
    assert float(loss(pred, target, torch.tensor([0.5, 3.0]))) == pytest.approx(3.5 * value, rel=1e-5)
    batched = loss(pred[None].expand(3, -1, -1), target[None].expand(3, -1, -1), reduction="batch")
    assert batched.tolist() == pytest.approx([2 * value] * 3, rel=1e-5)
    with pytest.raises(ValueError, match="'mean'"):
        loss(pred, target, reduction="mean")


def test_nms_of_a_list_of_boxes():
    from centernet.modeling.layers.ml_nms import ml_nms

    boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9.5], [50, 50, 60, 60]]))
    scores = torch.tensor([0.5, 0.9, 0.7, 0.6])
    found = Instances((64, 64), pred_boxes=boxes, scores=scores, pred_classes=torch.tensor([0, 0, 1, 0]))
    assert ml_nms(found, 0.6).scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert ml_nms(found, 0.6, max_proposals=2).scores.tolist() == pytest.approx([0.9, 0.7])
    assert ml_nms(found, 0) is found
    proposals = Instances((64, 64), proposal_boxes=boxes, scores=scores)
    assert ml_nms(proposals, 0.6).scores.tolist() == pytest.approx([0.9, 0.6])


def test_targets_by_level():
    from centernet.modeling.dense_heads.utils import _transpose, reduce_sum

    per_image = [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])]
    assert [level.tolist() for level in _transpose(per_image, [2, 1])] == [[1, 2, 4, 5], [3, 6]]
    assert [target.tolist() for target in per_image] == [[1, 2, 3], [4, 5, 6]]
    assert reduce_sum(per_image[0]) is per_image[0]


def test_federated_classes():
    """The vector of the specification, section 13.5."""
    from centernet.modeling.roi_heads.fed_loss import get_fed_loss_inds

    torch.manual_seed(0)
    weight = torch.arange(1, 21).float().sqrt()
    labels = torch.tensor([3, 3, 7, 20])
    assert get_fed_loss_inds(labels, num_sample_cats=6, C=20, weight=weight).tolist() == [3, 7, 20, 17, 11, 6]


def test_dla34():
    from centernet.modeling.backbone.dlafpn import dla34

    cfg = get_cfg()
    add_centernet_config(cfg)
    shapes = dla34(cfg, pretrained=False).output_shape()
    assert [(name, s.channels, s.stride) for name, s in shapes.items()] == [
        (f"dla{i}", 16 * 2**i, 2**i) for i in range(6)
    ]


def test_asking_twice_and_in_vain():
    before = {name: module for name, module in sys.modules.items() if name.startswith("centernet.")}
    offer_published_names("centernet")
    assert {name: module for name, module in sys.modules.items() if name.startswith("centernet.")} == before
    for path in PUBLISHED:
        module = sys.modules[f"centernet.{path}"]
        assert set(PUBLISHED[path]) <= set(dir(module))
        assert not hasattr(module, "never_published")


LIGHT = """
import json, sys, time
import detectron2.config, detectron2.data, detectron2.modeling, detectron2.structures, detectron2.utils.comm
before, start = set(sys.modules), time.process_time()
import centernet
seconds = time.process_time() - start
print(json.dumps([sorted({name.partition(".")[0] for name in set(sys.modules) - before}), seconds]))
"""


def test_importing_the_package_is_light():
    """No heavy package beyond detectron2's own, and (the best of three) under half a second of CPU."""
    heavy = {"cv2", "timm", "matplotlib", "safetensors", "faster_coco_eval", "lvis", "sklearn", "skimage", "scipy"}
    heavy |= {"rich", "wandb", "mlflow"}
    seconds = []
    for _ in range(3):
        imported, took = run(ROOT, "-c", LIGHT)
        assert not heavy & set(imported)
        seconds.append(took)
        if took < 0.5:
            break
    assert min(seconds) < 0.5
