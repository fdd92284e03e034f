"""``train_net.py`` with a config of the wing: it trains, evaluates and resumes; what comes out is scored."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

import train_net  # noqa: E402
from centernet.config_file import load_config  # noqa: E402
from centernet.engine.task import check_task  # noqa: E402
from centernet.errors import UserError  # noqa: E402
from centernet.modeling.build import build_detector  # noqa: E402
from centernet.tracking3d.data import boxes_of, synthetic_records, write_synthetic  # noqa: E402
from centernet.tracking3d.evaluate import _joined, _Share, metric_names, score_results  # noqa: E402
from centernet.tracking3d.evaluation.layouts import layout  # noqa: E402
from centernet.tracking3d.evaluation.records import TrackedFrame, TrackingResults  # noqa: E402

CONFIGS = ROOT / "configs" / "tracking3d"
NAMES = ("pedestrian", "cyclist", "car", "truck")


def as_tracked(record, **changes):
    boxes = boxes_of(record)
    count = len(boxes.classes)
    fields = {
        "boxes": boxes.boxes,
        "scores": torch.ones(count),
        "labels": boxes.classes,
        "ids": boxes.instances,
        "confidence": torch.ones(count),
        "depth": boxes.xyz[:, 2],
        "dims": boxes.dims,
        "alpha": boxes.alpha,
        "center2d": torch.tensor([a["center2d"] for a in record["annotations"]]).reshape(count, 2),
        "xyz": boxes.xyz,
        "yaw": boxes.yaw,
        "velocity": torch.zeros(count, 3),
    }
    return TrackedFrame(**fields | changes)


@pytest.fixture(scope="module")
def records():
    return list(synthetic_records([3, 4], frames=5))


def scores(records, spoil=lambda index, record: {}):
    results = TrackingResults(layout("synthetic3d"))
    for index, record in enumerate(records):
        results.add(record, as_tracked(record, **spoil(index, record)))
    return score_results(results.as_dict(), records, NAMES, "modern")


def test_perfect_tracks_have_perfect_scores(records):
    figures = scores(records)
    assert figures["GT"] == sum(len(record["annotations"]) for record in records) > 10
    assert (figures["MOTA"], figures["Recall"], figures["IDF1"], figures["IDSW"]) == (100, 100, 100, 0)
    assert figures["Depth"] == pytest.approx(0, abs=1e-6)
    assert figures["Yaw"] == pytest.approx(0, abs=1e-4)


def test_each_figure_sees_its_error(records):
    def wrong(index, record):
        boxes = boxes_of(record)
        farther = boxes.xyz * (1 + 0.5 / boxes.xyz[:, 2:])
        ids = 100 * boxes.instances + index  # another one in every frame
        return {"xyz": farther, "depth": farther[:, 2], "yaw": boxes.yaw + math.pi / 6, "ids": ids}

    figures = scores(records, wrong)
    assert figures["Depth"] == pytest.approx(0.5, abs=1e-6)
    assert figures["Yaw"] == pytest.approx(30, abs=1e-3)
    assert figures["IDSW"] > 0
    assert figures["MOTA"] == pytest.approx(100 - 100 * figures["IDSW"] / figures["GT"])


def test_tracks_where_nothing_was_annotated_do_not_count(records):
    """Of objects that are seen but too far, small or hidden to be annotated."""
    first = records[0]
    assert any(record["ignore_regions"] for record in records)
    x1, y1, x2, y2 = first["annotations"][0]["bbox"]
    left = first | {"annotations": first["annotations"][1:]}
    counted = [as_tracked(first), *map(as_tracked, records[1:])]
    results = TrackingResults(layout("synthetic3d"))
    for record, tracked in zip(records, counted, strict=True):
        results.add(record, tracked)

    def false_positives(regions, mode="modern"):
        truth = [left | {"ignore_regions": regions}, *records[1:]]
        return score_results(results.as_dict(), truth, NAMES, mode)["FP"]

    assert false_positives([]) == 1
    assert false_positives([[x1, y1, x2, y2]]) == 0
    assert false_positives([[x1, y1, x1 + 0.4 * (x2 - x1), y2]]) == 1  # most of it is elsewhere
    assert false_positives([[x1, y1, x2, y2]], "parity") == 1
    everywhere = [[0, 0, first["width"], first["height"]]]
    perfect = [record | {"ignore_regions": everywhere} for record in records]
    assert score_results(results.as_dict(), perfect, NAMES, "modern")["Recall"] == 100


def test_ids_of_several_processes_become_one_sequence(records):
    first, *others = (as_tracked(record)._replace(ids=torch.tensor(ids)) for record, ids in
                      zip(records, ([4, 0], [0, 7], [], [0], [7, 0]), strict=False))  # fmt: skip
    here, there = _Share([0, 3], [first, others[2]]), _Share([4, 1, 2], [others[3], others[0], others[1]])
    joined = _joined([here, there])
    assert [joined[index].ids.tolist() for index in range(5)] == [[1, 0], [2, 3], [], [0], [3, 2]]


def test_names_of_figures_are_known_beforehand(records):
    cfg = load_config(CONFIGS / "QD3DT_R18_synthetic.yaml")
    assert sorted(metric_names(cfg)) == sorted(f"tracking3d/{figure}" for figure in scores(records))


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (["DATASETS.TRAIN", "('coco_2017_train',)"], "has no videos with cameras"),
        (["DATASETS.TRAIN", "('kitti_tracking_train',)"], "are not those of data set 'kitti_tracking_train'"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], "make them agree"),
        (["MODEL.TRACKING3D.MODE", "old"], "old"),
        (["MODEL.TRACKING3D.TRACKER.MOTION", "VeloLSTM"], "MOTION_WEIGHTS is empty"),
        (["INPUT.MIN_SIZE_TRAIN", "(192, 256)"], "trains at one size"),
        (["INPUT.RANDOM_FLIP", "vertical"], "cameras stand upright"),
        (["INPUT.CROP.ENABLED", "True"], "does not follow"),
        (["TEST.VALIDATION_LOSS", "True"], "TEST.VALIDATION_LOSS"),
        (["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED"),
    ],
)
def test_a_bad_config_is_refused_in_one_sentence(opts, sentence):
    cfg = load_config(CONFIGS / "QD3DT_R18_synthetic.yaml", opts)
    with pytest.raises(UserError, match=sentence) as refusal:
        check_task(cfg, [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST], eval_only=False)
    assert "\n" not in str(refusal.value)


def test_depth_from_height_halves_the_depth_of_what_is_twice_as_high():
    heads = build_detector(load_config(CONFIGS / "QD3DT_R18_synthetic.yaml", ["MODEL.DEVICE", "cpu"])).roi_heads.eval()
    boxes = torch.tensor([[10.0, 10, 20, 30], [10, 10, 90, 50]])
    with torch.no_grad():
        codes = heads._boxes3d(torch.zeros(2, 64, 7, 7), boxes).depth  # the network says the same of both
    depths = heads.codecs.depth.decode(codes)
    torch.testing.assert_close(depths[0], 2 * depths[1])
    assert depths[0, 0] == pytest.approx(30)
    heads.depth_from_height = False
    with torch.no_grad():
        assert (heads._boxes3d(torch.zeros(2, 64, 7, 7), boxes).depth == 0).all()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A datasets folder with two clips to train on and two to evaluate on."""
    root = tmp_path_factory.mktemp("datasets")
    for split, seeds in (("train", range(2)), ("val", range(10, 12))):
        write_synthetic(root / "synthetic3d" / split, seeds, 4)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["QD3DT_R18_synthetic", "CenterNet2-3DT_R18_synthetic"])
