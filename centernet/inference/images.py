"""Whatever kind of picture to one kind of array: files, addresses, encoded bytes, Pillow images, arrays and tensors."""

import contextlib
import logging
import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from PIL import Image, UnidentifiedImageError

from ..errors import UserError

__all__ = ["Channels", "Picture", "Source", "SourceError", "check_channels", "is_source", "load_image", "read_picture"]

logger = logging.getLogger(__name__)

Channels: TypeAlias = Literal["BGR", "RGB"]
Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | torch.Tensor

_MOST_BYTES = 200 * 2**20  # of a picture from the network
# what Pillow raises for broken files (SyntaxError: PNG; struct.error: TIFF)
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, TypeError, ArithmeticError, LookupError, struct.error)
_converting = threading.Lock()  # Pillow decodes an image when it is first used, and threads may share one


class SourceError(UserError):
    """One picture, video or webcam cannot be read. Others may be: a caller with several goes on.

    Attributes:
        position: of a picture in its list or iterator, from 0; None of one alone.
        source: its path or address; None of what has none.
    """

    position: int | None = None
    source: str | None = None


class Picture(NamedTuple):
    """A picture that was read.

    Attributes:
        pixels: uint8 [H, W, 3], **BGR**, upright.
        source: its path or address; None of what has none.
        origin: what :func:`read_picture` takes to read it again without the network.
        channels: of ``origin`` where that is an array or a tensor.
    """

    pixels: np.ndarray
    source: str | None
    origin: Source
    channels: Channels | None


def check_channels(channels: str | None) -> None:
    """Raise :class:`UserError` if ``channels`` is neither an order of channels nor None."""
    if channels is not None and channels not in get_args(Channels):
        raise UserError(f"channels is {channels!r}, but must be 'BGR' (as OpenCV reads pictures) or 'RGB'")


def is_source(source: object) -> bool:
    """Whether ``source`` is of a kind that :func:`read_picture` takes, hence one picture and not several."""
    kinds = (str, os.PathLike, bytes, bytearray, Image.Image, np.ndarray, torch.Tensor)
    return isinstance(source, kinds) or hasattr(source, "read")


def load_image(path: str | Path) -> np.ndarray:
    """Read a picture as the training does: upright by its EXIF data, grey and transparent ones in colour.

    Args:
        path: any format that Pillow reads; of an animation, the first picture.

    Returns:
        uint8 [H, W, 3], BGR.

    Raises:
        SourceError: the file is not there, is no complete picture, or is grey with more than 8 bits (of 16-bit colour
            the upper 8 are taken).
    """
    return _decode(Path(path), f"picture {path}")


def read_picture(source: Source, channels: Channels | None = None, *, name: str = "the picture") -> Picture:
    """Read a picture of any kind.

    - A path, an http(s) address (fetched at each call and not kept; at most 200 MB), encoded bytes, an open binary
      file, a Pillow image: upright by its EXIF data as in training; grey, transparent (alpha is dropped), palette and
      CMYK pictures in colour; of an animation the first picture, which is logged.
    - An array, uint8 [H, W, 3].
    - A tensor, uint8 [3, H, W] on any device.

    Args:
        source: the picture.
        channels: order of the channels of an array (None: BGR, as in detectron2) or tensor (must be given).
        name: of the picture in messages; its path or address is added.

    Raises:
        SourceError: it is not such a picture, or cannot be read or fetched; ``source`` says where it was.
    """
    try:
        if isinstance(source, np.ndarray):
            return Picture(_from_array(source, channels, name), None, source, channels)
        if isinstance(source, torch.Tensor):
            return Picture(_from_tensor(source, channels, name), None, source, channels)
        if isinstance(source, Image.Image):
            with _converting:
                return Picture(_convert(source, name), getattr(source, "filename", None) or None, source, None)
        if isinstance(source, str) and "://" in source:
            content = _fetch(source, named := _named(name, source))
            return Picture(_decode(BytesIO(content), named), source, content, None)
        if isinstance(source, str | os.PathLike):
            path = os.fspath(source)
            return Picture(_decode(Path(path).expanduser(), _named(name, path)), path, path, None)
        content = _content(source, name)
        return Picture(_decode(BytesIO(content), name), None, content, None)
    except SourceError as error:
        error.source = None if not isinstance(source, str | os.PathLike) else os.fspath(source)
        raise


