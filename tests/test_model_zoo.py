"""The zoo's table is whole and true to its sources, and a name is enough to get a config, weights and a model."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathManager
from file_server import serving

from centernet import model_zoo
from centernet.config_file import load_config
from centernet.errors import UserError
from centernet.inference import Predictor
from centernet.model_zoo import checkpoints, register_zoo_addresses, resolve_config_file
from centernet.model_zoo.rows import MOTION_MODELS, PSEUDO_LABELS, ROWS
from centernet.modeling.build import build_detector

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs"
SPECIFICATION = REPOSITORY.parent / "shared" / "spec"
SMALL = "CenterNet2_R18_digits"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("CENTERNET_WEIGHTS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server(monkeypatch):
    with serving() as server:
        monkeypatch.setattr(checkpoints, "DRIVE", server.url + "/{}")
        yield server


@pytest.fixture(scope="module")
def small():
    """A small model with random weights."""
    torch.manual_seed(0)
    return model_zoo.get(SMALL, trained=False, device="cpu")


# ------------------------------------------------------------------------------------------------------- the table


def test_every_config_is_in_the_table_and_every_row_has_one():
    shipped = {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("Base")}
    assert shipped == {row.config for row in ROWS}
    assert len({name for row in (*ROWS, *MOTION_MODELS) for name in (row.name, *row.aliases)}) == 48


@pytest.mark.parametrize("name", model_zoo.names())
def test_every_config_is_read(name):
    assert model_zoo.get_config(name, ["SOLVER.MAX_ITER", "7"]).SOLVER.MAX_ITER == 7


def test_against_the_reference_numbers():
    reference = json.loads((REPOSITORY / "tests" / "golden" / "fingerprints.json").read_text())
    known = {row.name: row for row in ROWS}
    assert {name for name, row in known.items() if row.compared} == set(reference["layout"])
    for name, layout in reference["layout"].items():
        assert known[name].parameters == layout["parameters"], name


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_parameters(row):
    pytest.importorskip("timm") if row.family == "timm" or "MobileNet" in row.name else None
    model = model_zoo.get(row.name, trained=False, device="cpu")
    assert sum(parameter.numel() for parameter in model.parameters()) == row.parameters
    assert not model.training


@pytest.mark.skipif(not SPECIFICATION.is_dir(), reason="the specification is not here")
def test_against_the_published_text():
    text = (SPECIFICATION / "zoo_centernet2.md").read_text()
    row = r"^\| *(\w[\w+-]*) *\| *([\d.]+) *\|(?: *(\d+) / (\d+) *\|)? *\[config\].*model\]\((.*?)\)"
    rows = re.findall(row, text, re.MULTILINE)
    assert len(rows) == 14
    for name, ap, xp, rtx, link in rows:
        row = model_zoo.info(name)
        assert (row.ap, row.fps) == (float(ap), (int(xp), int(rtx)) if xp else None)
        assert link == "X" if not row.drive_ids else f"/{row.drive_ids[1]}/" in link
    assert [row.name for row in ROWS if row.ap is not None] == [name for name, *_ in rows]
    assert f"/{PSEUDO_LABELS[1]}/" in text


@pytest.mark.skipif(not SPECIFICATION.is_dir(), reason="the specification is not here")
def test_against_both_sets_of_links():
    text = (SPECIFICATION / "centernet2.md").read_text()
    rows = re.findall(r"^\| (\S+|pseudo-label JSON) \| (1[\w-]{32}) \| (1[\w-]{32}) \|$", text, re.MULTILINE)
    known = {row.name: row.drive_ids for row in ROWS if row.drive_ids and row.family != "3D tracking"}
    known["pseudo-label JSON"] = PSEUDO_LABELS
    assert known == {name: (late, early) for name, early, late in rows}


def test_pseudo_labels_belong_to_self_training():
    for row in ROWS:
        noted = any(note.startswith("self-training: ") for note in row.notes)
        assert bool(row.pseudo_labels) == row.name.endswith("_ST") == noted, row.name


def test_the_page_is_the_generated_one(load_tool):
    tool = load_tool("make_model_zoo")
    assert tool.page() == tool.PAGE.read_text("utf-8"), "run tools/make_model_zoo.py"
    for row in (*ROWS, *MOTION_MODELS):
        assert f"(../configs/{row.config})" in tool.page() or row.motion
        assert all(f"/{drive_id}/" in tool.page() for drive_id in row.drive_ids)


# ------------------------------------------------------------------------------------------------ names and configs


def test_names_and_aliases():
    assert model_zoo.info("CenterNet2_DLA-BiFPN-P5_24x_ST").name == "CenterNet2_DLA-BiFPN-P5_640_24x_ST"
    assert model_zoo.names()[:2] == ["CenterNet-S4_DLA_8x", "CenterNet-FPN_R50_1x"]
    with pytest.raises(UserError, match="no centernet2_r50_1; did you mean CenterNet2_R50_1x or CenterNet2-F_R50_1x"):
        model_zoo.info("centernet2_r50_1")
    with pytest.raises(UserError, match=r"no yolo; docs/MODEL_ZOO.md and centernet.model_zoo.names\(\) list all names"):
        model_zoo.get("yolo")


def test_a_name_in_the_place_of_a_config_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_config_file(SMALL) == str(CONFIGS / "demo" / f"{SMALL}.yaml")
    with pytest.raises(UserError, match="the config file CenterNet2_R50 does not exist; did you mean the zoo's"):
        resolve_config_file("CenterNet2_R50")
    with pytest.raises(UserError, match="the config file b/CenterNet2_R50_1x does not exist"):
        load_config(resolve_config_file("b/CenterNet2_R50_1x"))
    Path(SMALL).write_text("SEED: 6\n")  # a file of that name comes first
    assert load_config(resolve_config_file(SMALL)) == load_config("", ["SEED", "6"])


def test_the_command_line_takes_a_name(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    monkeypatch.chdir(tmp_path)
    import train_net

    cfg = train_net.setup(train_net.parse_args(["--config-file", SMALL, "--num-gpus", "0"]))
    assert f"./output/demo/{SMALL}" == cfg.OUTPUT_DIR


# -------------------------------------------------------------------------------------------------------- weights


def test_weights_from_a_folder(small, tmp_path, monkeypatch, own_cache):
    monkeypatch.setenv("CENTERNET_WEIGHTS", str(tmp_path / "mine"))
    with pytest.raises(UserError, match="CENTERNET_WEIGHTS: there is no folder .*mine; correct it"):
        model_zoo.get(SMALL)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=f"no trained weights of {SMALL} were published: train it, or put yours as"):
        model_zoo.get(SMALL)
    torch.save({"model": small.state_dict()}, tmp_path / "mine" / f"{SMALL}.pth")
    model = model_zoo.get(SMALL, device="cpu")
    assert not model.training
    assert not own_cache.exists()
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in small.state_dict().items())


def test_weights_that_leave_a_gap_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_WEIGHTS", str(tmp_path))
    state = small.state_dict()
    state.pop("proposal_generator.centernet_head.bbox_pred.bias")
    torch.save({"model": state}, tmp_path / f"{SMALL}.pth")
    with pytest.raises(UserError, match="do not fit.*centernet_head.bbox_pred.bias"):
        model_zoo.get(SMALL, device="cpu")


def test_weights_from_a_mirror_and_by_address(small, server, tmp_path, monkeypatch, own_cache):
    safetensors = pytest.importorskip("safetensors.torch")
    state = {name: value.contiguous().clone() for name, value in small.state_dict().items()}
    server.files[f"mirror/{SMALL}.safetensors"] = safetensors.save(state)
    monkeypatch.setenv("CENTERNET_WEIGHTS", f"{server.url}/mirror/")
    cfg = model_zoo.get_config(SMALL, ["MODEL.WEIGHTS", f"zoo://{SMALL}", "MODEL.DEVICE", "cpu"])
    assert server.requests == []
    predictor = Predictor(cfg)
    assert [path for path, _ in server.requests] == [f"/mirror/{SMALL}.pth", f"/mirror/{SMALL}.safetensors"]
    picture = np.random.RandomState(0).randint(0, 256, (96, 128, 3)).astype(np.uint8)
    found = predictor(picture)
    predictor.model.load_state_dict(model_zoo.get(SMALL, device="cpu").state_dict())
    assert torch.equal(found.scores, predictor(picture).scores)
    assert len(server.requests) == 2
    (kept,) = own_cache.glob("mirror-*/*.safetensors")
    assert model_zoo.get_checkpoint(SMALL) == str(kept)


def test_a_plus_in_a_name_reaches_the_mirror(server, monkeypatch):
    name = "CenterNet2_R2-101-DCN-BiFPN_4x+4x_1560_ST"
    server.files[f"{name}.pth"] = b"weights"
    monkeypatch.setenv("CENTERNET_WEIGHTS", server.url)
    assert Path(model_zoo.get_checkpoint(name)).read_bytes() == b"weights"


def test_published_links_one_after_the_other(server, monkeypatch, own_cache):
    newer, older = model_zoo.info("CenterNet2_R50_1x").drive_ids
    server.files[older] = b"weights"
    monkeypatch.setenv("CENTERNET_WEIGHTS", f"{server.url}/mirror")
    path = model_zoo.get_checkpoint("CenterNet2_R50_1x")
    assert path == str(own_cache / "CenterNet2_R50_1x.pth")
    assert Path(path).read_bytes() == b"weights"
    asked = ["mirror/CenterNet2_R50_1x.pth", "mirror/CenterNet2_R50_1x.safetensors", newer, older]
    assert [request for request, _ in server.requests] == [f"/{file}" for file in asked]
    monkeypatch.delenv("CENTERNET_WEIGHTS")
    assert model_zoo.get_checkpoint("CenterNet2_R50_1x") == path
    assert len(server.requests) == 4


def test_without_a_network_it_is_said_where_the_file_goes(monkeypatch, own_cache):
    with serving() as gone:
        pass
    monkeypatch.setattr(checkpoints, "DRIVE", gone.url + "/{}")
    with pytest.raises(UserError) as caught:
        model_zoo.get("CenterNet2_R50_1x")
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in (
        "the weights of CenterNet2_R50_1x cannot be downloaded",
        "refused",
        "https://drive.google.com/file/d/1Qn0E_F1cmXtKPEdyZ_lSt-bnM9NueQpq/view",
        f"save the file as {own_cache / 'CenterNet2_R50_1x.pth'}",
        "CENTERNET_WEIGHTS",
    ):
        assert part in sentence
    (own_cache / "CenterNet2_R50_1x.pth").write_bytes(b"by hand")
    assert Path(model_zoo.get_checkpoint("CenterNet2_R50_1x")).read_bytes() == b"by hand"


def test_the_model_without_published_weights():
    with pytest.raises(UserError, match="no trained weights of CenterNet2-F_R50_1x were published: train it, or put"):
        model_zoo.get("CenterNet2-F_R50_1x")


def test_addresses_of_the_zoo(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CENTERNET_WEIGHTS", str(tmp_path))
    file = tmp_path / "CenterNet2_R50_1x.pth"
    file.write_bytes(b"weights")
    assert PathManager.get_local_path("zoo://CenterNet2_R50_1x") == str(file)
    with PathManager.open("zoo://CenterNet2_R50_1x", "rb") as opened:
        assert opened.read() == b"weights"
    with pytest.raises(UserError, match="cannot be written"):
        PathManager.open("zoo://CenterNet2_R50_1x", "wb")
    with pytest.raises(UserError, match="the model zoo has no CenterNet2_R50x; did you mean CenterNet2_R50_1x"):
        PathManager.get_local_path("zoo://CenterNet2_R50x")
    with caplog.at_level(logging.DEBUG, "centernet"):
        register_zoo_addresses()
    assert "registered already" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("neck", ["CenterNet2_DLA-fcosBiFPN-P5_640_16x_ST", "CenterNet2_DLA-BiFPN-P5_640_16x_ST"])
def test_the_checkpoint_decides_between_the_necks(neck, tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_WEIGHTS", str(tmp_path))
    original = build_detector(model_zoo.get_config(neck, ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": original.state_dict()}, tmp_path / "CenterNet2_DLA-BiFPN-P5_640_24x_ST.pth")
    model = model_zoo.get("CenterNet2_DLA-BiFPN-P5_24x_ST", device="cpu")
    assert type(model.backbone) is type(original.backbone)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))


# -------------------------------------------------------------------------------------------------------- a wheel

INSTALLED = """
from centernet.config_file import load_config
from centernet.model_zoo import get_config, get_config_file, names
for name in names():
    cfg = get_config(name)
