"""The replay computes what the training step computed, with the options of the training."""

import sys
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "engine"), str(Path(__file__).resolve().parents[2] / "tools")]

import replay_batch  # noqa: E402
from small_run import write_config  # noqa: E402

from centernet.config_file import load_config  # noqa: E402
from centernet.data import build_train_loader  # noqa: E402
from centernet.engine.batch_dump import write_batch_dump  # noqa: E402
from centernet.engine.preparation import prepare_for_training  # noqa: E402
from centernet.engine.random_state import capture_random_state  # noqa: E402
from centernet.modeling.build import build_detector  # noqa: E402


def test_losses_of_a_frozen_model_are_those_of_its_training(tmp_path, capsys):
    cfg = load_config(write_config(tmp_path), ["MODEL.FREEZE", "['backbone.bottom_up']", "SEED", "3"])
    torch.manual_seed(0)
    model = build_detector(cfg)
    prepare_for_training(cfg, model)  # statistics of its batch norms stay
    torch.save({"model": model.state_dict(), "iteration": 4}, tmp_path / "weights.pth")
    batch = next(iter(build_train_loader(cfg)))
    state = capture_random_state()
    with EventStorage():
        losses = model.train()(batch)
    place = {"iteration": 5, "rank": 0, "world_size": 1, "reason": "a test", "weights": "weights.pth"}
    write_batch_dump(tmp_path / "dump.pth", batch, random_state=state, config=cfg.dump(), **place)
    capsys.readouterr()
    assert replay_batch.main([str(tmp_path / "dump.pth")]) == 0
    said = capsys.readouterr().out
    for name, loss in losses.items():
        assert f"\n{name} {loss.item():.6g}\n" in said
