"""Writers: what they send, that they go on after a resume, and that a failing service ends no training."""

import logging
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.utils.events import EventStorage

from centernet.config import add_centernet_config
from centernet.engine.writers import RemoteWriter, build_writers, check_writers
from centernet.engine.writers.remote import flat_config
from centernet.errors import UserError


def config(*writers):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.WRITERS = list(writers)
    return cfg


class Recorder(RemoteWriter):
    service, id_file = "A service", "service.id"

    def __init__(self, folder, error=None):
        super().__init__(folder)
        self.sent, self.error = [], error

    def send(self, iteration: int, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        torch.rand(1)
        if self.error:
            raise self.error
        self.sent.append((iteration, dict(scalars), {name: picture.shape for name, picture in pictures.items()}))

    def finish(self) -> None:
        self.send(-1, {}, {})


def test_what_is_new_is_sent_once(tmp_path):
    writer = Recorder(tmp_path)
    with EventStorage(0) as storage:
        for iteration in range(4):
            storage.iter = iteration
            storage.put_scalar("loss", float(iteration))
        storage.put_scalar("bbox/AP", 40.0, smoothing_hint=False)
        storage.put_image("pictures/0", np.zeros((3, 5, 7), np.uint8))
        writer.write()
        storage.clear_images()
        writer.write()
        storage.iter = 4
        storage.put_scalar("loss", 9.0)
        writer.write()
    first = (3, {"loss": 1.5, "bbox/AP": 40.0}, {"pictures/0": (5, 7, 3)})  # smoothed as in metrics.json: the median
    assert writer.sent == [first, (4, {"loss": 2.0}, {})]


def test_a_failing_service_ends_nothing_and_draws_nothing(tmp_path, caplog):
    writer = Recorder(tmp_path, ConnectionError("gone"))
    state = torch.get_rng_state()
    with EventStorage(0) as storage, caplog.at_level(logging.WARNING):
        storage.put_scalar("loss", 1.0)
        writer.write()
        writer.close()
    assert "A service did not take the figures (ConnectionError: gone); training goes on" in caplog.text
    assert torch.equal(state, torch.get_rng_state())


def test_the_id_of_the_run_is_kept(tmp_path):
    assert Recorder(tmp_path).read_id() is None
    Recorder(tmp_path).keep_id("abc")
    assert Recorder(tmp_path).read_id() == "abc"


def test_what_writers_names(tmp_path, monkeypatch):
    cfg = config("tensorboard")
    kinds = [type(writer).__name__ for writer in build_writers(cfg, tmp_path, 0, 10)]
    assert kinds == ["CommonMetricPrinter", "JSONWriter", "TensorboardXWriter"]
    kinds = [type(writer).__name__ for writer in build_writers(config(), tmp_path, 0, 10)]
    assert kinds == ["CommonMetricPrinter", "JSONWriter"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"WRITERS names 'wandb', whose package is not installed: pip install wandb"):
        check_writers(config("wandb"))


def test_flat_config():
    flat = flat_config(config())
    assert (flat["SOLVER.BASE_LR"], flat["SOLVER.STEPS"]) == (0.001, "(30000,)")


def write(writer, rows):
    with EventStorage(rows[0]) as storage:
        for iteration in rows:
            storage.iter = iteration
            storage.put_scalars(total_loss=float(iteration), lr=0.1, smoothing_hint=False)
            storage.put_scalar("bbox/AR@1", 1.0, smoothing_hint=False)
            storage.put_image("pictures/0", np.zeros((3, 5, 7), np.uint8))
            writer.write()
            storage.clear_images()
    writer.close()


@pytest.mark.slow
def test_mlflow_goes_on_with_its_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    from centernet.engine.writers.mlflow_writer import MLflowWriter

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    write(MLflowWriter(folder, config()), [19, 39])
    write(MLflowWriter(folder, config()), [39, 59])  # resumed: 39 is done again
    client = mlflow.MlflowClient()
    run_id = (folder / "mlflow.id").read_text().strip()
    assert [m.step for m in client.get_metric_history(run_id, "total_loss")] == [19, 39, 59]
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.metrics["bbox/AR_1"] == 1.0
    assert run.data.params["SOLVER.BASE_LR"] == "0.001"
    assert len([a for a in client.list_artifacts(run_id, "images") if a.path.endswith(".png")]) == 3
    (folder / "mlflow.id").write_text("0" * 32)
    with pytest.raises(UserError, match="WRITERS: MLflow does not start .*mlflow.id of the run folder"):
        MLflowWriter(folder, config())


@pytest.mark.slow
def test_wandb_goes_on_with_its_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from centernet.engine.writers.wandb_writer import WandbWriter

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "wandb.id").write_text("1a2b3c4d\n")  # of a run that goes on
    write(WandbWriter(folder, config()), [19, 39])
    assert (folder / "wandb.id").read_text() == "1a2b3c4d\n"
    (run,) = (folder / "wandb").glob("offline-run-*-1a2b3c4d/run-1a2b3c4d.wandb")
    assert run.stat().st_size > 1000
