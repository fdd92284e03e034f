"""Every config key that this package adds to detectron2's, with its meaning, unit and default.

Names and defaults are those of the published CenterNet2 configs ("Probabilistic two-stage detection", arXiv
2103.07461), so that its YAML files load unchanged. Keys marked *inert* are accepted for old files and do nothing.
Pixels are pixels of the network input (after resizing); probabilities are in [0, 1].
"""

from collections.abc import Callable

from detectron2.config import CfgNode as CN

__all__ = ["add_centernet_config", "register_keys"]

_more_keys: dict[str, Callable[[CN], None]] = {}  # of rooms above, by the names of the functions


def register_keys(add: Callable[[CN], None]) -> None:
    """Let :func:`add_centernet_config` call ``add``, too."""
    _more_keys[add.__name__] = add


def add_centernet_config(cfg: CN) -> None:
    """Add the keys to ``cfg`` in place.

    Safe to call before or after other projects' ``add_*_config`` functions, which re-assign some of the same keys.
    """
    cfg.MODEL.WEIGHTS_STRICT = True  # refuse weights that do not fit; False: take what fits (see centernet.weights)
    cfg.MODEL.CLASS_NAMES = []  # by class number; a training's config.yaml has its data set's; empty: those of DATASETS
    cfg.MODEL.CENTERNET = _first_stage()
    cfg.MODEL.BIFPN = _bifpn()
    cfg.MODEL.DLA = _dla()
    cfg.MODEL.TIMM = _timm()
    _add_box_head(cfg.MODEL.ROI_BOX_HEAD)
    _add_training_of_model(cfg.MODEL)
    _add_solver(cfg.SOLVER)
    _add_input(cfg.INPUT)
    _add_dataloader(cfg.DATALOADER)
    _add_debug(cfg)
    _add_test(cfg.TEST)
    for add in _more_keys.values():
        add(cfg)
    cfg.WRITERS = ["tensorboard"]  # where curves go besides log.txt and metrics.json: 'tensorboard', 'wandb', 'mlflow'


def _first_stage() -> CN:
    node = CN()
    # --- what the first stage sees
    node.NUM_CLASSES = 80  # channels of the class heatmap; unused with ONLY_PROPOSAL
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]  # backbone outputs, finest first
    node.FPN_STRIDES = [8, 16, 32, 64, 128]  # pixels a cell, one a feature
    # --- head
    node.NORM = "GN"  # norm of the towers ('' for none)
    node.USE_DEFORMABLE = False  # last conv of each tower is a modulated deformable conv
    node.NUM_CLS_CONVS = 4  # convs of the class tower
    node.NUM_BOX_CONVS = 4  # convs of the box tower (also carries the class-agnostic heatmap)
    node.NUM_SHARE_CONVS = 0  # convs before both towers
    node.PRIOR_PROB = 0.01  # heatmap probability at initialisation
    node.WITH_AGN_HM = False  # predict the class-agnostic heatmap P(object)
    node.ONLY_PROPOSAL = False  # no class heatmap; the output is proposals (needs WITH_AGN_HM)
    node.AS_PROPOSAL = False  # class-specific boxes are handed on as proposals
    # --- targets
    # sizes of interest: half box diagonals in pixels that a level is responsible for, both ends included
    node.SOI = [[0, 80], [64, 160], [128, 320], [256, 640], [512, 10000000]]  # one range a level
    node.HM_MIN_OVERLAP = 0.8  # IoU that a shifted box keeps at one Gaussian radius
    node.MIN_RADIUS = 4  # smallest Gaussian radius, pixels
    node.MORE_POS = False  # add well-predicted neighbours of the centre as heatmap positives
    node.MORE_POS_THRESH = 0.2  # box loss under which a neighbour counts
    node.MORE_POS_TOPK = 9  # fewer than this many of an object's neighbours (its centres come on top)
    # --- losses
    node.LOC_LOSS_TYPE = "giou"  # 'giou', 'iou' (-log) or 'linear_iou' (1 - iou)
    node.SIGMOID_CLAMP = 1e-4  # heatmap probabilities are clamped to [this, 1 - this] in the loss
    node.HM_FOCAL_ALPHA = 0.25  # weight of positives (negatives get 1 - alpha); negative: no such weights
    node.HM_FOCAL_BETA = 4  # exponent of (1 - heatmap) on negatives
    node.LOSS_GAMMA = 2.0  # focal exponent
    node.POS_WEIGHT = 1.0  # weight of the positive heatmap term
    node.NEG_WEIGHT = 1.0  # weight of the negative heatmap term
    node.REG_WEIGHT = 2.0  # weight of the box loss
    node.IGNORE_HIGH_FP = -1.0  # > 0: negatives predicted above this probability carry no loss
    node.NOT_NORM_REG = True  # weight 1 for every regression cell (False: the heatmap value)
    node.NO_REDUCE = False  # normalise by this process's positives instead of the mean over processes
    # --- decoding; TRAIN / TEST follow the mode of the module
    node.INFERENCE_TH = 0.05  # smallest candidate probability
    node.CENTER_NMS = False  # keep 3x3 local maxima of the heatmap instead of box NMS
    node.NOT_NMS = False  # no box NMS
    node.NMS_TH_TRAIN = 0.6  # first-stage NMS, IoU
    node.NMS_TH_TEST = 0.6  # the same in inference
    node.PRE_NMS_TOPK_TRAIN = 1000  # candidates a level and image
    node.PRE_NMS_TOPK_TEST = 1000  # the same in inference
    node.POST_NMS_TOPK_TRAIN = 100  # proposals an image
    node.POST_NMS_TOPK_TEST = 100  # the same in inference
    # --- choices of the published models that one may want to undo (their defaults keep the published numbers)
    node.CLAMP_CENTERS = True  # move a centre outside the map to its nearest cell (published: False); not with MORE_POS
    node.UNIQUE_POSITIVES = False  # objects that share a cell and class count once; not with MORE_POS
    node.HM_ONLY_ASSIGNED_LEVELS = False  # draw Gaussians on the responsible levels only
    node.IOU_OFFSET = 1.0  # added to intersection and union in the box loss, square strides
    node.SQRT_SCORE = True  # WITH_AGN_HM: score = sqrt(probability), so that the final score has P(object) ** (1 / 4)
    node.CLIP_PROPOSALS = False  # clip first-stage boxes to the image
    node.CHECK_FINITE = True  # NaN or infinity raises an error that names the tensor
    return node


