"""What an evaluation will call its figures, known before anything is trained."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.datasets import class_names, ensure_registered
from .protocol import Protocol, coco_protocol, lvis_protocol

__all__ = ["metric_names"]


def metric_names(cfg: CfgNode) -> list[str]:
    """Names of the figures of :func:`~.build.evaluate`, flattened: ``bbox/AP``, ``bbox/AP-car``, ``segm/AP``; with
    several datasets ``<dataset>/bbox/AP``. Some may turn out to be undefined (no object of that kind).

    Raises:
        UserError: a dataset of ``DATASETS.TEST`` is unknown.
    """
    names = []
    tasks = ["bbox", *(["segm"] if cfg.MODEL.MASK_ON else []), *(["keypoints"] if cfg.MODEL.KEYPOINT_ON else [])]
    ensure_registered(cfg.DATASETS.TEST)
    for dataset in cfg.DATASETS.TEST:
        prefix = f"{dataset}/" if len(cfg.DATASETS.TEST) > 1 else ""
        for task in tasks:
            names += [f"{prefix}{task}/{figure}" for figure in _figures(dataset, task)]
    return names


def _figures(dataset: str, task: str) -> list[str]:
    """As :meth:`~.scores.Scores.metrics` names them."""
    lvis = MetadataCatalog.get(dataset).get("evaluator_type") == "lvis"
    if lvis and task == "keypoints":
        return []
    protocol: Protocol = lvis_protocol(task) if lvis else coco_protocol(task)
    sizes = [area[0] for area in list(protocol.areas)[1:]]
    classes = class_names(dataset) or []
    return [
        *("AP", "AP50", "AP75"),
        *(f"AP{size}" for size in sizes),
        *(("APr", "APc", "APf") if lvis else ()),
        *(f"AR@{limit}" for limit in protocol.max_dets),
        *(f"AR{size}@{protocol.max_dets[-1]}" for size in sizes),
        *(f"AP-{name}" for name in classes if len(classes) > 1),
    ]
