import json

import pytest

from centernet.config_file import load_config
from centernet.engine.run_folder import prepare_run_folder, read_seed
from centernet.errors import UserError


def prepare(folder, **options):
    prepare_run_folder(folder, load_config("", ["SOLVER.MAX_ITER", "77"]), **{"resume": True, "seed": 3} | options)


def rows(file):
    return [json.loads(line)["iteration"] for line in file.read_text().splitlines()]


def test_new_folder(tmp_path):
    folder = tmp_path / "a" / "b"
    assert read_seed(folder) is None
    prepare(folder, start_iter=0)
    assert read_seed(folder) == 3
    assert load_config(folder / "config.yaml").SOLVER.MAX_ITER == 77


def test_resume_drops_the_rows_that_will_come_again(tmp_path):
    metrics = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": iteration, "loss": 0.1}) for iteration in (19, 39, 40, 59)]
    metrics.write_text("\n".join(lines) + '\n{"iteration": 79, "lo')
    (tmp_path / "last_checkpoint").write_text("x")
    (tmp_path / "model_0000060.pth.tmp").write_text("half")
    prepare(tmp_path, start_iter=60)
    assert rows(metrics) == [19, 39, 40, 59]
    prepare(tmp_path, start_iter=40)
    assert rows(metrics) == [19, 39]
    assert (tmp_path / "last_checkpoint").exists()
    assert not list(tmp_path.glob("*.tmp"))


def test_fresh_start_sets_the_earlier_curve_aside(tmp_path):
    for earlier in ("19", "39"):
        (tmp_path / "metrics.json").write_text(f'{{"iteration": {earlier}}}\n')
        (tmp_path / "last_checkpoint").write_text("x")
        prepare(tmp_path, start_iter=0, resume=False)
        assert not (tmp_path / "last_checkpoint").exists()
        assert not (tmp_path / "metrics.json").exists()
    assert rows(tmp_path / "metrics.1.json") == [19]
    assert rows(tmp_path / "metrics.2.json") == [39]


def test_fresh_start_forgets_the_run_of_a_service_and_keeps_the_best_weights(tmp_path):
    for name in ("run.json", "model_best.pth", "model_final_ema.pth", "wandb.id", "mlflow.id", "theirs.tmp"):
        (tmp_path / name).write_text("old")
    prepare(tmp_path, start_iter=0, resume=True)
    assert (tmp_path / "wandb.id").exists()
    prepare(tmp_path, start_iter=0, resume=False)
    left = {"config.yaml", "seed", "run.1.json", "model_best.1.pth", "model_final_ema.1.pth", "theirs.tmp"}
    assert {file.name for file in tmp_path.iterdir()} == left


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="OUTPUT_DIR .*file/run cannot be made: Not a directory"):
        prepare(tmp_path / "file" / "run", start_iter=0)