assert load_config(get_config_file("CenterNet2_X101-DCN_2x")).MODEL.RESNETS.DEPTH == 101
print(get_config_file("CenterNet2_Swin-T_FPN_1x"))
"""


@pytest.mark.slow
def test_the_wheel_holds_the_configs(tmp_path):
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    source.mkdir()
    for name in ("centernet", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    built = subprocess.run(pip, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, unpacked, "zip")
    found = {str(path.relative_to(unpacked / "centernet" / "configs")) for path in unpacked.rglob("*.yaml")}
    assert found == {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")}
    assert not (unpacked / "configs").exists()
    command = [sys.executable, "-c", INSTALLED]
    run = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(unpacked)}, capture_output=True, text=True)
    assert run.stdout.strip() == str(unpacked / "centernet/configs/timm/CenterNet2_Swin-T_FPN_1x.yaml"), run.stderr


def test_what_is_at_hand_is_known_without_the_network(server, tmp_path, monkeypatch, own_cache):
    assert not model_zoo.is_at_hand(SMALL)
    own_cache.mkdir(parents=True)
    (own_cache / f"{SMALL}.safetensors").touch()
    assert model_zoo.is_at_hand(SMALL)
    monkeypatch.setenv("CENTERNET_WEIGHTS", server.url)  # a mirror is asked before the cache
    assert not model_zoo.is_at_hand(SMALL)
    monkeypatch.setenv("CENTERNET_WEIGHTS", str(tmp_path))
    (tmp_path / "CenterNet2_R50_1x.pth").touch()
    assert [name for name in model_zoo.names() if model_zoo.is_at_hand(name)] == ["CenterNet2_R50_1x", SMALL]
    with pytest.raises(UserError, match="the model zoo has no CenterNet3"):
        model_zoo.is_at_hand("CenterNet3")