def _bifpn() -> CN:
    node = CN()
    node.NUM_LEVELS = 5  # strides 8 to 128
    node.NUM_BIFPN = 6  # repeats
    node.NORM = "GN"  # norm after every conv
    node.OUT_CHANNELS = 160  # channels of every level
    node.SEPARABLE_CONV = False  # depth-wise and point-wise convs instead of full ones (not in the FCOS-style BiFPN)
    node.SIZE_DIVISIBILITY = 128  # FCOS-style BiFPN: images are padded to a multiple, pixels; 32 suffices for p3 to p5
    node.FROM_WEIGHTS = False  # choose between the two BiFPNs from the keys of MODEL.WEIGHTS
    return node


def _dla() -> CN:
    node = CN()
    node.OUT_FEATURES = ["dla2"]  # levels to hand on; dla2 has stride 4
    node.USE_DLA_UP = True  # deformable up-sampling path
    node.NUM_LAYERS = 34  # 34 or 60
    node.MS_OUTPUT = False  # several output levels
    node.NORM = "BN"  # norm of the body
    node.DLAUP_IN_FEATURES = ["dla3", "dla4", "dla5"]  # levels that the up-sampling path joins
    node.DLAUP_NODE = "conv"  # its nodes: 'conv' or 'dcn'
    return node


def _timm() -> CN:
    node = CN()
    node.NAME = ""  # a model of timm, such as 'convnext_tiny'
    node.OUT_STRIDES = [8, 16, 32]  # of its features that the pyramid takes, pixels; ends with 32
    node.FREEZE_AT = 0  # constant up to the features of stride 2 ** this: 1 the stem, 2 up to stride 4, ...; 0 nothing
    node.NORM = ""  # '': batch norms as timm has them; 'FrozenBN': all of them constant
    node.OUT_NORM = ""  # 'LN': a layer norm on each output, for Swin and ConvNeXt; '': none
    node.DROP_PATH = 0.0  # rate of stochastic depth in the last block, growing linearly from 0
    return node


def _add_box_head(node: CN) -> None:
    node.MULT_PROPOSAL_SCORE = False  # final score = sqrt(class probability x first-stage score)
    node.USE_SIGMOID_CE = False  # per-class sigmoid instead of softmax
    node.PRIOR_PROB = 0.01  # class probability at initialisation, with USE_SIGMOID_CE
    node.USE_FED_LOSS = False  # federated loss: classes are sampled a step
    node.FED_LOSS_NUM_CAT = 50  # classes a step
    node.FED_LOSS_FREQ_WEIGHT = 0.5  # classes are drawn with probability ~ image_count ** this
    node.CAT_FREQ_PATH = "datasets/lvis/lvis_v1_train_cat_info.json"  # JSON list of {id, image_count}
    node.USE_EQL_LOSS = False  # inert
    node.EQL_FREQ_CAT = 200  # inert


