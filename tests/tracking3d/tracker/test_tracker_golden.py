"""The tracker in parity mode takes the published tracker's decisions in every scripted scene."""

import pytest
import torch
from published import SCENES, compared, motion_of, pure_detections

ALONE = ("box2d", "bev", "box2d_depth_aware", "centroid", "cosine", "pure_motion", "softmax", "embcosine")
VARIANTS = ("kf_greedy", "kf_hungarian", "dummy_greedy", "lstm_greedy", "lstm_hungarian")
CHANGED = (
    *(f"kf_hung_{change}" for change in ALONE),
    *(f"kf_greedy_{change}" for change in ("nofeat", "nobox", "nodepthorder", "nocats")),
    "lstm_greedy_noconf",
)


@pytest.mark.parametrize("variant", ["kf_greedy", "kf_hungarian", "dummy_greedy"])
def test_a_scene_of_our_own_copy(variant, tracking3d_data):
    """Three cars, gaps of 5, 9 and 12 frames, a moving camera."""
    outcome = compared(tracking3d_data("tracker_gap.npz"), variant, motion_of(variant))
    assert outcome.differences == []
    assert outcome.arrays > 200
    assert outcome.worst["box7"] < 1e-3


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(
    "variant", [name if name.startswith("kf") else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_decisions_are_the_published_ones(scene, variant, golden3d):
    outcome = compared(golden3d(f"tracker_{scene}.npz"), variant, motion_of(variant))
    assert outcome.differences == []
    assert outcome.arrays > 150
    assert "hungarian" not in variant or "S" in outcome.worst


@pytest.mark.slow
@pytest.mark.parametrize("variant", CHANGED)
@pytest.mark.parametrize("scene", ["cross", "crowd"])
def test_decisions_with_other_cues_are_the_published_ones(scene, variant, golden3d):
    outcome = compared(golden3d(f"tracker_{scene}.npz"), variant, motion_of(variant))
    assert outcome.differences == []
    assert "hung" not in variant or "S" in outcome.worst


def test_no_variant_is_forgotten(golden3d):
    stored = set()
    for scene in SCENES:
        stored |= set(golden3d(f"tracker_{scene}.npz")["variants"].tolist())
    assert stored == {*VARIANTS, *CHANGED}


@pytest.mark.parametrize("scene", ["gap", "videos"])
def test_without_tracking_every_detection_has_an_id(scene, golden3d):
    assert pure_detections(golden3d(f"tracker_{scene}.npz")) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_decisions_on_a_gpu_are_the_same(tracking3d_data):
    assert compared(tracking3d_data("tracker_gap.npz"), "kf_greedy", motion_of("kf_greedy"), "cuda").differences == []
