"""Config keys of the wing: ``MODEL.TRACKING3D``. Other keys of its configs are detectron2's.

Defaults are the published constants, but for MODE. Pixels are pixels of the network input unless said otherwise.
"""

from detectron2.config import CfgNode as CN

__all__ = ["add_tracking3d_config"]


def add_tracking3d_config(cfg: CN) -> None:
    """Add the keys to ``cfg`` in place."""
    node = cfg.MODEL.TRACKING3D = CN()
    node.MODE = "modern"  # 'parity': as published, with its defects, for converted weights; 'modern': these mended
    node.CLASSES = []  # names in the order of the labels; [] takes those of the data set
    node.HIDDEN_CLASSES = []  # labels that are never reported in modern mode
    node.FIXED_STATISTICS = True  # batch norms of the body keep their statistics; scale and shift train
    node.RPN_NEGATIVES_PER_POSITIVE = 5.0  # sampled anchors; a picture without positives counts as having one
    node.USE_CONFIDENCE = True  # detections are filtered by score x confidence of their depth; False: confidence is 1
    # focal length in pixels that depths are predicted for, so that one model serves several cameras; 0: none
    node.REFERENCE_FOCAL = 0.0
    node.BOX3D_HEAD = _box3d_head()
    node.EMBEDDING_HEAD = _embedding_head()
    node.DATA = _data()
    node.TRACKER = _tracker()


def _box3d_head() -> CN:
    node = CN()
    node.NUM_SHARED_CONVS = 2  # before the branches
    node.NUM_BRANCH_CONVS = 4  # of each branch: depth, sizes, orientation, centre
    node.CONV_DIM = 256  # channels
    # the depth branch predicts a factor of what the height of the region in pixels tells, which pooled features do not
    # show (learns in hundreds of iterations); False: the depth itself, as published
    node.DEPTH_FROM_HEIGHT = False
    return node


def _embedding_head() -> CN:
    node = CN()
    node.NUM_CONV = 4  # convs before the hidden layer
    node.CONV_DIM = 256  # their channels
    node.NORM = "GN"  # after each of them
    node.FC_DIM = 1024  # features of the hidden layer
    node.SIZE = 256  # numbers of an embedding
    node.BATCH_SIZE_PER_IMAGE = 256  # boxes that train, a picture
    node.POSITIVE_FRACTION = 0.5  # of them at most
    node.NEGATIVES_PER_POSITIVE = 3.0  # at most
    node.IOU_THRESHOLDS = [0.3, 0.7]  # background below the first, objects from the second on, ignored between
    node.CLAIM_FROM = 0.5  # IoU from which an object claims its best proposals
    return node


def _data() -> CN:
    node = CN()
    node.REFERENCE_RANGE = 3  # frames before and after the key picture that its reference is drawn from
    node.FRAME_RATE = 10.0  # frames a second of the sequences that the tracker sees
    return node


def _tracker() -> CN:
    node = CN()
    node.INIT_SCORE = 0.8  # 2D score that begins a track
    node.CONTINUE_SCORE = 0.5  # 2D score times confidence of the depth from which a detection carries a track on
    node.DUPLICATE_IOU = 0.7  # 2D IoU above which two detections are one, over all classes
    node.MATCH_AFFINITY = 0.5  # from which a detection belongs to a track
    node.LOST_SECONDS = 1.0  # after which a track that was not seen ends (modern; parity: 10 frames)
    node.MOTION = ""  # VeloLSTM, LSTM, Kalman or Constant; "": what MOTION_WEIGHTS holds, Kalman without
    node.MOTION_WEIGHTS = ""  # checkpoint of a network
    return node