def _add_training_of_model(node: CN) -> None:
    node.FREEZE = []  # regular expressions; parameters whose name starts like one stay constant, and norms of such
    node.CHANNELS_LAST = False  # tensors lie pixel by pixel (NHWC) in memory; often faster on GPUs with tensor cores
    node.ACTIVATION_CHECKPOINTING = False  # stages of the body are computed again in the backward pass: less memory
    node.COMPILE = CN()  # torch.compile of backbone and first-stage head, in training
    node.COMPILE.ENABLED = False  # needs a C++ compiler
    # multiples of the backbone's largest stride; a batch is padded to the smallest that holds it, and not compiled if
    # none does
    node.COMPILE.CANVASES = []  # [height, width] each, pixels; []: from INPUT's training sizes


def _add_solver(node: CN) -> None:
    node.AMP.PRECISION = "auto"  # with AMP.ENABLED: 'bfloat16', 'float16', or what the device has, bfloat16 first
    node.GRADIENT_ACCUMULATION = 1  # IMS_PER_BATCH is taken in this many parts, for the memory of one; it divides it
    node.RESET_ITER = False  # start at iteration 0 even if the weights file carries an iteration
    node.TRAIN_ITER = -1  # >= 0: stop after this many iterations; the schedule still follows MAX_ITER
    node.OPTIMIZER = "SGD"  # or 'ADAMW' (arXiv 1711.05101); both with WEIGHT_DECAY and its kin
    node.LAYER_DECAY = 1.0  # rate of a layer of the body / rate of the layer above it; heads have BASE_LR; 1: all have
    node.LR_FACTORS = []  # [regular expression, factor] each: rates of parameters whose name starts like it
    node.EMA = CN()  # exponential moving average of the weights: evaluated beside them, model_final_ema.pth at the end
    node.EMA.ENABLED = False
    node.EMA.DECAY = 0.9998  # share of the average that stays at a step
    node.EMA.WARMUP = 2000  # in this many first steps at most (1 + step) / (10 + step) stays; 0: always DECAY
    node.CHECKPOINTS_KEPT = 0  # keep that many of the newest model_<iteration>.pth (and best and final); 0: all
    # 'skip': no weight changes in that step, iteration and schedule go on; the batch is kept in OUTPUT_DIR/bad_batches
    # for tools/replay_batch.py
    node.NON_FINITE = "stop"  # a loss or gradient that is nan or infinite: 'stop' the run or 'skip' the step
    node.NON_FINITE_LIMIT = 10  # with 'skip': more than this many such steps in a row stop the run


def _add_test(node: CN) -> None:
    node.SAVE_PROPOSALS = False  # evaluation also stores P(object) of the first stage, for tools/report.py
    node.BEST_METRIC = ""  # a figure such as 'bbox/AP': model_best.pth holds the weights with the best one
    node.EARLY_STOPPING = 0  # evaluations without a better one after which training ends; 0: never
    node.VALIDATION_LOSS = False  # each evaluation also measures the training losses on DATASETS.TEST


def _add_input(node: CN) -> None:
    node.CUSTOM_AUG = ""  # '', 'ResizeShortestEdge', 'EfficientDetResizeCrop' or 'LargeScaleJitter'
    node.TRAIN_SIZE = 640  # side of the window that EfficientDetResizeCrop and LargeScaleJitter cut, pixels
    node.TEST_SIZE = 640  # pixels, longest side with TEST_INPUT_TYPE 'square'
    node.SCALE_RANGE = (0.1, 2.0)  # scale of both, relative to TRAIN_SIZE
    node.PSEUDO_LABEL_WEIGHT = "none"  # 'score': objects' losses are weighted by the score of their annotation
    node.TEST_INPUT_TYPE = "default"  # 'default': MIN_SIZE_TEST / MAX_SIZE_TEST; 'square': TEST_SIZE
    node.NOT_CLAMP_BOX = False  # clamp centres into the image, for mappers that let boxes reach outside it (ours clips)


def _add_dataloader(node: CN) -> None:
    node.SOURCE_AWARE = False  # inert: every image always remembers which dataset it came from
    node.DATASET_RATIO = [1, 1]  # sampling ratio of the datasets of DATASETS.TRAIN
    node.BAD_IMAGE_LIMIT = 10  # training images that cannot be read are replaced; more than this many stop the run


def _add_debug(cfg: CN) -> None:
    cfg.DEBUG = False  # draw every batch: targets in training, predictions of both stages in inference (slow)
    cfg.SAVE_DEBUG = False  # ... as numbered JPEGs in output/save_debug instead of windows (or without a display)
    cfg.DEBUG_SHOW_NAME = False  # ... with class names instead of numbers, if the classes are those of COCO or LVIS
    cfg.VIS_THRESH = 0.3  # ... boxes with a score above this
    cfg.SAVE_PTH = False  # inert
