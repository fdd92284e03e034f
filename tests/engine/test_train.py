"""Training and evaluation of a small CenterNet2 from a config: where it starts, what it leaves, what it refuses."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from children import run_child
from detectron2.solver import build_lr_scheduler
from small_run import metric_rows, write_config

from centernet.config_file import load_config, resolve_output_dir
from centernet.engine import NonFiniteLossError, check_run, evaluate, run, train
from centernet.errors import UserError


def read(config, *opts):
    cfg = load_config(config, [str(word) for word in opts])
    resolve_output_dir(cfg, config)
    return cfg


def output_of(config) -> Path:
    return config.parent / "output" / "small"


def learning_rates(cfg):
    """The schedule of MAX_ITER iterations, as detectron2 computes it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config and the run of 12 iterations that it made."""
    config = write_config(tmp_path_factory.mktemp("trained"))
    assert run_child([str(config), "TEST.EVAL_PERIOD", "4", "SEED", "7"], losses=config.parent / "losses") == 0
    return config


def test_what_a_run_leaves(trained):
    names = {file.name.split(".")[0] for file in output_of(trained).iterdir()}
    files = {"config", "log", "metrics", "seed", "last_checkpoint", "events"}
    assert files | {"model_0000004", "model_0000009", "model_final"} <= names
    written = load_config(output_of(trained) / "config.yaml")
    assert written.SOLVER.MAX_ITER == 12
    assert written.MODEL.CLASS_NAMES == ["ant", "bee"]
    log = (output_of(trained) / "log.txt").read_text()
    for text in ("Command: ", "Environment:", "Config:", "Model:", "GeneralizedRCNN", "total_loss", "iter: 11"):
        assert text in log
    row = json.loads((output_of(trained) / "metrics.json").read_text().splitlines()[-2])
    assert {"iteration", "total_loss", "loss_centernet_loc", "loss_cls_stage2", "lr", "time", "data_time"} <= set(row)


def test_learning_rate_follows_the_schedule(trained):
    rates = learning_rates(read(trained))
    rows = metric_rows(output_of(trained))
    assert [row["lr"] for row in rows[:3]] == [rates[3], rates[7], rates[11]]


def test_evaluation_leaves_training_alone(trained, small):
    assert run_child([str(small), "SEED", "7"], losses=small.parent / "losses") == 0
    assert (small.parent / "losses").read_text() == (trained.parent / "losses").read_text()


@pytest.mark.parametrize(
    "opts, first, last",
    [((), 5, 11), (("SOLVER.RESET_ITER", True), 0, 11), (("SOLVER.TRAIN_ITER", 7), 5, 6)],
    ids=["the iteration after that of the weights", "RESET_ITER", "TRAIN_ITER"],
)
def test_first_and_last_iteration(trained, small, opts, first, last):
    cfg = read(small, "MODEL.WEIGHTS", output_of(trained) / "model_0000004.pth", "DATASETS.TEST", "()", *opts)
    train(cfg)
    assert f"Training from iteration {first} to {last + 1}" in (output_of(small) / "log.txt").read_text()
    (row,) = metric_rows(output_of(small))
    assert (row["iteration"], row["lr"]) == (last, pytest.approx(learning_rates(cfg)[last]))
    assert torch.load(output_of(small) / "model_final.pth")["iteration"] == last


def test_eval_only_gives_the_same_score(trained, small):
    cfg = read(small, "MODEL.WEIGHTS", output_of(trained) / "model_final.pth")
    check_run(cfg, eval_only=True)
    (results,) = evaluate(cfg).values()
    assert results["bbox"]["AP"] == pytest.approx(metric_rows(output_of(trained))[-1]["bbox/AP"], nan_ok=True)
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(output_of(trained)), ""
    check_run(cfg, eval_only=True, resume=True)
    (again,) = evaluate(cfg, resume=True).values()
    assert again["bbox"]["AP"] == results["bbox"]["AP"]


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (("MODEL.WEIGHTS", "no.pth"), "MODEL.WEIGHTS: there is no file no.pth"),
        (("DATASETS.TRAIN", "('nonesuch',)"), "nonesuch"),
        (("DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty"),
        (("MODEL.ROI_HEADS.NUM_CLASSES", 3), "has 2"),
        (("SOLVER.IMS_PER_BATCH", 0), "SOLVER.IMS_PER_BATCH is 0"),
        (("DATALOADER.SAMPLER_TRAIN", "Best"), "DATALOADER.SAMPLER_TRAIN is 'Best'"),
        (("SOLVER.AMP.PRECISION", "half"), "SOLVER.AMP.PRECISION is 'half'"),
        (("SOLVER.GRADIENT_ACCUMULATION", 4), "SOLVER.GRADIENT_ACCUMULATION is 4, but a process has 2 images"),
        (("SOLVER.GRADIENT_ACCUMULATION", 0), "SOLVER.GRADIENT_ACCUMULATION is 0"),
        (("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"), "SOLVER.CLIP_GRADIENTS.CLIP_TYPE is 'all'"),
        (("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", -1.0), "SOLVER.CLIP_GRADIENTS.CLIP_VALUE is -1.0"),
        (
            ("TEST.AUG.ENABLED", True, "MODEL.META_ARCHITECTURE", "CenterNetDetector"),
            "TEST.AUG.ENABLED is for two-stage models, and this is a CenterNetDetector",
        ),
        (("MODEL.WEIGHTS", "{trained}"), "model is of iteration"),
        (("MODEL.WEIGHTS", "{config}"), "is a text file, not weights"),
    ],
)
def test_refuses_before_anything_is_written(trained, small, opts, sentence):
    places = {"trained": output_of(trained) / "model_final.pth", "config": small}
    cfg = read(small, *(str(word).format(**places) for word in opts))
    with pytest.raises(UserError) as error:
        run(cfg)
    if "{trained}" in opts:
        sentence = (
            "MODEL.WEIGHTS is of iteration 11 and training ends at 12: nothing is left to train; set SOLVER.RESET"
        )
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert not output_of(small).exists()


def test_eval_only_refuses_weights_that_leave_a_part_random(trained, small):
    state = torch.load(output_of(trained) / "model_final.pth")["model"]
    file = small.parent / "part.pth"
    cfg = read(small, "MODEL.WEIGHTS", file)
    constants = ("num_batches_tracked", "pixel_mean", "pixel_std")
    complete = {name: value for name, value in state.items() if not name.endswith(constants)}
    torch.save({"model": complete}, file)
    evaluate(cfg)
    heads = sorted(name for name in complete if name.startswith("roi_heads."))
    for changed, sentence in (
        (dict.fromkeys(heads), f"{len(heads)} of the model's {len(complete)} entries missing (such as {heads[-1]})"),
        ({heads[0]: torch.zeros(7)}, f"1 of another shape (such as {heads[0]}: (7,) there"),
    ):
        merged = {**complete, **changed}
        torch.save({"model": {name: value for name, value in merged.items() if value is not None}}, file)
        with pytest.raises(UserError) as error:
            run(cfg, eval_only=True)
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)


def test_eval_only_refuses_weights_of_a_larger_model(trained, small):
    state = torch.load(output_of(trained) / "model_final.pth")["model"]
    file = small.parent / "more.pth"
    torch.save({"model": {**state, "roi_heads.mask_head.deconv.weight": torch.zeros(1)}}, file)
    with pytest.raises(UserError, match=r"of a larger model \(not in the model: roi_heads.mask_head.deconv.weight\)"):
        evaluate(read(small, "MODEL.WEIGHTS", file))
    evaluate(read(small, "MODEL.WEIGHTS", file, "MODEL.WEIGHTS_STRICT", False))


def test_training_refuses_imagenet_weights_of_another_body(small):
    import torchvision

    file = small.parent / "r34.pth"
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), file)
    words = ("MODEL.WEIGHTS", file, "SOLVER.TRAIN_ITER", 0, "DATASETS.TEST", "()")
    with pytest.raises(UserError, match=r"another body than this model's backbone.bottom_up.\* \(not in the model: "):
        train(read(small, *words))
    train(read(small, *words, "MODEL.WEIGHTS_STRICT", False))


def test_resume_does_not_need_the_weights_that_it_does_not_read(trained, small):
    cfg = read(trained, "MODEL.WEIGHTS", "gone.pth")
    check_run(cfg, resume=True)
    check_run(cfg, resume=True, eval_only=True)
    for cfg_, resume in ((cfg, False), (read(small, "MODEL.WEIGHTS", "gone.pth"), True)):
        with pytest.raises(UserError, match=r"there is no file gone\.pth"):
            check_run(cfg_, resume=resume)


def test_keys_of_detectron2_that_have_no_effect(small, caplog):
    keys = ("TEST.PRECISE_BN.ENABLED", True)
    expected = ("TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 38.5, 0.2]]")
    check_run(read(small))
    assert not caplog.messages
    check_run(read(small, *keys, *expected))
    assert [message.split()[0] for message in caplog.messages] == [keys[0], expected[0]]
    caplog.clear()
    cfg = read(small)
    del cfg.SOLVER["REFERENCE_WORLD_SIZE"]
    check_run(cfg)
    assert not caplog.messages


def test_eval_only_without_weights(small):
    for resume in (False, True):
        with pytest.raises(UserError, match="--eval-only needs trained weights"):
            run(read(small), eval_only=True, resume=resume)
    assert not output_of(small).exists()


def test_unreadable_image(small):
    for number in range(8):
        (small.parent / "train" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"\d\.png"):
        run(read(small))
    assert not output_of(small).exists()


def test_loss_that_explodes_is_a_sentence(small):
    opts = ["SOLVER.BASE_LR", 1e18, "SOLVER.CLIP_GRADIENTS.ENABLED", False, "SOLVER.WARMUP_ITERS", 0]
    with pytest.raises((NonFiniteLossError, UserError, FloatingPointError)) as error:
        run(read(small, *opts))
    assert isinstance(error.value, UserError), error.value
    assert "lower SOLVER.BASE_LR" in str(error.value)
    assert str(error.value) in (output_of(small) / "log.txt").read_text()


def test_progress_bar_on_a_terminal(small, monkeypatch, capsys):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    train(read(small, "SOLVER.TRAIN_ITER", 3, "DATASETS.TEST", "()"))
    assert "3/3" in terminal.getvalue()
    assert "loss " in terminal.getvalue()
    assert "total_loss" not in capsys.readouterr().out
    assert "total_loss" in (output_of(small) / "log.txt").read_text()


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"num_gpus": 1000}, "--num-gpus 1000: this machine has"),
        ({"num_machines": 2, "num_gpus": 0}, "several machines need --dist-url tcp://FIRST_MACHINE:PORT"),
        ({"num_machines": 2, "machine_rank": 2, "dist_url": "tcp://a:1"}, "--machine-rank 2 must be from 0 to 1"),
        ({"num_processes": 2, "dist_url": "a:1"}, "--dist-url is 'a:1': it must be tcp://HOST:PORT"),
    ],
)
def test_processes_that_cannot_be(small, options, sentence):
    with pytest.raises(UserError, match=sentence):
        run(read(small), **options)
