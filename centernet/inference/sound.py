"""The sound of a video into the copy with drawings, without encoding it anew."""

import logging
import os
from pathlib import Path
from typing import Any

__all__ = ["add_sound"]

logger = logging.getLogger(__name__)

# whose sound may begin before the pictures, as encoded sound does; others would shift both
_WITH_EDIT_LISTS = (".mp4", ".m4v", ".mov")


def add_sound(video: Path, source: Path) -> bool:
    """Put the first sound track of ``source`` into ``video``, in place, up to the end of the pictures.

    Whatever hinders it (the package ``av`` is not installed, there is no sound, the container does not take its
    format) is one log line, and ``video`` stays as it is.

    Returns:
        whether ``video`` has sound now.
    """
    try:
        import av
    except ImportError:
        logger.info("%s: without sound, because the package av is not installed: pip install -e '.[video]'", source)
        return False
    mixed = video.with_name(f"{video.stem}.sound{video.suffix}")
    try:
        with av.open(str(video)) as pictures, av.open(str(source)) as sounds:
            if not sounds.streams.audio:
                logger.info("%s has no sound", source)
                return False
            with av.open(str(mixed), "w") as result:
                _mix(pictures, sounds, result, from_start=video.suffix.lower() not in _WITH_EDIT_LISTS)
        os.replace(mixed, video)
        return True
    # PyAV's errors are these; a codec that the container does not take is a ValueError
    except (av.FFmpegError, OSError, ValueError) as error:
        logger.info("%s: its sound cannot be kept in a %s file (%s)", source, video.suffix, error)
        return False
    finally:
        mixed.unlink(missing_ok=True)


def _mix(pictures: Any, sounds: Any, result: Any, from_start: bool) -> None:
    video, audio = pictures.streams.video[0], sounds.streams.audio[0]
    to_video, to_audio = (result.add_stream_from_template(stream) for stream in (video, audio))
    end = 0.0  # seconds
    waiting = (one for one in sounds.demux(audio) if one.dts is not None and (one.dts >= 0 or not from_start))
    sound = next(waiting, None)
    for packet in pictures.demux(video):
        if packet.dts is None:  # the flush at the end
            continue
        start = float(packet.dts * packet.time_base)
        end = max(end, start + float((packet.duration or 0) * packet.time_base))
        packet.stream = to_video
        result.mux(packet)
        # in the order of time, so that players need not look far
        sound = _copy_until(sound, waiting, start, to_audio, result)
    _copy_until(sound, waiting, end, to_audio, result)


def _copy_until(packet: Any, rest: Any, seconds: float, stream: Any, result: Any) -> Any:
    """Copy packets that begin before ``seconds``; returns the first that does not."""
    while packet is not None and float(packet.dts * packet.time_base) < seconds:
        packet.stream = stream
        result.mux(packet)
        packet = next(rest, None)
    return packet
