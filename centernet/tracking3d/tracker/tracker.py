"""Quasi-dense tracking in 3D: one step for all detections and all tracks of a moment."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UserError
from ..motion.base import MotionModel
from ..ops.geometry import Camera, lower_boxes
from ..ops.mode import Mode
from .affinity import Compared
from .assignment import assign
from .clock import Clock
from .detections import Detections3D, Tracks3D
from .duplicates import distinct, new_backdrops
from .lifting import sightings
from .memory import BACKDROP, Entries, Sightings, begin, concat, continued
from .rules import TrackerRules

logger = logging.getLogger(__name__)
_SAME_TIME = 1e-6  # seconds; times are sums of decimal fractions


class IdCounter:
    """Ids 0, 1, 2, ..., each once; several trackers may share one."""

    def __init__(self) -> None:
        self.next = 0

    def take(self, count: int) -> range:
        self.next += count
        return range(self.next - count, self.next)


class Matched(NamedTuple):
    """Everything that one step decided; rows are the detections that are no duplicates, best first.

    Attributes:
        seen: K detections; ``seen.index`` is their row among those given.
        ids: int64 ``[K]``; -1: no track (yet), -2: too weak and on top of a track.
        box7: float ``[K, 7]``, after the motion model where there is a track.
        velocity: float ``[K, 3]``, see :class:`.detections.Tracks3D`; 0 without track.
        sightings: int64 ``[K]``, how often the track was seen; 0 without track.
        affinity: float ``[K, M]``, before assignment; ``None`` where nothing was compared.
        entries: the memory that was compared, M rows: tracks, then backdrops.
    """

    seen: Sightings
    ids: Tensor
    box7: Tensor
    velocity: Tensor
    sightings: Tensor
    affinity: Tensor | None
    entries: Entries | None


class QuasiDenseTracker:
    """Tracks the objects of one video at a time. Not thread-safe.

    Frame 0 begins a new video, as does :meth:`reset`; ids go on.

    Args:
        rules: constants and cues.
        motion: model that predicts and refines boxes.
        mode: ``"parity"``: as published. ``"modern"``: every track is predicted once a frame and by the time that has
            passed, velocities are per second, tracks live for seconds, yaw is wrapped, duplicates are removed by
            non-maximum suppression, and lifting inverts the whole projection.
        dtype: of boxes in the world and motion states; float64 keeps fractions of a millimetre in map coordinates.
        ids: counter to share with other trackers.

    Source: Hu et al., QD-3DT (arXiv 2103.07351) section 3.3; quasi-dense matching: Pang et al. (CVPR 2021).
    """

    def __init__(
        self,
        rules: TrackerRules,
        motion: MotionModel,
        mode: Mode = "modern",
        *,
        dtype: torch.dtype = torch.float64,
        ids: IdCounter | None = None,
    ) -> None:
        self.rules = rules
        self.motion = motion
        self.mode = mode
        self.dtype = dtype
        self.id_counter = ids or IdCounter()
        self.tracks: Entries | None = None
        self.backdrops: list[Entries] = []  # one record a frame, newest first
        self._clock = Clock(rules.frame_seconds, mode)
        self._moments = 0  # of this video
        self._warned = False

    def reset(self) -> None:
        """Forget all tracks: the next frame is the first of a video. Ids go on."""
        self.tracks, self.backdrops, self._warned, self._moments = None, [], False, 0
        self._clock.reset()

    @torch.no_grad()
    def step(
        self, detections: Detections3D, camera: Camera, frame_index: int, seconds: float | None = None
    ) -> Tracks3D:
        """The next picture of the video.

        Args:
            detections: of this picture; none is fine. Those with values that are not finite are left out (and the
                log says so, once a video).
            camera: its calibration and pose.
            frame_index: 0 begins a new video; otherwise above the last one. Indices may be missing.
            seconds: its time on any clock; without, ``frame_index * rules.frame_seconds``. Parity mode does not look at
                it.

        Returns:
            the objects seen in this picture.

        Raises:
            UserError: frames out of order; a calibration or pose that is not finite, or that cannot be inverted.
        """
        return self.step_cameras([(detections, camera)], frame_index, seconds)[0]

    @torch.no_grad()
    def step_cameras(
        self, views: Sequence[tuple[Detections3D, Camera]], frame_index: int, seconds: float | None = None
    ) -> list[Tracks3D]:
        """The next moment of a scene, seen by several cameras at once, tracked in the world they share.

        What two cameras see of one object is one track: in modern mode, the weaker of two detections of one place and
        class is a duplicate. A camera that has no picture is left out of ``views``.

        Args and errors as :meth:`step`; at least one view.

        Returns:
            one record for each view; ``index`` counts that view's detections.
        """
        matched = self.match(views, frame_index, seconds)
        return [self.seen_from(matched, camera, number) for number, (_, camera) in enumerate(views)]

    @torch.no_grad()
    def match(
        self, views: Sequence[tuple[Detections3D, Camera]], frame_index: int, seconds: float | None = None
    ) -> Matched:
        """:meth:`step_cameras` with everything that was decided on the way, in the world."""
        if frame_index == 0:
            self.reset()
        elapsed = self._clock.tick(frame_index, seconds)
        self._moments += 1
        seen, left_out = sightings(views, frame_index, self.rules.depth_confidence, self.mode, self.dtype)
        if left_out and not self._warned:
            logger.warning(
                "frame %d: %d detections hold values that are not finite and are left out (said once a video)",
                frame_index,
                left_out,
            )
            self._warned = True
        if self.rules.pure_detections:
            ids = torch.tensor(self.id_counter.take(len(seen)), dtype=torch.int64, device=seen.index.device)
            return Matched(seen, ids, seen.box7, torch.zeros_like(seen.box7[:, :3]), torch.ones_like(ids), None, None)
        return self._follow(seen.select(distinct(seen, self.rules, self.mode)), elapsed / self.rules.frame_seconds)

    def _follow(self, seen: Sightings, steps: float) -> Matched:
        """Match, then bring the memory up to date; ``steps``: of the motion model since the last frame."""
        tracks = self._recalled(seen)
        if not len(seen):
            seen = replace(seen, embeddings=tracks.embeddings[:0])
        affinity, entries = None, None
        if len(tracks) and (len(seen) or self.mode == "modern"):
            entries = concat([tracks, *(entries for entries in self.backdrops if len(entries))])
            entries, predicted = self._predicted(entries, steps)
            tracks = entries.first(len(tracks))
            affinity = Compared(seen, entries, predicted, self._age(entries), self.rules, self.mode).affinity()
        found = self._decide(seen, affinity, entries)
        return self._remember(seen, tracks, found)._replace(affinity=affinity, entries=entries)

    def _recalled(self, seen: Sightings) -> Entries:
        """Tracks that may still be matched, on the device of the detections."""
        nothing = seen.select(seen.index[:0])
        if self.tracks is None or not len(self.tracks):
            return begin(nothing, nothing.index, self.motion.create(nothing.box7), 0, 0.0)
        device = seen.index.device
        tracks = self.tracks
        if tracks.ids.device != device:
            tracks, self.backdrops = tracks.to(device), [entries.to(device) for entries in self.backdrops]
        if self.mode == "modern":
            tracks = tracks.select(self._clock.seconds - tracks.last_seconds < self.rules.lost_seconds + _SAME_TIME)
        return tracks

    def _predicted(self, entries: Entries, steps: float) -> tuple[Entries, Tensor]:
        """Entries after a step of their motion, and their boxes now, ``[M, 7]``."""
        known = entries.motion.age != 0
        if self.mode == "modern":
            motion, predicted = self.motion.predict(entries.motion, known, steps)
            return replace(entries, motion=motion), predicted[:, :7]
        motion, predicted = self.motion.predict(entries.motion, known)
        boxes = entries.box7.clone()
        boxes[:, :3] += predicted[:, 7:]
        return replace(entries, motion=motion), boxes

    def _age(self, entries: Entries) -> Tensor:
        if self.mode == "parity":
            return torch.ones_like(entries.box7[:, 0])
        return (self._clock.seconds - entries.last_seconds).to(entries.box7)

    def _decide(self, seen: Sightings, affinity: Tensor | None, entries: Entries | None) -> "_Decided":
        """On the host: which detection is which entry, and which begin tracks."""
        facts = torch.stack((seen.scores * seen.confidence, seen.scores)).cpu().numpy()
        ids = np.full(len(seen), BACKDROP, dtype=np.int64)
        entry = np.full(len(seen), -1, dtype=np.int64)
        if affinity is not None and entries is not None:
            ids, entry = assign(affinity.cpu().numpy(), facts[0], entries.ids.cpu().numpy(), self.rules)
        new = (ids == BACKDROP) & (facts[1] > self.rules.init_score)
        ids[new] = self.id_counter.take(int(new.sum()))

        def rows(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values).to(seen.index.device)

        matched = np.flatnonzero(entry >= 0)
        untracked = np.flatnonzero(ids == BACKDROP)
        return _Decided(rows(ids), rows(matched), rows(entry[matched]), rows(np.flatnonzero(new)), rows(untracked))

    def _remember(self, seen: Sightings, tracks: Entries, found: "_Decided") -> Matched:
        """Bring tracks and backdrops up to date."""
        frame, seconds = self._clock.frame, self._clock.seconds
        chosen = seen.select(found.detection)
        motion = self.motion.update(tracks.motion, found.entry, chosen.box7, chosen.confidence)
        refined = self.motion.current(motion)[found.entry].to(self.dtype)
        again = continued(
            replace(tracks, motion=motion).select(found.entry),
            chosen,
            refined[:, :7],
            frame,
            seconds,
            self.rules.embedding_momentum,
            self.mode,
        )
        tracks = tracks.put(found.entry, again)
        if self.mode == "parity":
            tracks = self._extrapolated(tracks, frame)
        tracks = concat([tracks, self._begun(seen, found.ids, found.new)])
        backdrops = new_backdrops(seen, found.untracked, self.rules)
        self.backdrops.insert(0, self._begun(seen, found.ids, backdrops))
        del self.backdrops[self.rules.backdrop_frames :]
        if self.mode == "parity":
            tracks = tracks.select(frame - tracks.last_frame < self.rules.lost_frames)
        self.tracks = tracks
        per = self.rules.frame_seconds if self.mode == "modern" else 1.0
        velocity = torch.zeros_like(seen.box7[:, :3]).index_copy(0, found.detection, refined[:, 7:] / per)
        box7 = seen.box7.index_copy(0, found.detection, refined[:, :7])
        sightings = (found.ids >= 0).to(found.ids).index_copy(0, found.detection, again.changes + 1)
        return Matched(seen, found.ids, box7, velocity, sightings, None, None)

    def _extrapolated(self, tracks: Entries, frame: int) -> Entries:
        """As published, lost tracks are predicted a second time, and their boxes moved."""
        lost = (tracks.last_frame < frame).nonzero().squeeze(1)
        if not len(lost):
            return tracks
        rows = tracks.select(lost)
        motion, predicted = self.motion.predict(rows.motion, torch.ones_like(lost, dtype=torch.bool))
        return tracks.put(lost, replace(rows, motion=motion, box7=predicted[:, :7].to(self.dtype)))

    def _begun(self, seen: Sightings, ids: Tensor, index: Tensor) -> Entries:
        chosen = seen.select(index)
        motion = self.motion.create(chosen.box7)
        return begin(chosen, ids[index], motion, self._clock.frame, self._clock.seconds)

    @torch.no_grad()
    def seen_from(self, matched: Matched, camera: Camera, number: int = 0) -> Tracks3D:
        """Tracks of :meth:`match` that view ``number`` shows, with ``camera``, that view's."""
        told = (matched.ids >= 0) & (matched.seen.view == number)
        if self.mode == "modern":
            told &= matched.sightings >= min(self.rules.confirm_sightings, self._moments)
        shown = told.nonzero().squeeze(1)
        box7, device = matched.box7[shown], matched.box7.device
        here = Camera(*(value.to(device=device, dtype=self.dtype) for value in camera))
        boxes = lower_boxes(box7, matched.seen.roll_pitch[shown], here, mode=self.mode)
        return Tracks3D(
            index=matched.seen.index[shown],
            ids=matched.ids[shown],
            box7=box7,
            velocity=matched.velocity[shown],
            sightings=matched.sightings[shown],
            **boxes._asdict(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: numbers, tensors, lists and dicts of them (``torch.save`` and
        ``torch.load(weights_only=True)`` take it)."""
        return {
            "mode": self.mode,
            "next_id": self.id_counter.next,
            "frame": self._clock.frame,
            "seconds": self._clock.seconds,
            "moments": self._moments,
            "tracks": None if self.tracks is None else self.tracks.as_dict(),
            "backdrops": [entries.as_dict() for entries in self.backdrops],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the tracker stood that ``state`` is of.

        Raises:
            UserError: it was of another mode or motion model.
        """
        try:
            empty = torch.zeros(0, dtype=torch.int64)
            boxes = torch.zeros(0, 7, dtype=self.dtype)
            nothing = Sightings(empty, empty, empty, empty, empty, empty, boxes, empty, empty, empty)
            blank = begin(nothing, empty, self.motion.create(boxes), 0, 0.0)
            tracks = None if state["tracks"] is None else blank.restored(state["tracks"])
            backdrops = [blank.restored(entries) for entries in state["backdrops"]]
            frame, seconds, next_id = state["frame"], state["seconds"], state["next_id"]
        except KeyError as error:
            raise UserError(
                f"the saved state of the tracker does not fit: {error.args[0]}; build the tracker with the motion "
                "model that it was saved with"
            ) from error
        if state.get("mode") != self.mode:
            raise UserError(
                f"the saved state is of a tracker in mode '{state.get('mode')}', this one is in mode '{self.mode}': "
                "build it in the same mode"
            )
        self.reset()
        self.tracks, self.backdrops, self.id_counter.next = tracks, backdrops, next_id
        self._clock.frame, self._clock.seconds, self._moments = frame, seconds, state.get("moments", frame + 1)


class _Decided(NamedTuple):
    """``ids`` of all detections; rows of matched detections and of their entries; of those that begin tracks; of those
    without."""

    ids: Tensor
    detection: Tensor
    entry: Tensor
    new: Tensor
    untracked: Tensor
