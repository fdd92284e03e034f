"""The official scorers: pycocotools and lvis."""

import contextlib
import copy
import io
import logging

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def coco_scores(truth, detections, task="bbox", max_dets=(1, 10, 100), image_ids=None):
    """pycocotools' evaluation object."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), task)
        if max_dets is not None:
            evaluation.params.maxDets = list(max_dets)
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def lvis_scores(truth, detections, monkeypatch, task="bbox", max_dets=300):
    """lvis's evaluation object; it uses a name that numpy 1.24 took away."""
    from lvis import LVIS, LVISEval, LVISResults

    if not hasattr(np, "float"):
        monkeypatch.setattr(np, "float", float, raising=False)

    class Content(LVIS):
        def __init__(self, dataset):
            self.logger = logging.getLogger("lvis")
            self.dataset = dataset
            self._create_index()

    content = Content(copy.deepcopy(truth))
    results = LVISResults(content, copy.deepcopy(detections), max_dets=max_dets)
    evaluation = LVISEval(content, results, task)
    evaluation.run()
    return evaluation
