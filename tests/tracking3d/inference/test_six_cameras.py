"""nuScenes' six cameras, its annotations as detections: ids within a camera and over all."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch

from centernet.tracking3d.data import read_nuscenes
from centernet.tracking3d.inference import VideoTracker
from centernet.tracking3d.inference.video_tracker import moments

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).resolve().parents[4] / "shared" / "data" / "nuscenes_mini"


@pytest.fixture(scope="module")
def frames():
    """Key frames of two scenes, in the order of time."""
    if not FOLDER.is_dir():
        pytest.skip("nuscenes_mini is not here")
    records = read_nuscenes(FOLDER, "mini_val", require_pictures=False)
    records.sort(key=lambda record: (record["scene"], record["timestamp"]))
    return [record | {"image": torch.zeros(3, 9, 16)} for record in records]


def test_the_cameras_of_a_sample_are_one_moment(frames):
    found = list(moments(frames, 0.7 / 12))
    assert Counter(len(moment) for moment in found) == {6: 81}
    assert all(len({record["sample_token"] for record in moment}) == 1 for moment in found)


def test_an_object_keeps_its_id_from_camera_to_camera(frames, config3d, label_model):
    half_second = ["MODEL.TRACKING3D.DATA.FRAME_RATE", 2.0, "MODEL.TRACKING3D.TRACKER.LOST_SECONDS", 3.0]
    config = config3d(*half_second, name="QD3DT_R101_nuScenes.yaml")
    counts = {}
    for across in (False, True):
        owners = defaultdict(set)
        for record, frame in VideoTracker(config, label_model(frames), across=across).track_video(frames):
            for number, box in zip(frame.ids.tolist(), frame.boxes.tolist(), strict=True):
                distances = {
                    a["instance_id"]: sum(abs(x - y) for x, y in zip(a["bbox"], box, strict=True))
                    for a in record["annotations"]
                }
                owners[number].add(min(distances, key=distances.__getitem__))
        counts[across] = len(owners), sum(len(found) > 1 for found in owners.values())
    objects = len({a["instance_id"] for record in frames for a in record["annotations"]})
    ids, mixed = counts[True]
    assert ids < 1.1 * objects
    assert mixed <= 2
    assert counts[False][0] > 2 * ids  # each camera numbers for itself
