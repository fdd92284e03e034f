"""The pixels of a data set: which images cannot be decoded, which are the same, which nearly.

Two images are nearly the same if their difference hashes (the sign of 8x8 horizontal differences of the grey image) are
at most ``HASH_BITS`` bits apart and their 16x16 grey thumbnails at most ``THUMBNAIL_LEVELS`` of 255 apart on average.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Fingerprint", "fingerprints", "near_pairs", "same_groups"]

HASH_BITS = 6
THUMBNAIL_LEVELS = 6.0
_SIDE = 16
_CHUNK = 512  # rows of the distance matrix at a time
_BITS = np.array([bin(value).count("1") for value in range(256)], np.uint8)


class Fingerprint(NamedTuple):
    """``content``: SHA-256 of the file; ``difference``: uint8 [8], 64 bits; ``thumbnail``: uint8 [16, 16]."""

    content: bytes
    difference: np.ndarray
    thumbnail: np.ndarray


def fingerprints(
    files: Sequence[str], *, threads: int = 8, progress: Callable[[int, int], None] | None = None
) -> list[Fingerprint | str]:
    """Decode every file; a file that cannot be decoded gives Pillow's words instead of a fingerprint.

    Args:
        progress: called with (files done, files in all).
    """
    found: list[Fingerprint | str] = []
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(_fingerprint, files):
            found.append(result)
            if progress is not None:
                progress(len(found), len(files))
    return found


def _fingerprint(file: str) -> Fingerprint | str:
    from PIL import Image

    try:
        with open(file, "rb") as stream:
            content = hashlib.sha256(stream.read()).digest()
        with Image.open(file) as image:
            image.draft("L", (8 * _SIDE, 8 * _SIDE))  # a JPEG is decoded whole, but not in full size
            grey = image.convert("L")
    except Exception as error:  # Pillow's plugins raise whatever their format suggests
        return str(error) or type(error).__name__
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)
    thumbnail = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX))
    return Fingerprint(content, np.packbits(small[:, 1:] > small[:, :-1]), thumbnail)


def same_groups(prints: Sequence[Fingerprint | str]) -> list[list[int]]:
    """Groups of two or more indices whose files have the same content, in order of the first."""
    groups: dict[bytes, list[int]] = {}
    for index, entry in enumerate(prints):
        if isinstance(entry, Fingerprint):
            groups.setdefault(entry.content, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def near_pairs(prints: Sequence[Fingerprint | str]) -> list[tuple[int, int]]:
    """Pairs ``i < j`` of images that are nearly the same, but not the same file. Quadratic in time: 20,000 images take
    some seconds."""
    indices = [index for index, entry in enumerate(prints) if isinstance(entry, Fingerprint)]
    if not indices:
        return []
    chosen: list[Any] = [prints[index] for index in indices]
    bits = np.stack([entry.difference for entry in chosen])
    thumbnails = np.stack([entry.thumbnail for entry in chosen]).reshape(len(chosen), -1).astype(np.int16)
    pairs = []
    for start in range(0, len(chosen), _CHUNK):
        rows = bits[start : start + _CHUNK]
        distance = np.zeros((len(rows), len(bits)), np.uint8)
        for byte in range(bits.shape[1]):
            distance += _BITS[rows[:, byte, None] ^ bits[None, :, byte]]
        for row, column in np.argwhere(distance <= HASH_BITS).tolist():
            first = start + row
            if first >= column or chosen[first].content == chosen[column].content:
                continue
            if np.abs(thumbnails[first] - thumbnails[column]).mean() <= THUMBNAIL_LEVELS:
                pairs.append((indices[first], indices[column]))
    return pairs
