"""Tracks to train motion networks on, and windows of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.mode import Mode
from .losses import Windows

__all__ = ["Track", "all_windows", "long_enough", "random_windows"]


class Track(NamedTuple):
    """One object in one camera's video, at the L moments at which it was annotated.

    Attributes:
        truth, observed: float64 ``[L, 7]``, ``box7`` in the world; ``observed`` is the truth where it was not seen.
        confidence: float64 ``[L]`` in [0, 1], of the detections' depth.
        seen: bool ``[L]``.
        seconds: float64 ``[L]``, rising.
        camera: float64 ``[L, 3]``, where the camera was.
    """

    truth: Tensor
    observed: Tensor
    confidence: Tensor
    seen: Tensor
    seconds: Tensor
    camera: Tensor


def long_enough(tracks: Sequence[Track], least: int = 10) -> list[Track]:
    """Tracks of more than ``least`` moments."""
    return [track for track in tracks if len(track.seconds) > least]


def random_windows(
    tracks: Sequence[Track], length: int, step_seconds: float, mode: Mode, generator: torch.Generator
) -> Windows:
    """One window of each track, see :func:`all_windows`; in modern mode it begins where the track was seen."""
    starts = []
    for track in tracks:
        choices = torch.arange(max(len(track.seconds) - length, 1))
        if mode == "modern" and track.seen[choices].any():
            choices = choices[track.seen[choices]]
        starts.append(int(choices[torch.randint(len(choices), (1,), generator=generator)]))
    return all_windows(tracks, length, step_seconds, starts)


def all_windows(
    tracks: Sequence[Track], length: int, step_seconds: float, starts: Sequence[int] | None = None
) -> Windows:
    """Windows of ``length`` moments, one of each track, with the origin at the camera of their first moment.

    Args:
        tracks: one or more.
        length: moments; shorter tracks are padded.
        step_seconds: length of a step of the model.
        starts: first moments; 0 by default.

    Returns:
        float32.
    """
    starts = starts or [0] * len(tracks)
    parts = [_window(track, start, length) for track, start in zip(tracks, starts, strict=True)]
    truth, observed, confidence, seen, seconds, camera = (torch.stack(column) for column in zip(*parts, strict=True))
    left = torch.tensor([len(track.seconds) - start for track, start in zip(tracks, starts, strict=True)])
    valid = torch.arange(length) < left[:, None]
    origin = torch.cat((camera[:, :1], torch.zeros_like(truth[:, :1, 3:])), 2)
    steps = torch.cat((torch.zeros_like(seconds[:, :1]), seconds.diff(dim=1)), 1) / step_seconds
    return Windows(
        truth=((truth - origin) * valid[..., None]).float(),
        observed=((observed - origin) * valid[..., None]).float(),
        confidence=(confidence * valid).float(),
        valid=valid.float(),
        seen=seen & valid,
        steps=torch.where(valid, steps, torch.ones_like(steps)).float(),
    )


def _window(track: Track, start: int, length: int) -> list[Tensor]:
    missing = max(0, start + length - len(track.seconds))
    parts = []
    for column in track:
        part = column[start : start + length]
        parts.append(torch.cat((part, part.new_zeros(missing, *part.shape[1:]))))
    return parts
