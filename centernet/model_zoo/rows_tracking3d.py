"""QD-3DT's rows of the model zoo: 3D detectors and the motion models of their tracker.

The published detectors hold 192,532 parameters more than ours (91,114,595, 89,761,495 and 67,036,577 in all): layers
that are never used, and 3D boxes of the background.

Scores are the authors' (their model zoo's text), where trained detectors track with the motion model of the same data.
"""

from .row import Row

__all__ = ["DETECTORS", "MOTION_MODELS"]

_LICENCE = "Waymo's licence does not allow to release models trained on its data"
_VELO = 532_160
_OURS = "CenterNet2's first stage below QD-3DT's heads"

DETECTORS = (
    Row(
        name="QD3DT_R101_nuScenes",
        family="3D tracking",
        dataset="nuScenes",
        metric="val",
        published="AMOTA@0.2 0.352, AMOTA 0.242",
        folder="tracking3d",
        parameters=90_922_063,
        drive_ids=("14gdw74AcIhvqAEWk3nQwgbGHge_-X1vM",),
        notes=("24 epochs of key frames on 8 GPUs, 144 hours; tracked on all frames with VeloLSTM_nuScenes",),
        aliases=("nuScenes_3Dtracking",),
    ),
    Row(
        name="QD3DT_R101_Waymo",
        family="3D tracking",
        dataset="Waymo",
        metric="val",
        published="MOTA/L2 [0 m, 30 m) 0.0001",
        withheld=_LICENCE,
        folder="tracking3d",
        parameters=89_568_963,
        notes=("24 epochs on 8 GPUs, 336 hours; a match needs a 3D IoU of 0.7, which hardly any monocular box has",),
        aliases=("Waymo_3Dtracking",),
    ),
    Row(
        name="QD3DT_DLA34_KITTI",
        family="3D tracking",
        dataset="KITTI",
        metric="test, 2D, cars",
        published="MOTA 86.41",
        folder="tracking3d",
        parameters=66_844_045,
        drive_ids=("1mwXVr-3B4BxPtxmJF-Sfddq_SjDcT7Kx",),
        notes=("tracking and detection pictures, 4 GPUs, 16 hours; began from a model trained on GTA",),
        aliases=("KITTI_train_3Dtrack",),
    ),
    Row(
        name="QD3DT_DLA34_KITTI_subtrain",
        family="3D tracking",
        dataset="KITTI",
        metric="subval",
        folder="tracking3d",
        parameters=66_844_045,
        drive_ids=("1_ikkK3ABE-9fA7Ja7DjQNqLAvBMcaVPi",),
        notes=("half of the sequences (subtrain), to be scored on the others; 4 GPUs, 14 hours",),
        aliases=("KITTI_subtrain_3Dtrack",),
    ),
    Row(
        name="CenterNet2-3DT_R50_nuScenes",
        family="3D tracking",
        dataset="nuScenes",
        metric="val",
        folder="tracking3d",
        parameters=71_618_451,
        notes=(f"ours, not trained: {_OURS}",),
    ),
    Row(
        name="CenterNet2-3DT_DLA34_KITTI",
        family="3D tracking",
        dataset="KITTI",
        metric="test",
        folder="tracking3d",
        parameters=66_241_843,
        notes=(f"ours, not trained: {_OURS}",),
    ),
    Row(
        name="QD3DT_R18_synthetic",
        family="3D tracking",
        dataset="synthetic world",
        metric="val",
        folder="tracking3d",
        parameters=13_365_344,
        notes=("ours, small, from scratch on the synthetic world of tools/make_synthetic3d.py",),
    ),
    Row(
        name="CenterNet2-3DT_R18_synthetic",
        family="3D tracking",
        dataset="synthetic world",
        metric="val",
        folder="tracking3d",
        parameters=13_367_387,
        notes=(f"ours, small: {_OURS}, the same otherwise",),
    ),
)

MOTION_MODELS = (
    Row(
        name="VeloLSTM_nuScenes",
        family="motion",
        motion="VeloLSTM",
        dataset="nuScenes",
        metric="key frames",
        parameters=_VELO,
        drive_ids=("1tFME2bmPJsNsEtWYP6qS3AW0VZVRCeWo",),
        notes=("learnt from the detector's boxes, one GPU, 9 hours",),
        aliases=("nuScenes_LSTM_motion_model",),
    ),
    Row(
        name="VeloLSTM_Waymo",
        family="motion",
        motion="VeloLSTM",
        dataset="Waymo",
        metric="10 Hz",
        parameters=_VELO,
        withheld=_LICENCE,
        notes=("one GPU, 24 hours",),
        aliases=("Waymo_LSTM_motion_model",),
    ),
    Row(
        name="VeloLSTM_KITTI",
        family="motion",
        motion="VeloLSTM",
        dataset="KITTI",
        metric="10 Hz",
        parameters=_VELO,
        drive_ids=("10REtqfmkYMCexYaMAy9js-Zp54wOfuO4",),
        notes=("one GPU, half an hour",),
        aliases=("KITTI_LSTM_motion_model",),
    ),
    Row(
        name="VeloLSTM_KITTI_subtrain",
        family="motion",
        motion="VeloLSTM",
        dataset="KITTI",
        metric="subtrain, 10 Hz",
        parameters=_VELO,
        drive_ids=("1H25HzRcWhtuWk_bOu1_zmzOKjjHaRw0O",),
        notes=("one GPU, half an hour",),
        aliases=("KITTI_subtrain_LSTM_motion_model",),
    ),
)
