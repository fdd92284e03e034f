"""A project in the manner of open-vocabulary detectors: a cascade and a meta-architecture of its own on our first
stage, box data and image-level data."""

import pytest
import torch
from client_steps import batch, built, detect, small_cfg, train_a_step
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from tiny import image
from torch.utils._python_dispatch import TorchDispatchMode

from centernet.modeling.roi_heads.custom_fast_rcnn import CustomFastRCNNOutputLayers


def add_project_config(cfg):
    """Keys of the project; many of them are ours, and it has other defaults in mind."""
    node = cfg.MODEL.ROI_BOX_HEAD
    node.USE_SIGMOID_CE, node.PRIOR_PROB, node.MULT_PROPOSAL_SCORE = True, 0.02, True
    node.USE_FED_LOSS, node.FED_LOSS_NUM_CAT, node.FED_LOSS_FREQ_WEIGHT = False, 50, 0.5
    node.CAT_FREQ_PATH = "datasets/metadata/lvis_v1_train_cat_info.json"
    node.WS_NUM_PROPS = 8
    cfg.INPUT.CUSTOM_AUG, cfg.INPUT.TEST_INPUT_TYPE = "", "default"
    cfg.INPUT.TRAIN_SIZE, cfg.INPUT.TEST_SIZE, cfg.INPUT.SCALE_RANGE = 512, 512, (0.5, 1.5)
    cfg.DATALOADER.SOURCE_AWARE, cfg.DATALOADER.DATASET_RATIO = False, [1, 1]


@ROI_HEADS_REGISTRY.register()
class OpenVocabularyCascade(CascadeROIHeads):
    """Objectness goes through all stages; a few best proposals learn from image labels."""

    @configurable
    def __init__(self, *, mult_proposal_score=False, ws_num_props=8, **kwargs):
        super().__init__(**kwargs)
        self.mult_proposal_score = mult_proposal_score
        self.ws_num_props = ws_num_props

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.ROI_BOX_HEAD
        own = {"mult_proposal_score": node.MULT_PROPOSAL_SCORE, "ws_num_props": node.WS_NUM_PROPS}
        return {**super().from_config(cfg, input_shape), **own}

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        del parts["box_predictors"]
        parts["box_predictors"] = [
            CustomFastRCNNOutputLayers(cfg, head.output_shape, box2box_transform=Box2BoxTransform(weights=weights))
            for head, weights in zip(parts["box_heads"], cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS, strict=True)
        ]
        return parts

    def forward(self, images, features, proposals, targets=None, image_labels=None):
        if not self.training:
            return self._forward_box(features, proposals), {}
        if image_labels is not None:
            return proposals, self.image_losses(features, proposals, image_labels)
        proposals = self.label_and_sample_proposals(proposals, targets)
        return proposals, self._forward_box(features, proposals, targets)

    def image_losses(self, features, proposals, image_labels):
        best = [p[: self.ws_num_props] for p in proposals]
        logits, _ = self._run_stage([features[f] for f in self.box_in_features], best, 0)
        per_image = [x.mean(dim=0)[:-1] for x in logits.split([len(p) for p in best])]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.stack(per_image), image_labels)
        return {"loss_image": loss}

    def _forward_box(self, features, proposals, targets=None):
        field = "scores" if proposals[0].has("scores") else "objectness_logits"
        objectness = [p.get(field) for p in proposals]
        maps, sizes, stages = [features[f] for f in self.box_in_features], [p.image_size for p in proposals], []
        for stage, predictor in enumerate(self.box_predictor):
            if stages:
                before, predictions, given = stages[-1]
                boxes = before.predict_boxes(predictions, given)
                logits = [p.objectness_logits for p in proposals]
                proposals = self._create_proposals_from_boxes(boxes, sizes, logits)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, stage, targets)
            stages.append((predictor, self._run_stage(maps, proposals, stage), proposals))
        if self.training:
            return self._losses(stages)
        per_stage = [predictor.predict_probs(predictions, given) for predictor, predictions, given in stages]
        scores = [sum(of_image) / len(stages) for of_image in zip(*per_stage, strict=True)]
        if self.mult_proposal_score:
            scores = [(s * q[:, None]) ** 0.5 for s, q in zip(scores, objectness, strict=True)]
        last, predictions, given = stages[-1]
        rules = last.test_score_thresh, last.test_nms_thresh, last.test_topk_per_image
        return fast_rcnn_inference(last.predict_boxes(predictions, given), scores, sizes, *rules)[0]

    @staticmethod
    def _losses(stages):
        losses = {}
        for number, (predictor, predictions, proposals) in enumerate(stages):
            with get_event_storage().name_scope(f"stage{number}"):
                of_stage = predictor.losses(predictions, proposals)
            losses |= {f"{name}_stage{number}": loss for name, loss in of_stage.items()}
        return losses

    def _create_proposals_from_boxes(self, boxes, image_sizes, logits):
        made = []
        for of_image, size, values in zip(boxes, image_sizes, logits, strict=True):
            new = Instances(size, proposal_boxes=Boxes(of_image.detach()), objectness_logits=values)
            new.proposal_boxes.clip(size)
            made.append(new[new.proposal_boxes.nonempty()] if self.training else new)
        return made


