import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from centernet.inference.sound import add_sound
from centernet.inference.sources import open_video
from centernet.inference.video import write_video

av = pytest.importorskip("av", reason="needs the extra [video]")


@pytest.fixture
def with_sound(write_clip: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a clip of 12 frames a second with a tone: ``with_sound(name, codec, seconds=..., frames=...)``."""

    def write(name: str = "tone.mp4", codec: str = "aac", seconds: float = 1.0, frames: int = 12) -> Path:
        path = tmp_path / name
        silent = write_clip("silent.mp4", frames=frames)
        with av.open(str(silent)) as source, av.open(str(path), "w") as result:
            pictures = source.streams.video[0]
            video = result.add_stream_from_template(pictures)
            audio = result.add_stream(codec, rate=44100, layout="mono")
            for packet in source.demux(pictures):
                if packet.dts is not None:
                    packet.stream = video
                    result.mux(packet)
            tone = np.sin(2 * np.pi * 440 / 44100 * np.arange(round(44100 * seconds)))
            for start in range(0, len(tone), 1024):
                samples = (3000 * tone[None, start : start + 1024]).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                frame.sample_rate, frame.pts = 44100, start
                result.mux(audio.encode(frame))
            result.mux(audio.encode(None))
        return path

    return write


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(file.streams.audio[0]) if packet.dts is not None]


def frames(count: int) -> list[np.ndarray]:
    return [np.full((90, 120, 3), 15 * number, dtype=np.uint8) for number in range(count)]


def test_the_sound_is_copied_bit_by_bit_and_the_pictures_stay(
    with_sound: Callable[..., Path], tmp_path: Path
) -> None:
    source, result = with_sound(), tmp_path / "out" / "drawn.mp4"
    assert write_video(frames(12), result, fps=12, sound_of=source) == 12
    assert [file.name for file in result.parent.iterdir()] == ["drawn.mp4"]
    copied = packets(result)
    assert len(copied) > 40
    assert copied == packets(source)[: len(copied)]
    with open_video(result) as video:
        assert (video.fps, video.frame_count) == (12.0, 12)
        means = [frame.mean() for frame in video]
    np.testing.assert_allclose(means, [15 * number for number in range(12)], atol=4)
    with av.open(str(result)) as file:
        starts = [float(stream.start_time * stream.time_base) for stream in file.streams]
        lengths = [float(stream.duration * stream.time_base) for stream in file.streams]
    assert starts == pytest.approx([0, 0], abs=0.03)
    assert lengths == pytest.approx([1, 1], abs=0.05)


def test_the_sound_ends_with_the_pictures(with_sound: Callable[..., Path], tmp_path: Path) -> None:
    source, result = with_sound(seconds=3.0, frames=36), tmp_path / "drawn.mp4"
    write_video(frames(12), result, fps=12, sound_of=source)  # a user who pressed Esc, or a damaged file
    with av.open(str(result)) as file:
        audio = file.streams.audio[0]
        assert float(audio.duration * audio.time_base) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("codec", "name", "copied"),
    [("aac", "a.mkv", True), ("mp3", "a.avi", True), ("pcm_s16le", "a.m4v", False), ("pcm_s16le", "a.mov", True)],
)
def test_other_containers(
    with_sound: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    codec: str,
    name: str,
    copied: bool,
) -> None:
    caplog.set_level(logging.INFO)
    result = tmp_path / "out" / name
    write_video(frames(12), result, fps=12, sound_of=with_sound("tone.mkv", codec))
    with av.open(str(result)) as file:
        assert len(file.streams.audio) == copied
        pictures = [packet.pts for packet in file.demux(video=0) if packet.dts is not None]
    assert len(pictures) == 12
    assert pictures[0] == 0
    assert len(set(np.diff(pictures))) <= 2  # no gap; Matroska counts milliseconds
    assert [path.name for path in result.parent.iterdir()] == [name]
    assert len(caplog.records) == (not copied)
    assert copied or "its sound cannot be kept" in caplog.text


def test_a_silent_source_is_one_line(
    write_clip: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    result = tmp_path / "drawn.mp4"
    write_video(frames(3), result, fps=12, sound_of=write_clip())
    assert [record.message for record in caplog.records] == [f"{tmp_path / 'clip.mp4'} has no sound"]
    with open_video(result) as video:
        assert len(list(video)) == 3


def test_without_the_package_it_is_one_line(
    write_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, "av", None)
    clip = write_clip()
    before = clip.read_bytes()
    assert not add_sound(clip, clip)
    assert clip.read_bytes() == before
    assert len(caplog.records) == 1
    assert "pip install -e '.[video]'" in caplog.text
