"""``--data`` from a folder to a config: what is written, when it is written again, what a resumed run keeps."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "data"), str(TESTS / "engine")]

from sample_sets import CLASSES, pictures, write_coco, write_image, write_voc, write_yolo  # noqa: E402
from small_run import CONFIG, ROOT, TRAIN_NET, metric_rows  # noqa: E402

import train_net  # noqa: E402
from centernet.data import own_data, prepare_own_data  # noqa: E402
from centernet.data.loader import get_detection_dataset_dicts_with_source  # noqa: E402
from centernet.errors import UserError  # noqa: E402

WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


@pytest.fixture
def reads(monkeypatch):
    """How often data were read."""
    calls = []
    original = own_data.read_sources
    monkeypatch.setattr(own_data, "read_sources", lambda *args: calls.append(args) or original(*args))
    return calls


@pytest.mark.parametrize("kind", WRITERS)
def test_boxes_survive_to_the_loader(tmp_path, kind, forget_datasets):
    from detectron2.structures import BoxMode

    made = pictures(8)
    data = prepare_own_data([str(WRITERS[kind](tmp_path / "set", made))], tmp_path / "out")
    assert data.classes == CLASSES
    found = {}
    for record in get_detection_dataset_dicts_with_source([data.train, data.val]):
        boxes = [BoxMode.convert(e["bbox"], BoxMode(e["bbox_mode"]), BoxMode.XYXY_ABS) for e in record["annotations"]]
        labels = [CLASSES[entry["category_id"]] for entry in record["annotations"]]
        found[Path(record["file_name"]).stem] = [
            (label, *(round(number, 4) for number in box)) for label, box in zip(labels, boxes, strict=True)
        ]
        assert Path(record["file_name"]).is_file()
    assert found == {picture.name: picture.boxes for picture in made}


def test_what_is_told(tmp_path):
    made = [*pictures(9), pictures(1)[0]._replace(name="empty", boxes=[])]
    folder = write_coco(tmp_path / "set", made)
    data = prepare_own_data([str(folder)], tmp_path / "out")
    assert data.summary == [
        f"Data: {folder / 'annotations/all.json'} (COCO): 10 images, 18 boxes, 1 images without boxes",
        "Classes (3): ant, bee, cat",
        *data.summary[2:3],
        "Validation: 1 images, 2 boxes (drawn from all images: fraction 0.1, seed 0)",
        f"Written to {tmp_path / 'out'}: train.json, val.json",
    ]
    assert data.summary[2].startswith("Training: 9 images, 16 boxes")
    split = json.loads((tmp_path / "out/split.json").read_text())
    assert split["seed"] == 0
    assert len(split["validation"]) == 1


def test_split_does_not_depend_on_the_place(tmp_path):
    splits = []
    for place in ("a", "b/c"):
        write_voc(tmp_path / place, pictures(9))
        prepare_own_data([str(tmp_path / place)], tmp_path / place / "out", val_fraction=0.3)
        splits.append((tmp_path / place / "out/split.json").read_text())
    assert splits[0] == splits[1]
    prepare_own_data([str(tmp_path / "a")], tmp_path / "a/out", val_fraction=0.3, seed=1)
    assert (tmp_path / "a/out/split.json").read_text() != splits[0]


def test_split_does_not_depend_on_the_format(tmp_path):
    for kind, write in WRITERS.items():
        prepare_own_data([str(write(tmp_path / kind, pictures(9)))], tmp_path / kind / "out", val_fraction=0.3)
    splits = {json.dumps(json.loads((tmp_path / kind / "out/split.json").read_text())) for kind in WRITERS}
    assert len(splits) == 1


def test_nothing_is_read_twice(tmp_path, reads):
    folder, out = write_voc(tmp_path / "set", pictures(4)), tmp_path / "out"
    first = prepare_own_data([str(folder)], out)
    assert prepare_own_data([str(folder)], out) == first
    assert len(reads) == 1
    changes = [
        lambda: write_image(folder / "JPEGImages/p0.jpg", (36, 48), seed=9),
        lambda: (folder / "Annotations/p1.xml").write_text((folder / "Annotations/p1.xml").read_text() + " "),
        lambda: shutil.copy(folder / "Annotations/p1.xml", folder / "Annotations/p9.xml"),
        lambda: (out / "val.json").unlink(),
        lambda: (folder / "classes.txt").write_text("\n".join(CLASSES)),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        prepare_own_data([str(folder)], out, bad_data="skip")
        assert len(reads) == number
        prepare_own_data([str(folder)], out, bad_data="skip")
        assert len(reads) == number
    prepare_own_data([str(folder)], out, bad_data="skip", seed=1)
    assert len(reads) == number + 1


def test_resume_keeps_split_and_classes(tmp_path):
    folder, out = write_coco(tmp_path / "set", pictures(6)), tmp_path / "out"
    prepare_own_data([str(folder)], out, val_fraction=0.3, seed=3)
    split = json.loads((out / "split.json").read_text())
    write_coco(folder, pictures(12))
    data = prepare_own_data([str(folder)], out, resume=True)
    assert json.loads((out / "split.json").read_text()) == split
    assert len(json.loads((out / "train.json").read_text())["images"]) == 10
    assert "drawn by the run that is resumed" in data.summary[3]
    prepare_own_data([str(folder)], out, val_fraction=0.3, seed=3)  # fresh: drawn anew, from twelve
    assert len(json.loads((out / "val.json").read_text())["images"]) == 4
    write_coco(folder, pictures(12), classes=[*CLASSES, "dog"])
    with pytest.raises(UserError, match="has the classes ant, bee, cat but the data now have ant, bee, cat, dog"):
        prepare_own_data([str(folder)], out, resume=True)


def test_without_validation(tmp_path):
    data = prepare_own_data([str(write_yolo(tmp_path / "set", pictures(3)))], tmp_path / "out", val_fraction=0)
    assert data.val == ""
    assert len(json.loads((tmp_path / "out/train.json").read_text())["images"]) == 3


@pytest.mark.parametrize(
    "options, sentence",
    [({"val_fraction": 1}, "--val-fraction is 1"), ({"bad_data": "keep"}, "--bad-data is 'keep'")],
)
def test_arguments(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        prepare_own_data([str(tmp_path)], tmp_path / "out", **options)


def test_a_folder_that_names_cannot_have(tmp_path):
    with pytest.raises(UserError, match="has a ':' in it"):
        prepare_own_data([str(tmp_path)], tmp_path / "a:b" / "data")


def small_config(tmp_path):
    base = str(ROOT / "configs" / "CenterNet2_R50_1x.yaml")
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG.format(base=base, train="x", test="x", workers=0, folder=tmp_path))
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_config(tmp_path, capsys, kind):
    folder = WRITERS[kind](tmp_path / "set", pictures(8))
    words = [str(small_config(tmp_path)), "--data", str(folder), "--val-fraction", ".25", "SOLVER.MAX_ITER", "3"]
    cfg = train_net.setup(train_net.parse_args(words))
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.CENTERNET.NUM_CLASSES, cfg.SOLVER.MAX_ITER) == (3, 3, 3)
    data = tmp_path / "output/small/data"
    assert (f"coco_json:{data / 'train.json'}:{data}",) == cfg.DATASETS.TRAIN
    assert (f"coco_json:{data / 'val.json'}:{data}",) == cfg.DATASETS.TEST
    assert "Classes (3): ant, bee, cat" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, data, opts",
    [
        (["a.yaml", "--data", "x", "y"], ["x", "y"], []),
        (["a.yaml", "--data", "x", "SEED", "1"], ["x"], ["SEED", "1"]),
        (["a.yaml", "--data", "x", "SOLVER.BASE_LR", "-1e-3", "--resume"], ["x"], ["SOLVER.BASE_LR", "-1e-3"]),
        (["a.yaml", "SEED", "1", "--data", "x", "--data", "y"], ["x", "y"], ["SEED", "1"]),
        (["--data", "DATA", "--config-file", "a.yaml"], ["DATA"], []),
    ],
)
def test_where_data_end_and_settings_begin(words, data, opts):
    args = train_net.parse_args(words)
    assert (args.config_file, args.data, args.opts) == ("a.yaml", data, opts)


def test_data_and_datasets_together_are_refused(tmp_path, capsys):
    words = [str(small_config(tmp_path)), "--data", "x", "DATASETS.TRAIN", "('a',)"]
    assert train_net.main(words) == 2
    assert "give either --data or DATASETS.TRAIN" in capsys.readouterr().err


def started(tmp_path, *words):
    """The config of a run with ``--data`` that has begun, and the words that name it."""
    folder = write_voc(tmp_path / "set", pictures(8))
    named = [str(small_config(tmp_path)), *words]
    cfg = train_net.setup(train_net.parse_args([*named, "--data", str(folder)]))
    (Path(cfg.OUTPUT_DIR) / "config.yaml").write_text(cfg.dump())
    return cfg, named


def test_resuming_without_data_goes_on_with_those_of_the_run(tmp_path, capsys, reads):
    before, words = started(tmp_path)
    shutil.rmtree(tmp_path / "set")
    capsys.readouterr()
    cfg = train_net.setup(train_net.parse_args([*words, "--resume"]))
    assert cfg == before
    assert len(reads) == 1
    said = capsys.readouterr().out
    assert f"Data: {before.OUTPUT_DIR}/data, as the run had them" in said
    assert "Classes (3): ant, bee, cat" in said
    Path(before.OUTPUT_DIR).rename(tmp_path / "moved")
    cfg = train_net.setup(train_net.parse_args([*words, "--resume", "OUTPUT_DIR", str(tmp_path / "moved")]))
    moved = tmp_path / "moved/data"
    assert (f"coco_json:{moved}/train.json:{moved}",) == cfg.DATASETS.TRAIN
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3


def test_when_the_data_of_the_run_are_not_asked_for(tmp_path):
    before, words = started(tmp_path)
    assert train_net.setup(train_net.parse_args(words)).DATASETS.TRAIN == ("x",)  # a run of its own
    named = train_net.setup(train_net.parse_args([*words, "--resume", "DATASETS.TRAIN", "('y',)"]))
    assert named.DATASETS.TRAIN == ("y",)
    other = before.clone()
    other.defrost()
    other.DATASETS.TRAIN = ("x",)
    (Path(before.OUTPUT_DIR) / "config.yaml").write_text(other.dump())  # a later run without --data
    assert train_net.setup(train_net.parse_args([*words, "--resume"])).DATASETS.TRAIN == ("x",)
    (Path(before.OUTPUT_DIR) / "config.yaml").write_text("- [broken")
    assert train_net.setup(train_net.parse_args([*words, "--resume"])).DATASETS.TRAIN == ("x",)


@pytest.mark.parametrize("name", ["train.json", "val.json", "state.json"])
def test_resuming_without_data_that_are_gone(tmp_path, capsys, name):
    before, words = started(tmp_path)
    (Path(before.OUTPUT_DIR) / "data" / name).unlink()
    capsys.readouterr()
    assert train_net.main([*words, "--resume"]) == 2
    assert "is not whole any more: give --data again" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_trains_and_resumes_with_nothing_but_a_config(tmp_path, kind):
    folder = WRITERS[kind](tmp_path / "set", pictures(8))
    command = [sys.executable, str(TRAIN_NET), str(small_config(tmp_path))]
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}

    def train(*more):
        done = subprocess.run([*command, *more], cwd=tmp_path, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first = train("--data", str(folder), "SOLVER.MAX_ITER", "12", "SOLVER.TRAIN_ITER", "5")
    assert "Training: 7 images, 14 boxes" in first
    out = tmp_path / "output/small"
    assert not (out / "data/problems.txt").exists()
    assert "Training from iteration 5 to 12" in train("--resume")
    assert "bbox/AP" in metric_rows(out)[-1]
