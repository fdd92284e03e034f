"""Pictures of every kind become the same array, or one sentence."""

import contextlib
import io
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from centernet.errors import UserError
from centernet.inference.images import SourceError, check_channels, is_source, load_image, read_picture

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from file_server import serving

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """uint8 [H, W, 3]: no channel, row or column like another."""
    return np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def test_every_kind_gives_the_same_pixels(rgb: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(rgb)
    content, path = encoded(image), tmp_path / "a b.png"
    path.write_bytes(content)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    with serving() as server, path.open("rb") as file:
        server.files["a b.png"] = content
        kinds = [
            (str(path), None),
            (path, None),
            (f"{server.url}/a%20b.png", None),
            (content, None),
            (bytearray(content), None),
            (file, None),
            (io.BytesIO(content), None),
            (image, None),
            (image, "BGR"),  # only arrays and tensors have no order of their own
            (rgb, "RGB"),
            (rgb[:, :, ::-1], "BGR"),
            (rgb[:, :, ::-1], None),
            (tensor, "RGB"),
            (tensor.flip(0), "BGR"),
        ]
        for source, channels in kinds:
            assert is_source(source)
            picture = read_picture(source, channels)
            np.testing.assert_array_equal(picture.pixels, rgb[:, :, ::-1], err_msg=str(type(source)))
            again = read_picture(picture.origin, picture.channels)
            np.testing.assert_array_equal(again.pixels, picture.pixels)
            if isinstance(source, str | Path):
                assert picture.source == str(source)
        assert len(server.requests) == 1  # reading again asks nobody
    np.testing.assert_array_equal(load_image(path), rgb[:, :, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
def test_files_are_read_as_the_training_reads_them(
    mode: str, orientation: int, rgb: np.ndarray, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(rgb).convert(mode).save(path, exif=exif)
    wanted = read_image(str(path), format="BGR")
    assert wanted.shape == ((7, 11, 3) if orientation < 5 else (11, 7, 3))
    with Image.open(path) as opened:
        for source in (path, path.read_bytes(), opened):
            np.testing.assert_array_equal(read_picture(source).pixels, wanted)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_of_colours_with_16_bits_the_upper_eight(rgb: np.ndarray, tmp_path: Path, ending: str) -> None:
    import cv2

    deep = rgb[:, :, ::-1].astype(np.uint16) * 256 + 200
    cv2.imwrite(str(tmp_path / f"deep{ending}"), deep)
    np.testing.assert_array_equal(load_image(tmp_path / f"deep{ending}"), rgb[:, :, ::-1])
    np.testing.assert_array_equal(load_image(tmp_path / f"deep{ending}"), read_image(tmp_path / f"deep{ending}", "BGR"))


def test_an_animation_gives_its_first_picture_and_says_so(
    rgb: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    first.save(tmp_path / "still.gif")
    with caplog.at_level(logging.WARNING):
        moving = read_picture(tmp_path / "a.gif").pixels
        assert "a.gif is an animation or has several pages: its first picture is used" in caplog.text
        caplog.clear()
        np.testing.assert_array_equal(moving, read_picture(tmp_path / "still.gif").pixels)
        assert not caplog.text


class TestWhatIsNoPicture:
    @pytest.mark.parametrize(
        ("source", "channels", "sentence"),
        [
            (None, None, "is a NoneType, but must be a path, an address"),
            (7, None, "is a int, but"),
            ({"image": 1}, None, "is a dict, but"),
            (io.StringIO("text"), None, "is a str, but must be"),
            (b"", None, "empty or of no known picture format"),
            (b"hello", None, "empty or of no known picture format"),
            ("no/such.jpg", None, "picture no/such.jpg cannot be read: No such file"),
            ("", None, "cannot be read"),
            ("a\0b.jpg", None, "cannot be read: embedded null byte"),
            ("ftp://there/a.jpg", None, r"at an address that is not http\(s\)"),
            ("http://127.0.0.1:9/a.jpg", None, "cannot be fetched: Connection refused"),
            (np.zeros((4, 4), np.uint8), None, r"shape \(4, 4\)"),
            (np.zeros((4, 4, 4), np.uint8), None, r"shape \(4, 4, 4\)"),
            (np.zeros((2, 4, 4, 3), np.uint8), None, "several pictures as a list"),
            (np.zeros((4, 4, 3), np.float32), None, "dtype float32"),
            (np.zeros((4, 4, 3), bool), None, "dtype bool"),
            (np.zeros((0, 4, 3), np.uint8), None, "no pixel"),
            (np.zeros((4, 4, 3), object), None, "dtype object"),
            (torch.zeros(3, 4, 4), "RGB", r"\(x \* 255\)"),
            (torch.zeros(3, 4, 4, dtype=torch.uint8), None, "say channels='RGB'"),
            (torch.zeros(4, 4, 3, dtype=torch.uint8), "RGB", r"\(4, 4, 3\), but must be \[3, height, width\]"),
            (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "RGB", "several pictures as a list"),
            (torch.zeros(3, 0, 4, dtype=torch.uint8), "RGB", "no pixel"),
            (Image.new("I;16", (4, 4)), None, "more than 8 bits"),
            (Image.new("F", (4, 4)), None, "more than 8 bits"),
            (Image.new("RGB", (0, 4)), None, "no pixel"),
        ],
    )
    def test_is_said_in_one_sentence(self, source: object, channels: str | None, sentence: str) -> None:
        with pytest.raises(SourceError, match=sentence) as caught:
            read_picture(source, channels)
        assert "\n" not in str(caught.value)
        assert "object at" not in str(caught.value)

    def test_its_place_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_text("hello")
        with pytest.raises(SourceError, match=r"^picture 3 \(.*a\.jpg\) cannot be read: ") as caught:
            read_picture(str(tmp_path / "a.jpg"), name="picture 3")
        assert caught.value.source == str(tmp_path / "a.jpg")

    def test_cut_off_files(self, rgb: np.ndarray, tmp_path: Path) -> None:
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
            content = encoded(Image.fromarray(rgb.repeat(9, 0)), kind)
            with pytest.raises(SourceError):
                read_picture(content[: len(content) // 2])

    def test_a_closed_image_and_a_closed_file(self, rgb: np.ndarray, tmp_path: Path) -> None:
        Image.fromarray(rgb).save(tmp_path / "a.png")
        image = Image.open(tmp_path / "a.png")
        image.close()
        with pytest.raises(SourceError, match="closed"):
            read_picture(image)
        file = (tmp_path / "a.png").open("rb")
        file.close()
        with pytest.raises(SourceError, match="closed"):
            read_picture(file)

    def test_a_bomb(self, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
        with pytest.raises(SourceError, match="more than 60 pixels: make it smaller"):
            read_picture(encoded(Image.fromarray(rgb)))

    def test_too_much_from_the_network(self, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        from centernet.inference import images

        monkeypatch.setattr(images, "_MOST_BYTES", 100)
        with serving() as server:
            server.files["a.png"] = encoded(Image.fromarray(rgb))
            assert len(server.files["a.png"]) > 100
            for server.tells_length in (True, False):
                with pytest.raises(SourceError, match="cannot be fetched: gives more than 0 MB"):
                    read_picture(f"{server.url}/a.png")
            with pytest.raises(SourceError, match="404"):
                read_picture(f"{server.url}/none.png")

    def test_channels(self) -> None:
        for fine in ("RGB", "BGR", None):
            check_channels(fine)
        with pytest.raises(UserError, match="channels is 'rgb', but must be 'BGR'"):
            check_channels("rgb")


ARRAYS = st.one_of(
    hnp.arrays(st.one_of(hnp.scalar_dtypes(), st.just(np.dtype(object))), hnp.array_shapes(min_dims=0, max_side=4)),
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=4)),
)


@settings(max_examples=40, deadline=None)
@given(array=ARRAYS, channels=st.sampled_from(["BGR", "RGB", None]))
def test_any_array_is_a_picture_or_a_sentence(array: np.ndarray, channels: str | None) -> None:
    fits = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size > 0
    try:
        pixels = read_picture(array, channels).pixels
    except SourceError:
        assert not fits
    else:
        assert fits
        np.testing.assert_array_equal(pixels, array[:, :, ::-1] if channels == "RGB" else array)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]))
def test_damaged_files_are_a_picture_or_a_sentence(data: st.DataObject, kind: str) -> None:
    image = Image.fromarray(np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3))
    content = bytearray(encoded(image, kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SourceError):
        pixels = read_picture(bytes(content)).pixels
        assert (pixels.dtype, pixels.ndim) == (np.uint8, 3)
