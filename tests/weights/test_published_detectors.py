"""Every published detector: a file with its names, shapes and types loads into the model of its config, strictly."""

import os
from pathlib import Path

import pytest
import torch
from published_files import write_torch

from centernet.config_file import load_config
from centernet.inference.weights import load_weights
from centernet.modeling.build import build_detector

ROOT = Path(__file__).resolve().parents[2]
LISTS = Path(os.environ.get("CENTERNET_STATE_DICTS", ROOT.parent / "shared" / "spec" / "state_dict"))
CONFIGS = sorted(file for file in (ROOT / "configs").glob("*.yaml") if (LISTS / f"{file.stem}.tsv").is_file())


def published_state(table: Path) -> dict[str, torch.Tensor]:
    """Tensors of the names, shapes and types of a table; every value differs from a new model's."""
    state = {}
    for row in table.read_text().splitlines()[1:]:
        name, shape, dtype = row.split("\t")
        sizes = [] if shape in ("", "scalar") else [int(size) for size in shape.split("x")]
        state[name] = torch.full(sizes, 3, dtype=getattr(torch, dtype))
    return state


@pytest.mark.slow
@pytest.mark.skipif(not CONFIGS, reason="the lists of published names are not here")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_loads(tmp_path: Path, config: Path) -> None:
    state = published_state(LISTS / f"{config.stem}.tsv")
    file = write_torch(tmp_path / "model.pth", {"model": state, "iteration": 9, "optimizer": {"state": {}}})
    model = build_detector(load_config(config, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]))
    load_weights(model, str(file))
    own = model.state_dict()
    assert all((own[name] == 3).all() for name in state if name in own)
    assert not set(own) - set(state) - {name for name in own if "freq_weight" in name or "backbone.base.fc." in name}


@pytest.mark.skipif(not LISTS.is_dir(), reason="the lists of published names are not here")
def test_every_list_has_its_config() -> None:
    assert {file.stem for file in CONFIGS} == {file.stem for file in LISTS.glob("*.tsv")}