@META_ARCH_REGISTRY.register()
class MixedSupervision(GeneralizedRCNN):
    """The first stage learns objects, not classes; image-level batches train neither it nor the boxes."""

    def forward(self, batched_inputs):
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = self.backbone(images.tensor)
        features = {name: feature.float() for name, feature in features.items()}
        targets = [x["instances"] for x in batched_inputs]
        objects = [Instances(t.image_size, gt_boxes=t.gt_boxes, gt_classes=t.gt_classes * 0) for t in targets]
        proposals, losses = self.proposal_generator(images, features, objects)
        labels = None
        if "labels" in batched_inputs[0]:
            labels = torch.stack([x["labels"] for x in batched_inputs])
            losses = {name: loss * 0 for name, loss in losses.items()}
        return {**losses, **self.roi_heads(images, features, proposals, targets, labels)[1]}


@pytest.fixture
def cfg():
    names = "MODEL.META_ARCHITECTURE", "MixedSupervision", "MODEL.ROI_HEADS.NAME", "OpenVocabularyCascade"
    return small_cfg(add_project_config, *names)


def test_the_projects_keys_win_over_ours(cfg):
    assert cfg.MODEL.ROI_BOX_HEAD.PRIOR_PROB == 0.02  # the file does not name it
    assert (cfg.INPUT.TRAIN_SIZE, cfg.INPUT.SCALE_RANGE) == (512, (0.5, 1.5))
    assert cfg.MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH.startswith("datasets/metadata")
    assert (cfg.SOLVER.TRAIN_ITER, cfg.SOLVER.RESET_ITER, cfg.MODEL.BIFPN.NUM_LEVELS) == (-1, False, 5)
    assert (cfg.DEBUG, cfg.SAVE_DEBUG, cfg.VIS_THRESH, cfg.DEBUG_SHOW_NAME) == (False, False, 0.3, False)


def test_a_step_on_boxes(cfg):
    model = built(cfg)
    losses, moved = train_a_step(model, batch(6, 3))
    stages = {f"{name}_stage{k}" for name in ("loss_cls", "loss_box_reg") for k in range(3)}
    first = {f"loss_centernet_{name}" for name in ("loc", "agn_pos", "agn_neg")}
    assert set(losses) == stages | first
    assert all(loss > 0 for loss in losses.values())
    still = {name for name, _ in model.named_parameters()} - moved  # large objects are missing
    assert all("head.scales." in name or "top_block.p7" in name for name in still)
    assert len(detect(model, batch(6, 3))) == 2


def test_a_step_on_image_labels(cfg):
    model = built(cfg)
    inputs = [{**x, "labels": torch.eye(5)[k]} for k, x in enumerate(batch(2, 2))]
    losses, moved = train_a_step(model, inputs)
    assert losses.pop("loss_image") > 0
    assert set(losses.values()) == {0.0}
    assert any(name.startswith("backbone.bottom_up") for name in moved)
    assert not any(name.startswith(("proposal_generator", "roi_heads.box_head.1")) for name in moved)


def test_the_same_detections_as_our_cascade(cfg):
    """The project's loops over lists, and our padded tensors, on the same weights."""
    theirs, inputs = built(cfg), [image(seed=5), image(64, 128, seed=6)]
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "GeneralizedRCNN", "CustomCascadeROIHeads"
    ours = built(cfg, seed=1)
    ours.load_state_dict(theirs.state_dict())
    for a, b in zip(detect(theirs, inputs), detect(ours, inputs), strict=True):
        assert torch.allclose(a.scores, b.scores, atol=1e-6)
        assert torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=1e-3)
        assert torch.equal(a.pred_classes, b.pred_classes)


@pytest.mark.parametrize("training", [False, True])
def test_proposals_are_ordinary_instances_best_first(cfg, training):
    model = built(cfg).train(training)
    inputs = batch(4, 2)
    images = model.preprocess_image(inputs)
    targets = [x["instances"] for x in inputs] if training else None
    proposals = model.proposal_generator(images, model.backbone(images.tensor), targets)[0]
    fields = {"proposal_boxes", "objectness_logits"} | (set() if training else {"scores", "pred_classes"})
    for proposal, size in zip(proposals, images.image_sizes, strict=True):
        assert type(proposal) is Instances
        assert proposal.image_size == size
        assert set(proposal.get_fields()) == fields
        values = proposal.objectness_logits
        assert type(values) is torch.Tensor
        assert not values.requires_grad
        assert (values.diff() <= 0).all()
        assert 0 < values[-1] <= values[0] < 1  # roots of probabilities, not logits
        assert torch.equal(proposal[:3].objectness_logits, values.topk(3).values)
        values[0] = 0.75
        proposal.proposal_boxes.clip(size)
        assert proposal.objectness_logits[0] == 0.75
        assert (proposal.proposal_boxes.tensor >= 0).all()
        assert (proposal.proposal_boxes.tensor[:, 2] <= size[1]).all()


class Shapes(TorchDispatchMode):
    """The shape of every tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        flat = out if isinstance(out, tuple | list) else [out]
        self.seen += [(str(func), tuple(x.shape)) for x in flat if isinstance(x, torch.Tensor)]
        return out


def test_nothing_scales_with_the_classes_of_the_unused_heatmap(cfg):
    def shapes(num_classes):
        cfg.MODEL.CENTERNET.NUM_CLASSES = num_classes
        model = built(cfg)
        assert not any(1203 in tensor.shape for tensor in model.state_dict().values())
        with Shapes() as record:
            train_a_step(model, batch(5))
            detect(model, [image(seed=5)])
        return record.seen

    many = shapes(1203)
    assert not any(1203 in shape for _, shape in many)
    assert many == shapes(80)
