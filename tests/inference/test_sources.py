import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from centernet.errors import UserError
from centernet.inference.sources import (
    SourceError,
    check_single_input,
    find_inputs,
    load_image,
    open_video,
    open_webcam,
)


def save(path: Path, image: np.ndarray | None = None, mode: str | None = None) -> Path:
    image = np.full((4, 6, 3), 90, dtype=np.uint8) if image is None else image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).convert(mode or "RGB").save(path)
    return path


class TestFindInputs:
    def test_a_folder_gives_its_pictures_sorted_without_subfolders_and_hidden_files(self, tmp_path: Path) -> None:
        wanted = [save(tmp_path / "a.PNG"), save(tmp_path / "b.jpg")]
        save(tmp_path / "sub" / "c.jpg")
        save(tmp_path / "._b.jpg")
        (tmp_path / "notes.txt").write_text("no picture")
        assert find_inputs([str(tmp_path)]).images == tuple(wanted)

    def test_a_glob_is_sorted_and_a_file_named_like_a_glob_is_a_file(self, tmp_path: Path) -> None:
        one, two = save(tmp_path / "1.png"), save(tmp_path / "2.png")
        odd = save(tmp_path / "a[1].png")
        assert find_inputs([str(tmp_path / "?.png")]).images == (one, two)
        assert find_inputs([str(odd)]).images == (odd,)

    def test_repeats_count_once_and_videos_are_told_from_pictures(self, tmp_path: Path) -> None:
        one, film = save(tmp_path / "1.png"), tmp_path / "film.MP4"
        film.touch()
        found = find_inputs([str(one), str(film), str(tmp_path)])
        assert (found.images, found.videos) == ((one,), (film,))

    @pytest.mark.parametrize(
        ("names", "sentence"),
        [
            (["nowhere.jpg"], "input nowhere.jpg does not exist"),
            (["nowhere*.jpg"], r"no file matches nowhere\*.jpg"),
            ([], "no input is named"),
        ],
    )
    def test_what_is_not_there_is_said(self, names: list[str], sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            find_inputs(names)

    def test_an_empty_folder_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds no picture"):
            find_inputs([str(tmp_path)])


class TestLoadImage:
    def test_colours_come_as_bgr(self, tmp_path: Path) -> None:
        red = save(tmp_path / "red.png", np.full((2, 2, 3), (255, 10, 0), dtype=np.uint8))
        np.testing.assert_array_equal(load_image(red)[0, 0], (0, 10, 255))

    @pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "CMYK"])
    def test_every_colour_mode_becomes_three_channels(self, tmp_path: Path, mode: str) -> None:
        name = "picture.jpg" if mode == "CMYK" else "picture.png"
        image = load_image(save(tmp_path / name, mode=mode))
        assert (image.shape, image.dtype) == ((4, 6, 3), np.uint8)

    def test_sixteen_bits_are_said_instead_of_shown_white(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((4, 6), 3000, dtype=np.uint16)).save(tmp_path / "deep.png")
        with pytest.raises(SourceError, match="more than 8 bits"):
            load_image(tmp_path / "deep.png")

    def test_the_camera_s_orientation_is_honoured(self, tmp_path: Path) -> None:
        image = np.zeros((4, 6, 3), dtype=np.uint8)
        image[:, :3] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise
        Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
        turned = load_image(tmp_path / "turned.png")
        assert turned.shape == (6, 4, 3)
        assert turned[:3].min() == 255
        assert turned[3:].max() == 0

    @pytest.mark.parametrize("kind", ["text", "empty", "truncated jpg", "truncated png", "missing", "folder"])
    def test_a_broken_picture_is_named(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / ("broken.png" if "png" in kind else "broken.jpg")
        if kind == "folder":
            path.mkdir()
        elif kind.startswith("truncated"):
            save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
            os.truncate(path, path.stat().st_size // 2)
        elif kind != "missing":
            path.write_text("hello" if kind == "text" else "")
        with pytest.raises(SourceError, match=f"picture {path} cannot be read: ") as caught:
            load_image(path)
        assert "object at" not in str(caught.value)

    def test_a_lone_broken_input_is_said_early_and_one_among_several_is_not(self, tmp_path: Path) -> None:
        (tmp_path / "broken.jpg").write_text("hello")
        with pytest.raises(SourceError, match=r"broken\.jpg"):
            check_single_input(find_inputs([str(tmp_path)]))
        save(tmp_path / "good.jpg")
        check_single_input(find_inputs([str(tmp_path)]))


class TestVideos:
    def test_frames_rate_and_count(self, write_clip: Callable[..., Path]) -> None:
        with open_video(write_clip(frames=6, fps=12)) as source:
            assert (source.fps, source.frame_count, source.live) == (12.0, 6, False)
            frames = list(source)
        assert len(frames) == 6
        assert frames[0].shape == (90, 120, 3)
        assert frames[0].dtype == np.uint8

    def test_a_video_that_does_not_exist_or_is_none_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"video .*none\.mp4 does not exist"):
            open_video(tmp_path / "none.mp4")
        (tmp_path / "text.avi").write_text("hello")
        with pytest.raises(SourceError, match=r"video .*text\.avi cannot be opened"):
            open_video(tmp_path / "text.avi")
        with pytest.raises(SourceError, match="cannot be opened"):
            check_single_input(find_inputs([str(tmp_path / "text.avi")]))

    def test_a_video_without_frames_is_said(self, write_clip: Callable[..., Path]) -> None:
        with open_video(write_clip()) as source:
            assert len(list(source)) == 6
            with pytest.raises(SourceError, match="no frame of it can be read"):
                next(iter(source))

    def test_a_webcam_that_is_not_there_is_said(self) -> None:
        with pytest.raises(SourceError, match="webcam 97 cannot be opened"):
            open_webcam(97)
