"""QD-3DT's rows of the zoo are true to their source, and a name is enough to get a network."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathManager
from released_layout import released_shapes

from centernet import model_zoo
from centernet.errors import UserError
from centernet.model_zoo.rows import MOTION_MODELS, ROWS
from centernet.tracking3d.motion.checkpoint import load_network
from centernet.tracking3d.motion.lstm import LSTM
from centernet.tracking3d.motion.velo_lstm import VeloLSTM

SOURCE = Path(__file__).resolve().parents[3] / "shared" / "spec" / "zoo_qd3dt.md"
ALL = (*ROWS, *MOTION_MODELS)


@pytest.fixture(autouse=True)
def own_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CENTERNET_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.mark.skipif(not SOURCE.is_file(), reason="the specification is not here")
def test_against_the_published_text():
    text = SOURCE.read_text("utf-8")
    rows = re.findall(r"^\| *(\w+) *\| *\d+ *\| *[\d.]+h *\|(.*)\[model\]\((.*?)\) ?\|$", text, re.MULTILINE)
    assert len(rows) == 8
    for name, scores, link in rows:
        row = model_zoo.info(name)
        assert re.findall(r"\d\.\d+|\d\d\.\d+", row.published.replace("@0.2", "")) == re.findall(r"[\d.]+\d", scores)
        assert bool(link) == bool(row.drive_ids) != bool(row.withheld)
        assert not link or f"/{row.drive_ids[0]}/" in link
        assert bool(row.motion) == ("LSTM" in name)
    released = {row.name for row in ALL if row.drive_ids and row.family in ("3D tracking", "motion")}
    assert released == {model_zoo.info(name).name for name, _, link in rows if link}


@pytest.mark.parametrize("name", ["Waymo_3Dtracking", "Waymo_LSTM_motion_model"])
def test_waymo_says_why_there_are_no_weights(name):
    with pytest.raises(UserError, match="were published because Waymo's licence does not allow .*: train it, or put"):
        model_zoo.get_checkpoint(name)
    with pytest.raises(UserError, match="Waymo's licence"):
        model_zoo.get(name)


def test_a_motion_model_by_name(own_weights):
    released = VeloLSTM()
    state = {"module." + name: value for name, value in released.state_dict().items()}
    torch.save({"epoch": 100, "session": "x", "state_dict": state}, own_weights / "VeloLSTM_KITTI.pth")
    network = model_zoo.get("KITTI_LSTM_motion_model")
    assert not network.training
    assert all(torch.equal(network.state_dict()[name], value) for name, value in released.state_dict().items())
    assert type(load_network("zoo://VeloLSTM_KITTI").network) is VeloLSTM
    assert PathManager.get_local_path("zoo://VeloLSTM_KITTI") == str(own_weights / "VeloLSTM_KITTI.pth")
    for row in MOTION_MODELS:
        assert sum(p.numel() for p in model_zoo.get(row.name, trained=False).parameters()) == row.parameters
    assert model_zoo.motion_names() == [row.name for row in MOTION_MODELS]


def test_what_is_no_such_motion_model(own_weights):
    torch.save({"state_dict": LSTM().state_dict()}, own_weights / "VeloLSTM_KITTI.pth")
    with pytest.raises(UserError, match="holds a LSTM, and VeloLSTM_KITTI is a VeloLSTM"):
        model_zoo.get("VeloLSTM_KITTI")
    with pytest.raises(
        UserError, match="is a motion model and has no config file: .*MOTION_WEIGHTS zoo://VeloLSTM_KIT"
    ):
        model_zoo.get_config("VeloLSTM_KITTI")


@pytest.mark.slow
def test_a_released_detector_by_name(own_weights):
    state = {name: torch.zeros(shape) for name, shape in released_shapes("dla34", 7, 20).items()}
    torch.save({"meta": {}, "state_dict": state}, own_weights / "QD3DT_DLA34_KITTI.pth")
    assert not model_zoo.get("KITTI_train_3Dtrack", device="cpu").training
