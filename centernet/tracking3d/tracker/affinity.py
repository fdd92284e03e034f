"""How much each detection looks like each entry of the memory: place, motion, appearance."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.geometry import wrap_angle
from ..ops.mode import Mode
from ..ops.overlaps import iou_bev, iou_inclusive
from .duplicates import overlaps_2d
from .memory import Entries, Sightings
from .rules import TrackerRules

_EPS = 1e-6  # added to every component of a difference, as published
_TINY = 1e-8  # displacements and velocities below have no direction


@dataclass(frozen=True)
class Compared:
    """Detections beside entries, float ``[N, M]`` results throughout.

    Attributes:
        seen: N detections.
        entries: M entries.
        predicted: float ``[M, 7]``, the entries' boxes now.
        elapsed: float ``[M]``, time since their ``box7``, in the unit of ``entries.velocity``; 1 in parity mode.
        rules: cues and scales.
        mode: ``"parity"``: one distance over metres and radians, yaw not wrapped, footprints that ignore yaw and are a
            metre larger each way; ``"modern"``: none of these, and scales by class and time.
    """

    seen: Sightings
    entries: Entries
    predicted: Tensor
    elapsed: Tensor
    rules: TrackerRules
    mode: Mode

    def affinity(self) -> Tensor:
        """The affinity; 0 where it cannot be (other classes)."""
        rules, box, depth = self.rules, self._box(), self._depth()
        box_weight = 0.5 if rules.appearance_cue != "none" else 1.0
        appearance_weight = 1 - box_weight if rules.box_cue != "none" else 1.0
        total = box_weight * box * depth
        if rules.appearance_cue != "none":
            total = total + appearance_weight * self._appearance().to(total)
        possible = (box > 0) & (depth > 0)
        if rules.same_class:
            possible &= self.seen.labels[:, None] == self.entries.labels
        return total / (box_weight + appearance_weight) * possible

    def _box(self) -> Tensor:
        cue = self.rules.box_cue
        if cue == "none":
            return self.predicted.new_ones(len(self.seen), len(self.entries))
        if cue == "bev":
            return self._bev()
        if cue == "box2d":
            return self._overlap_2d()
        similarity = self._similarity_3d()
        return similarity * self._overlap_2d() if cue == "box2d_depth_aware" else similarity

    def _overlap_2d(self) -> Tensor:
        return overlaps_2d(self.seen, self.entries.boxes, self.entries.view).to(self.predicted)

    def _bev(self) -> Tensor:
        if self.mode == "modern":
            return iou_bev(self.seen.box7, self.predicted)
        return iou_inclusive(_upright_footprint(self.seen.box7), _upright_footprint(self.predicted))

    def _similarity_3d(self) -> Tensor:
        box7, predicted, rules = self.seen.box7, self.predicted, self.rules
        if self.mode == "parity":
            return torch.exp(-_distance(box7 + _EPS, predicted) / rules.box_scale)
        turned = wrap_angle(box7[:, None, 3] - predicted[:, 3]).abs()
        turned = torch.minimum(turned, torch.pi - turned)  # front and back look alike
        sizes = _distance(box7[:, 4:], predicted[:, 4:])
        centers = _distance(box7[:, :3], predicted[:, :3]) / self._scale(rules.box_scale)
        return torch.exp(-(centers + turned / rules.yaw_scale + sizes / rules.size_scale))

    def _depth(self) -> Tensor:
        cue, box7, entries = self.rules.depth_cue, self.seen.box7, self.entries
        if cue == "none":
            return self.predicted.new_ones(len(self.seen), len(entries))
        if cue == "cosine":
            # the angle between rays is the same in the world as in the camera frame
            there = self.predicted[None, :, :3] - self.seen.origin[:, None]
            rays = box7[:, :3] - self.seen.origin
            return (F.cosine_similarity(rays[:, None], there, dim=2) + 1) / 2
        if cue == "pure_motion":
            return self._displacement(self.predicted) * self._direction(self.predicted)
        eps = _EPS if self.mode == "parity" else 0.0
        distance = _distance(box7[:, :3] + eps, self.predicted[:, :3])
        centroid = torch.exp(-distance / self._scale(self.rules.box_scale))
        if cue == "centroid":
            return centroid
        ahead = self._direction(entries.box7)
        return ahead * centroid + (1 - ahead) * self._displacement(entries.box7)

    def _displacement(self, start: Tensor) -> Tensor:
        """Similarity of the displacement since ``start [M, 7]`` and the expected one."""
        eps = _EPS if self.mode == "parity" else 0.0
        expected = start[:, :3] + self.entries.velocity[:, :3] * self.elapsed[:, None]
        distance = _distance(self.seen.box7[:, :3] + eps, expected)
        return torch.exp(-distance / self._scale(self.rules.displacement_scale))

    def _direction(self, start: Tensor) -> Tensor:
        """1 for a displacement in the direction of the mean velocity, 0 for the opposite, 1/2 where either is 0."""
        (x, y), (start_x, start_y) = self.seen.box7[:, :2].unbind(1), start[:, :2].unbind(1)
        velocity = self.entries.velocity[:, :2]
        along_x, along_y = F.normalize(velocity, dim=1, eps=_TINY).unbind(1)
        moved_x, moved_y = x[:, None] - start_x, y[:, None] - start_y
        along = moved_x * along_x + moved_y * along_y
        return (along / torch.hypot(moved_x, moved_y).clamp(min=_TINY) + 1) / 2

    def _scale(self, metres: float) -> Tensor:
        """Scale of distances by entry, float ``[M]``."""
        scale = torch.full_like(self.elapsed, metres)
        if self.mode == "modern":
            scale = scale + self.rules.drift_scale * self.elapsed
            if self.rules.class_scales:
                factors = scale.new_tensor((*self.rules.class_scales, 1.0))
                scale = scale * factors[self.entries.labels.clamp(max=len(self.rules.class_scales))]
        return scale

    def _appearance(self) -> Tensor:
        ours, theirs = self.seen.embeddings, self.entries.embeddings
        if self.rules.appearance_cue == "cosine":
            return F.normalize(ours, dim=1) @ F.normalize(theirs, dim=1).T
        product = ours @ theirs.T
        if self.rules.appearance_cue == "softmax":
            return product.softmax(1)
        return (product.softmax(1) + product.softmax(0)) / 2


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """``[N, D]``, ``[M, D]`` -> ``[N, M]``, from differences: world coordinates are too large for products."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def _upright_footprint(box7: Tensor) -> Tensor:
    """``xyxy [N, 4]`` in the XY plane, width along X and length along Y whatever the yaw."""
    half = box7[:, 5:7] / 2
    return torch.cat((box7[:, :2] - half, box7[:, :2] + half), 1)
