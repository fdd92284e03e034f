"""Waymo's frames without TensorFlow: the wire format, TFRecord files, and boxes."""

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.errors import UserError
from centernet.tracking3d.data.constants import WAYMO_CLASSES
from centernet.tracking3d.data.protobuf_wire import Message, read_tfrecords
from centernet.tracking3d.data.records import boxes_of, camera_of
from centernet.tracking3d.data.waymo import read_waymo
from centernet.tracking3d.ops.geometry import lift_boxes


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def transform(matrix):
    return b"".join(field(1, float(x)) for x in np.asarray(matrix).flatten())


def record(data):
    return struct.pack("<Q", len(data)) + bytes(4) + data + bytes(4)


def lidar_label(x, y, z, width, length, height, heading, kind, name):
    box = b"".join(field(i, float(v)) for i, v in enumerate((x, y, z, width, length, height, heading), 1))
    return field(6, field(1, box) + field(3, kind) + field(4, name))


def projected_label(u, v, width, height, name):
    box = field(1, u) + field(2, v) + field(5, width) + field(4, height)
    return field(1, box) + field(4, name)


def turn_z(angle, x, y, z):
    c, s = math.cos(angle), math.sin(angle)
    return [[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, z], [0, 0, 0, 1]]


def frame(index, cameras=(1, 2)):
    """A car 20 m ahead of the vehicle, a sign, and a pedestrian that the front camera does not see."""
    calibrations = b""
    for name in cameras:
        intrinsic = b"".join(field(2, v) for v in (2000.0, 2000.0, 960.0, 640.0, 0.1, 0.0, 0.0, 0.0, 0.0))
        extrinsic = transform(turn_z(0.0 if name == 1 else 0.8, 1.5, 0.0, 2.0))
        calibrations += field(2, field(1, name) + intrinsic + field(3, extrinsic) + field(4, 1920) + field(5, 1280))
    pictures = b"".join(field(4, field(1, name) + field(2, b"jpeg%d" % name)) for name in cameras)
    labels = lidar_label(21.5, 0, 1, 2.0, 4.0, 1.6, 0.0, 1, "car") + lidar_label(9, 9, 1, 1, 1, 2, 0, 2, "walker")
    labels += lidar_label(20, 2, 2, 0.1, 1, 1, 0, 3, "sign")
    seen = field(1, 1) + field(2, projected_label(960.0, 740.0, 220.0, 180.0, "car_FRONT"))
    pose = transform(turn_z(0.5, 100.0 + index, 50.0, 3.0))
    time = field(2, 1_500_000_000_000_000 + 100_000 * index)
    return field(1, field(1, "segment") + calibrations) + time + field(3, pose) + pictures + labels + field(9, seen)


@pytest.fixture
def segment(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(record(frame(0)) + record(frame(1, cameras=(1,))) + record(frame(2)))
    return path


def test_frames(segment, tmp_path):
    records = read_waymo([segment], tmp_path / "pictures")
    # the second camera drops out in frame 1: its video has a gap
    assert [(r["video"], r["frame_index"]) for r in records] == [
        ("segment_1", 0), ("segment_1", 1), ("segment_1", 2), ("segment_2", 0), ("segment_2", 2),
    ]  # fmt: skip
    assert [r["image_id"] for r in records] == [0, 1, 2, 3, 4]
    assert (tmp_path / "pictures/segment_2/000002.jpg").read_bytes() == b"jpeg2"
    first = records[0]
    (car,) = first["annotations"]
    assert WAYMO_CLASSES[car["category_id"]] == "car"
    assert car["bbox"] == [850, 650, 1070, 830]
    assert car["dims"] == [1.6, 2.0, 4.0]
    assert car["translation"] == pytest.approx([0, 1, 20])
    assert car["center2d"] == pytest.approx([960, 740])
    assert car["yaw"] == pytest.approx(-math.pi / 2)  # looks away from the camera
    assert records[3]["annotations"] == []
    assert records[1]["annotations"][0]["instance_id"] == car["instance_id"]
    assert records[1]["timestamp"] - first["timestamp"] == pytest.approx(0.1)


def test_boxes_in_the_world(segment, tmp_path):
    for number, made in enumerate(read_waymo([segment], tmp_path)[:3]):
        boxes = boxes_of(made)
        centre = torch.tensor([a["center2d"] for a in made["annotations"]], dtype=torch.float64)
        box7 = lift_boxes(centre, boxes.xyz[:, 2], boxes.alpha, boxes.dims, camera_of(made)).box7[0]
        wanted = np.array(turn_z(0.5, 100.0 + number, 50, 3)) @ [21.5, 0, 1, 1]
        assert box7[:3].tolist() == pytest.approx(wanted[:3])
        assert box7[3].item() == pytest.approx(0.5)


def test_broken_files(segment, tmp_path):
    with pytest.raises(UserError, match=r"none.tfrecord cannot be read"):
        read_waymo([tmp_path / "none.tfrecord"], tmp_path)
    whole = segment.read_bytes()
    for data in (whole[:-10], whole[:5], b"\xff" * 40):
        segment.write_bytes(data)
        with pytest.raises(UserError, match="cut off or no TFRecord file"):
            read_waymo([segment], tmp_path)
    segment.write_bytes(record(b"\x0b" * 9))
    with pytest.raises(UserError, match="record 0 of .* is no Frame of the Waymo Open Dataset"):
        read_waymo([segment], tmp_path)
    segment.write_bytes(record(frame(0)[:-3]))
    with pytest.raises(UserError, match="is no Frame"):
        read_waymo([segment], tmp_path)


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    assert list(read_tfrecords(tmp_path / "empty.tfrecord")) == []
    assert read_waymo([tmp_path / "empty.tfrecord"], tmp_path) == []


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_value_error(data):
    try:
        message = Message(data)
        for number in range(1, 6):
            message.doubles(number)
            message.integer(number)
    except ValueError:
        pass


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63 - 1), st.text(max_size=200), st.lists(st.floats(allow_nan=False), max_size=5))
def test_protobuf_writes_what_is_read(number, text, values):
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    # a message of protobuf's own with an integer, a string and a double
    option = descriptor_pb2.UninterpretedOption(positive_int_value=number, identifier_value=text)
    option.double_value = values[0] if values else 0.0
    message = Message(option.SerializeToString())
    assert message.integer(4) == number
    assert message.text(3) == text
    assert message.doubles(6) == [option.double_value]
    packed = struct.pack(f"<{len(values)}d", *values)
    assert Message(field(1, packed)).doubles(1) == values
    assert Message(b"".join(field(1, v) for v in values)).doubles(1) == values


def test_absent_fields_have_defaults():
    empty = Message(b"")
    assert empty.integer(1) == 0
    assert empty.text(1) == ""
    assert empty.message(1).doubles(2) == []