def test_a_run_trains_resumes_and_evaluates(name, world, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    options = {
        "INPUT.MIN_SIZE_TRAIN": (96,), "INPUT.MIN_SIZE_TEST": 96, "SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 4,
        "SOLVER.CHECKPOINT_PERIOD": 2, "DATALOADER.NUM_WORKERS": 0, "MODEL.TRACKING3D.TRACKER.INIT_SCORE": 0.0,
        "MODEL.TRACKING3D.TRACKER.CONTINUE_SCORE": 0.0,  # a model that has learnt nothing has tracks, too
    }  # fmt: skip

    def run(folder, *flags, **more):
        words = [str(CONFIGS / f"{name}.yaml"), "--num-gpus", "0", *flags]
        for key, value in (options | more | {"OUTPUT_DIR": str(tmp_path / folder)}).items():
            words += [key.replace("__", "."), str(value)]
        assert train_net.main(words) == 0
        return tmp_path / folder

    def tracks_of(folder):
        return json.loads((folder / "inference_synthetic3d_val" / "tracks.json").read_text())

    watched = {"VIS_PERIOD": 4, "TEST__EVAL_PERIOD": 2, "TEST__BEST_METRIC": "tracking3d/MOTA"}
    whole = run("whole", **watched)
    rows = [json.loads(row) for row in (whole / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "tracking3d/MOTA" in row] == [1, 4]
    best = torch.load(whole / "model_best.pth", weights_only=True)["best"]
    assert best["metric"] == "tracking3d/MOTA"
    assert best["value"] == max(row["tracking3d/MOTA"] for row in rows if "tracking3d/MOTA" in row)
    events = event_accumulator.EventAccumulator(str(whole)).Reload()
    shown = ("clip_00010/000000", "clip_00010/000002", "clip_00011/000001", "clip_00011/000003")
    assert events.Tags()["images"] == [f"pictures/{picture}" for picture in shown]
    tracks = tracks_of(whole)
    assert len(tracks["images"]) == 8
    assert len(tracks["annotations"]) > 8
    assert [video["name"] for video in tracks["videos"]] == ["clip_00010", "clip_00011"]

    run("halves", SOLVER__TRAIN_ITER=2)
    halves = run("halves", "--resume")
    first, second = (torch.load(run / "model_final.pth", weights_only=True)["model"] for run in (whole, halves))
    assert all(torch.equal(first[key], second[key]) for key in first)

    weights = {"MODEL__WEIGHTS": whole / "model_final.pth"}
    assert tracks_of(run("eval", "--eval-only", **weights))["annotations"] == tracks["annotations"]
    shared = tracks_of(run("two", "--eval-only", "--num-processes", "2", **weights))
    assert [image["file_name"] for image in shared["images"]] == [image["file_name"] for image in tracks["images"]]
    for left, right in zip(shared["annotations"], tracks["annotations"], strict=True):
        assert left["instance_id"] == right["instance_id"]
        assert left["bbox"] == pytest.approx(right["bbox"], abs=0.01)  # another number of threads
        assert left["translation"] == pytest.approx(right["translation"], rel=1e-3, abs=1e-3)