def _named(name: str, place: str) -> str:
    """``picture PLACE``, or ``picture 3 (PLACE)`` of one in a list."""
    return f"picture {place}" if name == "the picture" else f"{name} ({place})"


# ------------------------------------------------------------------------------------------------------ encoded


def _fetch(address: str, name: str) -> bytes:
    from ..download import DownloadError, download  # at the first use: it brings in HTTP and TLS

    if not address.lower().startswith(("http://", "https://")):
        raise SourceError(f"{name} is at an address that is not http(s): give its path")
    # the picture at an address may change (a webcam's): no cache
    with tempfile.TemporaryDirectory(prefix="centernet-") as folder:
        file = Path(folder) / "picture"
        try:
            download(address, file, retries=2, most_bytes=_MOST_BYTES)
        except DownloadError as error:
            raise SourceError(f"{name} cannot be fetched: {str(error).removeprefix(address).lstrip(': ')}") from error
        return file.read_bytes()


def _content(source: Any, name: str) -> bytes:
    if hasattr(source, "read"):
        try:
            source = source.read()
        except (OSError, ValueError) as error:
            raise SourceError(f"{name} cannot be read: {error}") from error
    if not isinstance(source, bytes | bytearray):
        raise SourceError(
            f"{name} is a {type(source).__name__}, but must be a path, an address, the bytes of a file, a Pillow "
            "image, a numpy array [height, width, 3] or a tensor [3, height, width]"
        )
    return bytes(source)


def _decode(file: Path | BytesIO, name: str) -> np.ndarray:
    with _readable(name), Image.open(file) as image:
        pixels = _convert(image, name)
        with contextlib.suppress(*_BROKEN):
            if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photo and its preview
                logger.warning("%s is an animation or has several pages: its first picture is used", name)
        return pixels


def _convert(image: Image.Image, name: str) -> np.ndarray:
    with _readable(name):
        if image.mode.startswith(("I", "F")):  # Pillow would make everything above 255 white
            raise SourceError(f"{name} has more than 8 bits a channel: convert it to 8 bits first")
        if 0 in image.size:
            raise SourceError(f"{name} has no pixel (width and height are {image.size})")
        # what detectron2's read_image does to a file
        return np.ascontiguousarray(convert_PIL_to_numpy(_apply_exif_orientation(image), "BGR"))


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """What Pillow raises inside becomes one sentence."""
    try:
        yield
    except Image.DecompressionBombError as error:
        limit = f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,}"
        raise SourceError(
            f"{name} has more than {limit} pixels: make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except _BROKEN as error:
        reason = str(error).strip() or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose words are about a Python object
            reason = "it is empty or of no known picture format"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise SourceError(f"{name} cannot be read: {reason}") from error


# ------------------------------------------------------------------------------------------------------ decoded


def _from_array(array: np.ndarray, channels: Channels | None, name: str) -> np.ndarray:
    if array.ndim == 4:
        raise SourceError(f"{name} has shape {array.shape}: give several pictures as a list of [height, width, 3]")
    if array.ndim != 3 or array.shape[2] != 3:
        raise SourceError(
            f"{name} has shape {array.shape}, but must be [height, width, 3]: convert grey or RGBA to BGR"
        )
    if array.dtype != np.uint8:
        raise SourceError(f"{name} has dtype {array.dtype}, but must be uint8 with values 0 to 255")
    if 0 in array.shape:
        raise SourceError(f"{name} has no pixel (shape {array.shape})")
    return np.ascontiguousarray(array[:, :, ::-1]) if channels == "RGB" else array


def _from_tensor(tensor: torch.Tensor, channels: Channels | None, name: str) -> np.ndarray:
    if tensor.ndim == 4:
        raise SourceError(
            f"{name} has shape {tuple(tensor.shape)}: give several pictures as a list of [3, height, width]"
        )
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise SourceError(f"{name} is a tensor of shape {tuple(tensor.shape)}, but must be [3, height, width]")
    if tensor.dtype != torch.uint8:
        raise SourceError(
            f"{name} is a tensor of {tensor.dtype}, whose range nobody knows: make it uint8, 0 to 255; from 0 to 1 by "
            "(x * 255).round().to(torch.uint8)"
        )
    if channels is None:
        raise SourceError(f"{name} is a tensor: say channels='RGB' (as torchvision reads pictures) or channels='BGR'")
    return _from_array(np.ascontiguousarray(tensor.detach().cpu().permute(1, 2, 0).numpy()), channels, name)
