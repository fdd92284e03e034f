"""TFRecord files read, and the wire format of protocol buffers both ways, without TensorFlow or generated code.

Source: https://protobuf.dev/programming-guides/encoding and TensorFlow's description of TFRecord.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Message:
    """Fields of one message by number; nested messages and strings stay bytes until asked for.

    Fields that are asked for and absent have their defaults: 0, "", b"", an empty message.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        """
        Args:
            data: the serialised message.

        Raises:
            ValueError: it is cut off or no message.
        """
        self._fields: dict[int, list[int | memoryview]] = {}
        view = memoryview(data)
        at = 0
        while at < len(view):
            key, at = _varint(view, at)
            kind = key & 7
            value: int | memoryview
            if kind == _VARINT:
                value, at = _varint(view, at)
            else:
                if kind == _BYTES:
                    length, at = _varint(view, at)
                elif kind in (_FIXED32, _FIXED64):
                    length = 4 if kind == _FIXED32 else 8
                else:
                    raise ValueError(f"wire type {kind} at byte {at}")
                if at + length > len(view):
                    raise ValueError(f"cut off at byte {len(view)}")
                value, at = view[at : at + length], at + length
            self._fields.setdefault(key >> 3, []).append(value)

    def integer(self, number: int) -> int:
        """A field of type int32, int64 or enum (not negative)."""
        value = self._fields.get(number, [0])[-1]
        if not isinstance(value, int):
            raise ValueError(f"field {number} is no integer")
        return value

    def content(self, number: int) -> bytes:
        """A field of type bytes."""
        return bytes(self._views(number)[-1]) if number in self._fields else b""

    def text(self, number: int) -> str:
        """A field of type string."""
        return self.content(number).decode()

    def message(self, number: int) -> "Message":
        """A message field."""
        return Message(self.content(number))

    def messages(self, number: int) -> list["Message"]:
        """A repeated message field."""
        return [Message(view) for view in self._views(number)]

    def doubles(self, number: int) -> list[float]:
        """A repeated field of type double, packed or not; of a single field, one number or none."""
        values: list[float] = []
        for view in self._views(number):
            if len(view) % 8:
                raise ValueError(f"field {number} has no doubles")
            values += struct.unpack(f"<{len(view) // 8}d", view)
        return values

    def single(self, number: int) -> float:
        """A field of type float."""
        views = self._views(number)
        return float(struct.unpack("<f", views[-1])[0]) if views else 0.0

    def _views(self, number: int) -> list[memoryview]:
        views = [value for value in self._fields.get(number, []) if isinstance(value, memoryview)]
        if len(views) != len(self._fields.get(number, [])):
            raise ValueError(f"field {number} is an integer")
        return views


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(view):
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"number of over 64 bits at byte {at}")
    raise ValueError(f"cut off at byte {len(view)}")


def field(number: int, value: int | float | str | bytes, *, single: bool = False) -> bytes:
    """A field as it is written: an integer (not negative), a double, a string or a message that is serialised already.

    Args:
        number: of the field.
        value: its value.
        single: the number is of type float, not double.
    """
    if isinstance(value, int):
        return _written_varint(number << 3 | _VARINT) + _written_varint(value)
    if isinstance(value, float):
        kind, form = (_FIXED32, "<f") if single else (_FIXED64, "<d")
        return _written_varint(number << 3 | kind) + struct.pack(form, value)
    content = value.encode() if isinstance(value, str) else value
    return _written_varint(number << 3 | _BYTES) + _written_varint(len(content)) + content


def _written_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_tfrecords(path: str | Path) -> Iterator[bytes]:
    """Records of an uncompressed TFRecord file, one after the other; checksums are not compared.

    Raises:
        UserError: the file is missing, cut off or of another kind.
    """
    try:
        size = Path(path).stat().st_size
        with open(path, "rb") as file:
            while head := file.read(12):  # length, and its checksum
                length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else size
                if file.tell() + length + 4 > size:
                    raise UserError(f"{path} is cut off or no TFRecord file: download it again")
                yield file.read(length)
                file.seek(4, 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): put Waymo's .tfrecord files there") from error
