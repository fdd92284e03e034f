"""``demo.py --tracking3d``: sources, results, mistakes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from centernet.errors import UserError
from centernet.inference.runner import Report
from centernet.tracking3d.data import iterate_source
from centernet.tracking3d.inference import command

CLASSES = ["MODEL.TRACKING3D.CLASSES", ["pedestrian", "cyclist", "car", "truck"]]


@pytest.fixture(scope="module")
def demo():
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    try:
        import demo
    finally:
        sys.path.pop(0)
    return demo


@pytest.fixture(scope="module")
def world(tmp_path_factory, clip):
    """A folder of five frames with its camera files, and its records."""
    folder = tmp_path_factory.mktemp("world") / "clip"
    folder.mkdir()
    records = clip(3, 5)
    for record in records:
        Image.fromarray(record["image"]).save(folder / f"{record['frame_index']:03d}.png")
    np.savetxt(folder / "camera.txt", np.array(records[0]["intrinsics"])[:, :3])
    poses = [np.column_stack((r["pose"]["rotation"], r["pose"]["position"])).reshape(-1) for r in records]
    np.savetxt(folder / "poses.txt", poses)
    return folder, [record | {"video_id": 0} for record in records]


@pytest.fixture
def arguments(demo, world):
    """``arguments(...)``: a parsed command line on the world."""

    def parse(*words, source=None, camera="camera.txt"):
        start = ["--tracking3d", "--config-file", "c.yaml", "--input", str(source or world[0])]
        matrix = ["--intrinsics", str(world[0] / camera)] if camera else []
        return demo.parse_arguments([*start, *matrix, *words])

    return parse


def run(args, config, records, label_model):
    report = Report()
    command.run(command.make_plan(args), config, report, label_model(records))
    return report


def test_a_folder_becomes_a_video_and_records(arguments, world, config3d, label_model, tmp_path):
    folder, records = world
    words = ("--poses", str(folder / "poses.txt"), "--output", str(tmp_path / "o.mp4"))
    args = arguments(*words, "--save-results", str(tmp_path / "o.json"))
    report = run(args, config3d(*CLASSES), records, label_model)
    assert report.frames == 5
    assert report.detections > 5
    frames = list(iterate_source(tmp_path / "o.mp4", np.eye(3).tolist()))
    height, width = records[0]["image"].shape[:2]
    assert len(frames) == 5
    assert frames[0]["image"].shape == (480, round(480 / height * width / 2) * 2 + 432, 3)
    saved = json.loads((tmp_path / "o.json").read_text())
    assert [image["index"] for image in saved["images"]] == [0, 1, 2, 3, 4]
    assert len(saved["annotations"]) == report.detections
    truth = [a["translation"] for a in records[0]["annotations"]]
    for found in (a for a in saved["annotations"] if a["image_id"] == 0):
        assert min(np.abs(np.array(found["translation"]) - place).max() for place in np.array(truth)) < 1e-3


def test_a_folder_becomes_pictures(arguments, world, config3d, label_model, tmp_path):
    run(arguments("--output", str(tmp_path / "drawn")), config3d(*CLASSES), world[1], label_model)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [f"{i:03d}.png" for i in range(5)]


def test_a_threshold_hides_what_is_below(arguments, world, config3d, label_model, tmp_path):
    args = arguments("--save-results", str(tmp_path / "o.json"), "--confidence-threshold", "0.96")
    assert run(args, config3d(*CLASSES), world[1], label_model).detections == 0


def test_an_unreadable_frame_is_named_counted_and_skipped(
    arguments, world, config3d, label_model, tmp_path, caplog, clip
):
    folder = tmp_path / "broken"
    folder.mkdir()
    for index, record in enumerate(world[1]):
        Image.fromarray(record["image"]).save(folder / f"{index}.png")
    (folder / "2.png").write_bytes(b"no picture")
    args = arguments("--output", str(tmp_path / "out"), source=folder)
    report = run(args, config3d(*CLASSES), world[1], label_model)
    assert report.frames == 4
    assert len(report.failed) == 1
    assert "2.png" in report.failed[0]
    assert "1 input FAILED" in report.summary()
    for index in range(5):
        (folder / f"{index}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="no frame of .* can be read"):
        run(arguments("--save-results", str(tmp_path / "o.json"), source=folder), config3d(*CLASSES), [], label_model)


def test_a_video_keeps_its_rate(arguments, world, config3d, label_model, tmp_path):
    import cv2

    height, width = world[1][0]["image"].shape[:2]
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (width, height))
    for record in world[1]:
        writer.write(record["image"][..., ::-1])
    writer.release()
    args = arguments("--output", str(tmp_path / "o"), source=tmp_path / "v.avi")
    plan = command.make_plan(args)
    assert plan.frames_per_second == 20
    run(args, config3d(*CLASSES), world[1], label_model)
    assert (tmp_path / "o" / "v.avi").is_file()


def test_mistakes_are_told_before_a_model_is_built(arguments, world, tmp_path):
    (tmp_path / "bad.txt").write_text("1 2 3")
    (tmp_path / "flat.txt").write_text("0 0 5 0 0 5 0 0 1")
    (tmp_path / "a.png").write_bytes(b"")
    output = ("--output", str(tmp_path / "o.mp4"))
    wrong = [
        (arguments(*output, camera=None), "needs --intrinsics FILE"),
        (arguments(*output, camera="none.txt"), "none.txt cannot be read"),
        (arguments(*output, "--intrinsics", str(tmp_path / "bad.txt")), "holds no camera matrix"),
        (arguments(*output, "--intrinsics", str(tmp_path / "flat.txt")), "focal lengths above 0"),
        (arguments(*output, "--poses", str(tmp_path / "none.txt")), "pose file .* cannot be read"),
        (arguments(*output, "--track"), "--track: not with --tracking3d"),
        (arguments(*output, "--batch-size", "2"), "one by one"),
        (arguments(*output, source=tmp_path / "none"), "does not exist"),
        (arguments(*output, source=tmp_path / "a.png"), "one folder of pictures, or one video"),
        (arguments("--output", str(tmp_path / "o.png")), "there are 5 inputs"),
        (arguments("--output", str(world[0])), "one of the inputs"),
        (arguments("--save-results", str(tmp_path / "o.csv")), r"FILE\.json"),
    ]
    for args, sentence in wrong:
        with pytest.raises(UserError, match=sentence) as caught:
            command.make_plan(args)
        assert "\n" not in str(caught.value)


def test_missing_poses_and_foreign_intrinsics(arguments, world, config3d, label_model, tmp_path):
    lines = (world[0] / "poses.txt").read_text().splitlines()
    (tmp_path / "poses.txt").write_text("\n".join(lines[:3]))
    saving = ("--save-results", str(tmp_path / "o.json"))
    with pytest.raises(UserError, match="holds 3 poses for 5 pictures"):
        run(arguments(*saving, "--poses", str(tmp_path / "poses.txt")), config3d(*CLASSES), world[1], label_model)
    (tmp_path / "large.txt").write_text("2000 0 960  0 2000 540  0 0 1")
    with pytest.raises(UserError, match="outside .*000.png"):
        run(arguments(*saving, "--intrinsics", str(tmp_path / "large.txt")), config3d(*CLASSES), world[1], label_model)


def test_configs_of_the_other_kind(demo, world, tmp_path, capsys):
    root = Path(demo.__file__).parent / "configs"
    camera = ["--intrinsics", str(world[0] / "camera.txt")]
    start = ["--input", str(world[0]), "--save-results", str(tmp_path / "o.json"), "--config-file"]
    weights = ["--opts", "MODEL.WEIGHTS", ""]
    flat = [*start, str(root / "CenterNet2_R50_1x.yaml")]
    assert demo.main(["--tracking3d", *camera, *flat, *weights]) == 2
    assert "finds no 3D boxes" in capsys.readouterr().err
    assert demo.main([*start, str(root / "tracking3d" / "QD3DT_DLA34_KITTI.yaml"), *weights]) == 2
    assert "add --tracking3d" in capsys.readouterr().err
    assert demo.main([*camera, *flat, *weights]) == 2
    assert "belong to --tracking3d" in capsys.readouterr().err


def test_names_come_from_the_data_set_where_the_config_has_none(config3d):
    config = config3d("MODEL.TRACKING3D.CLASSES", [], "DATASETS.TEST", ("kitti_tracking_test",))
    assert command.class_names(config)[2] == "car"


@pytest.mark.parametrize("mode", ["parity", "modern"])
def test_frames_without_objects_and_both_modes(arguments, world, config3d, label_model, tmp_path, mode):
    records = [record | {"annotations": []} if record["frame_index"] in (0, 2) else record for record in world[1]]
    args = arguments("--output", str(tmp_path / "o.mp4"), "--save-results", str(tmp_path / "o.json"))
    report = run(args, config3d(*CLASSES, "MODEL.TRACKING3D.MODE", mode), records, label_model)
    assert report.frames == 5
    saved = json.loads((tmp_path / "o.json").read_text())
    assert {found["image_id"] for found in saved["annotations"]} == {1, 3, 4}
    last, before = ({a["instance_id"] for a in saved["annotations"] if a["image_id"] == i} for i in (4, 1))
    assert last & before  # tracks outlive an empty frame


def test_an_interrupt_keeps_the_records_so_far(arguments, world, config3d, label_model, tmp_path):
    class Interrupted(label_model):
        def forward(self, inputs):
            if inputs[0]["frame_index"] == 3:
                raise KeyboardInterrupt
            return super().forward(inputs)

    args = arguments("--output", str(tmp_path / "o.mp4"), "--save-results", str(tmp_path / "o.json"))
    with pytest.raises(KeyboardInterrupt):
        run(args, config3d(*CLASSES), world[1], Interrupted)
    assert len(json.loads((tmp_path / "o.json").read_text())["images"]) == 3
    assert not (tmp_path / "o.mp4").exists()
