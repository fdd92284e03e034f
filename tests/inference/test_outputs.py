from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from centernet.errors import UserError
from centernet.inference.outputs import atomic_path, plan_outputs, save_image


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


class TestPlan:
    def test_one_input_and_a_file_name(self) -> None:
        assert plan_outputs(paths("a.jpg"), "new/found.png") == {Path("a.jpg"): Path("new/found.png")}

    @pytest.mark.parametrize("output", ["new", "new/", "new.jpg/"])
    def test_a_folder_keeps_the_names(self, output: str) -> None:
        folder = Path(output)
        assert plan_outputs(paths("x/a.jpg", "b.webp"), output) == {
            Path("x/a.jpg"): folder / "a.jpg",
            Path("b.webp"): folder / "b.webp",
        }

    def test_an_existing_folder_may_look_like_a_file(self, tmp_path: Path) -> None:
        folder = tmp_path / "results.jpg"
        folder.mkdir()
        assert list(plan_outputs(paths("a.jpg"), folder).values()) == [folder / "a.jpg"]

    def test_formats_that_cannot_be_written_and_equal_names(self) -> None:
        plan = plan_outputs(paths("a.png", "x/A.png", "a.gif", "x/v.webm", "v.mp4"), "out")
        assert [path.name for path in plan.values()] == ["a.png", "A_2.png", "a_3.png", "v.mp4", "v_2.mp4"]

    @pytest.mark.parametrize(
        ("inputs", "output", "sentence"),
        [
            (["a.jpg", "b.jpg"], "out.jpg", "names one file, but there are 2 inputs"),
            (["a.jpg"], "out.mp4", "is a picture, but --output"),
            (["a.mp4"], "out.jpg", "is a video, but --output"),
        ],
    )
    def test_contradictions_are_said(self, inputs: list[str], output: str, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            plan_outputs(paths(*inputs), output)

    def test_a_file_in_the_way_of_the_folder_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(UserError, match="is an existing file"):
            plan_outputs(paths("a.jpg"), tmp_path / "out")
        with pytest.raises(UserError, match="is a file, not a folder"):
            plan_outputs(paths("a.jpg"), tmp_path / "out" / "b.jpg")

    def test_no_input_is_overwritten_not_even_through_a_link(self, tmp_path: Path) -> None:
        original = tmp_path / "a.jpg"
        original.touch()
        (tmp_path / "link").symlink_to(tmp_path)
        (tmp_path / "b.jpg").hardlink_to(original)
        for output in (tmp_path, original, tmp_path / "link", tmp_path / "b.jpg"):
            with pytest.raises(UserError, match="would be overwritten, and it is one of the inputs"):
                plan_outputs([original], output)


class TestWriting:
    def test_a_picture_is_written_with_its_folder(self, tmp_path: Path) -> None:
        image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        save_image(image, tmp_path / "new" / "a.png")
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), image)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]

    @pytest.mark.parametrize(("name", "side"), [("a.jpg", 65501), ("a.webp", 16384)])
    def test_a_picture_that_is_too_long_for_its_format_is_said(self, tmp_path: Path, name: str, side: int) -> None:
        with pytest.raises(UserError, match=f"{side} pixels long"):
            save_image(np.zeros((side, 1, 3), np.uint8), tmp_path / name)
        assert list(tmp_path.iterdir()) == []
        save_image(np.zeros((side - 1, 1, 3), np.uint8), tmp_path / name)

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
    def test_an_interruption_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, interruption: type[BaseException]
    ) -> None:
        target = tmp_path / "a.txt"
        target.write_text("old")

        def write_half() -> None:
            with atomic_path(target) as temporary:
                temporary.write_text("half")
                raise interruption

        with pytest.raises(interruption):
            write_half()
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]

    def test_a_folder_that_cannot_be_made_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be written"), atomic_path(tmp_path / "file" / "a.txt"):
            pass
