"""docs/TRACKING3D.md: its code runs, its links lead somewhere, its tables have every key and field."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from centernet.config_file import load_config
from centernet.modeling.build import build_detector
from centernet.tracking3d.evaluation.layouts import layout
from centernet.tracking3d.evaluation.records import TrackingResults
from centernet.tracking3d.inference import VideoTracker

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "TRACKING3D.md").read_text("utf-8")


def test_links_and_files():
    for target in re.findall(r"\]\(([\w./]+)\)", GUIDE):
        assert (ROOT / "docs" / target).is_file(), target
    for target in re.findall(r"(?:tools/\w+\.py|configs/tracking3d/\w+\.yaml)", GUIDE):
        assert (ROOT / target).is_file(), target


def test_every_key_of_the_tracker_is_there(config3d):
    named = set(re.findall(r"`([A-Z_]+)`", GUIDE[GUIDE.index("MODEL.TRACKING3D.TRACKER.` |") :]))
    assert set(config3d().MODEL.TRACKING3D.TRACKER) <= named


def test_every_field_of_the_records_is_there(config3d, clip, label_model):
    records = clip(3, 2)
    results = TrackingResults(layout("synthetic3d"))
    for record, frame in VideoTracker(config3d(), label_model(records)).track_video(records):
        results.add(record, frame)
    constants = {"fov", "near_clip", "is_occluded", "is_truncated", "ignore"}  # of the published layout
    for name in ("categories", "videos", "images", "annotations"):
        row = next(line for line in GUIDE.splitlines() if line.startswith(f"| `{name}` |"))
        assert set(results.as_dict()[name][0]) - constants - {"id"} <= set(re.findall(r"`(\w+)`", row))


@pytest.mark.slow
def test_the_code_runs(clip, tmp_path, monkeypatch):
    import cv2

    config = "configs/tracking3d/QD3DT_R18_synthetic.yaml"
    records = clip(3, 3)
    height, width = records[0]["image"].shape[:2]
    writer = cv2.VideoWriter(str(tmp_path / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (width, height))
    for record in records:
        writer.write(np.ascontiguousarray(record["image"][..., ::-1]))
    writer.release()
    np.savetxt(tmp_path / "camera.txt", np.array(records[0]["intrinsics"])[:, :3])
    model = build_detector(load_config(ROOT / config, ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    (code,) = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(code.replace(config, str(ROOT / config)), "docs/TRACKING3D.md", "exec"), scope)
    assert scope["record"]["frame_index"] == 2
