"""Frames and angles: the published numbers, there and back with random cameras, edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.tracking3d.ops.geometry import (
    BEHIND,
    Camera,
    alpha_to_yaw,
    box_corners,
    euler_to_matrix,
    euler_to_quaternion,
    flip_alpha,
    lift_boxes,
    lifting_intrinsics,
    lower_boxes,
    matrix_to_quaternion,
    pixel_ray,
    project,
    quaternion_multiply,
    quaternion_to_euler,
    rescaled_intrinsics,
    unproject,
    wrap_angle,
    yaw_to_alpha,
)

quick = settings(max_examples=40, deadline=None)
angles = st.floats(-math.pi, math.pi)
seeds = st.integers(0, 2**31)


PUBLISHED = pytest.mark.parametrize(
    ("reference", "index"), [("some", 0), ("some", 2), ("all", 0), ("all", 1), ("all", 2)], indirect=["reference"]
)


def turns_apart(first, second):
    return wrap_angle(first - second).abs().max().item()


def random_camera(seed, dtype=torch.float64, offset=0.0):
    torch.manual_seed(seed)
    focal, center = 300 + 1500 * torch.rand(2), 1000 * torch.rand(2)
    intrinsics = torch.tensor(
        [[focal[0], 0, center[0], offset * 40], [0, focal[1], center[1], -offset], [0, 0, 1, offset * 0.01]]
    )
    euler = (torch.rand(3) * 2 - 1) * torch.tensor([math.pi, 1.4, math.pi])
    return Camera(intrinsics.to(dtype), euler_to_matrix(euler.to(dtype)), (torch.randn(3) * 500).to(dtype))


def random_boxes(count, dtype=torch.float64):
    uv = torch.rand(count, 2) * torch.tensor([1600.0, 900.0])
    depth, alpha = 1 + 90 * torch.rand(count), (2 * torch.rand(count) - 1) * math.pi
    return [t.to(dtype) for t in (uv, depth, alpha, 0.3 + 5 * torch.rand(count, 3))]


@PUBLISHED
def test_lifting_is_the_published_one(reference, assert_close, index):
    golden = reference("codecs")
    name = f"geo{index}_"
    rotation = euler_to_matrix(golden("geo_euler", torch.float64)[index])
    assert_close(rotation, golden(f"{name}R", torch.float64), 1e-12)
    camera = Camera(golden("geo_K")[index], rotation.float(), golden("geo_position")[index])
    uv, depth, alpha, dims = (golden(name + key).squeeze(-1) for key in ("uv", "depth", "alpha", "dims"))
    xyz = unproject(uv, depth, camera.intrinsics, mode="parity")
    assert_close(xyz, golden(f"{name}cam"), 1e-5)
    assert turns_apart(alpha_to_yaw(alpha, xyz), golden(f"{name}yaw_cam")[:, 0]) < 1e-5
    lifted = lift_boxes(uv, depth, alpha, dims, camera, mode="parity")
    assert lifted.box7.dtype == torch.float32
    assert_close(lifted.box7[:, :3], golden(f"{name}world"), 1e-5)
    angles = golden(f"{name}rpy_world")
    assert turns_apart(torch.cat((lifted.roll_pitch, lifted.box7[:, 3:4]), 1), angles) < 1e-5
    assert torch.equal(lifted.box7[:, 4:], dims)
    quaternion, theirs = euler_to_quaternion(angles), golden(f"{name}quat_world")
    assert_close((quaternion * theirs).sum(1).abs(), torch.ones(len(uv)), 1e-5)


@PUBLISHED
def test_the_way_back_is_the_published_one(reference, assert_close, index):
    golden = reference("codecs")
    name = f"geo{index}_"
    camera = Camera(golden("geo_K")[index], golden(f"{name}R"), golden("geo_position")[index])
    yaw, dims, tilt = golden(f"{name}yaw_world_moved"), golden(f"{name}dims"), golden(f"{name}rpy_world")[:, :2]
    quaternion = euler_to_quaternion(torch.cat((tilt, yaw[:, None]), 1))
    agreement = (quaternion * golden(f"{name}quat_from_rpy")).sum(1).abs()
    assert_close(agreement, torch.ones_like(agreement), 1e-5)
    boxes = torch.cat((golden(f"{name}world_moved"), yaw[:, None], dims), 1)
    seen = lower_boxes(boxes, tilt, camera, mode="parity")
    assert_close(seen.xyz, golden(f"{name}cam_back"), 1e-5)
    assert torch.equal(seen.depth, seen.xyz[:, 2])
    assert torch.equal(seen.dims, dims)
    assert turns_apart(seen.yaw, golden(f"{name}yaw_cam_back")) < 1e-5
    assert turns_apart(seen.alpha, golden(f"{name}alpha_back")[:, 0]) < 2e-5
    ahead = seen.depth > 0.5  # pixels of nearer points are ill-conditioned
    assert_close(seen.center2d[ahead], golden(f"{name}uv_back")[ahead], 1e-5)


def test_points_behind_the_camera_have_the_published_sentinel(reference, assert_close):
    golden = reference("codecs")
    points, theirs = golden("behind_cam"), golden("behind_uv")
    uv, in_front = project(points, golden("geo_K")[0], sentinel=True)
    assert_close(uv, theirs, 1e-5)
    assert torch.equal(in_front, theirs[:, 0] != BEHIND)
    assert not in_front.all()
    uv, _ = project(points, golden("geo_K")[0])
    assert uv.isfinite().all()
    assert (uv[~in_front] != BEHIND).all()


def test_lift_of_the_specification():
    intrinsics = torch.tensor([[1266.4, 0, 816.3, 0], [0, 1266.4, 491.5, 0], [0, 0, 1, 0]])
    xyz = unproject(torch.tensor([[900.0, 500.0]]), torch.tensor([20.0]), intrinsics)
    torch.testing.assert_close(xyz, torch.tensor([[1.321857, 0.134239, 20.0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(alpha_to_yaw(torch.tensor([0.7]), xyz), torch.tensor([0.765997]), atol=1e-6, rtol=0)


def test_world_yaw_of_the_specification():
    looking_ahead = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    camera = Camera(torch.eye(3, 4), looking_ahead, torch.zeros(3))
    yaw = torch.tensor([0, 0.3, 1.2, -2.0, 3.0])
    lifted = lift_boxes(torch.zeros(5, 2), torch.ones(5), yaw, torch.ones(5, 3), camera)
    expected = torch.tensor([-1.571, -1.871, -2.771, 0.429, 1.712])
    torch.testing.assert_close(lifted.box7[:, 3], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(lifted.roll_pitch[0], torch.tensor([-math.pi / 2, 0]))


@quick
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20), st.sampled_from([torch.float32, torch.float64]))
def test_wrapped_angles_are_in_range_and_the_same(values, dtype):
    around = [k * math.pi + e for k in range(-5, 6) for e in (-1e-6, 0, 1e-6)]
    angle = torch.tensor(values + around, dtype=dtype)
    neighbours = [torch.nextafter(angle, angle.new_tensor(end)) for end in (-math.inf, math.inf)]
    angle = torch.cat((angle, *neighbours))
    wrapped = wrap_angle(angle)
    assert ((wrapped >= -math.pi) & (wrapped < math.pi)).all()
    tolerance = 1e-2 if dtype == torch.float32 else 1e-10
    assert (wrapped.sin() - angle.sin()).abs().max() < tolerance
    assert (wrapped.cos() - angle.cos()).abs().max() < tolerance
    inside = (angle >= -math.pi) & (angle < math.pi)
    assert torch.equal(wrapped[inside], angle[inside])


def test_wrapping_has_gradient_one():
    angle = torch.tensor([-7.0, -1.0, 0.0, 3.0, 9.0], requires_grad=True)
    wrap_angle(angle).sum().backward()
    assert torch.equal(angle.grad, torch.ones(5))


@quick
@given(seeds)
def test_quaternions_are_their_matrices(seed):
    torch.manual_seed(seed)
    halves = torch.tensor([[math.pi, 0, 0], [0, math.pi, 0], [0, 0, math.pi], [math.pi, math.pi, 0], [0, 0, 0]])
    euler = torch.cat(((torch.rand(20, 3) * 2 - 1) * math.pi, halves)).double()
    matrix = euler_to_matrix(euler)
    quaternion = matrix_to_quaternion(matrix)
    torch.testing.assert_close(quaternion.norm(dim=1), torch.ones(25, dtype=torch.float64))
    # Euler angles of both definitions agree: Rz Ry Rx of the fixed axes, and Z, Y, X of the moving ones
    same = (quaternion * euler_to_quaternion(euler)).sum(1).abs()
    torch.testing.assert_close(same, torch.ones_like(same))
    again = euler_to_matrix(quaternion_to_euler(quaternion))
    torch.testing.assert_close(again, matrix, atol=1e-7, rtol=0)
    product = quaternion_multiply(quaternion, quaternion.roll(1, 0))
    same = (product * matrix_to_quaternion(matrix @ matrix.roll(1, 0))).sum(1).abs()
    torch.testing.assert_close(same, torch.ones_like(same))


@quick
@given(seeds, st.sampled_from([0.0, 1.0]))
def test_pixels_come_back(seed, offset):
    camera = random_camera(seed, offset=offset)
    uv, depth, _, _ = random_boxes(20)
    xyz = unproject(uv, depth, camera.intrinsics)
    torch.testing.assert_close(xyz[:, 2], depth)
    again, in_front = project(xyz, camera.intrinsics)
    torch.testing.assert_close(again, uv, atol=1e-6, rtol=0)
    assert in_front.all()
    published, _ = project(unproject(uv, depth, camera.intrinsics, mode="parity"), camera.intrinsics)
    assert torch.allclose(published, uv, atol=1e-6) == (offset == 0)  # the fourth column is forgotten


@quick
@given(st.lists(st.tuples(angles, st.floats(-50, 50), st.floats(0.1, 90)), min_size=1, max_size=20))
def test_alpha_and_yaw_come_back(rows):
    alpha, x, z = torch.tensor(rows, dtype=torch.float64).unbind(1)
    xyz = torch.stack((x, torch.zeros_like(x), z), 1)
    yaw = alpha_to_yaw(alpha, xyz)
    assert ((yaw >= -math.pi) & (yaw < math.pi)).all()
    assert turns_apart(yaw_to_alpha(yaw, xyz), alpha) < 1e-12


@quick
@given(seeds, st.sampled_from(["parity", "modern"]))
def test_boxes_come_back_from_the_world(seed, mode):
    camera = random_camera(seed, offset=1.0 if mode == "modern" else 0.0)
    uv, depth, alpha, dims = random_boxes(15)
    lifted = lift_boxes(uv, depth, alpha, dims, camera, mode=mode)
    seen = lower_boxes(lifted.box7, lifted.roll_pitch, camera, mode=mode)
    torch.testing.assert_close(seen.center2d, uv, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.depth, depth)
    assert turns_apart(seen.alpha, alpha) < 1e-6
    assert torch.equal(seen.dims, dims)


def test_one_camera_per_box():
    cameras = [random_camera(seed) for seed in range(6)]
    uv, depth, alpha, dims = random_boxes(6)
    together = Camera(*(torch.stack(field) for field in zip(*cameras, strict=True)))
    lifted = lift_boxes(uv, depth, alpha, dims, together)
    single = [lift_boxes(*(t[i : i + 1] for t in (uv, depth, alpha, dims)), c).box7 for i, c in enumerate(cameras)]
    torch.testing.assert_close(lifted.box7, torch.cat(single))
    seen = lower_boxes(lifted.box7, lifted.roll_pitch, together)
    torch.testing.assert_close(seen.center2d, uv)


def test_wide_poses_keep_their_precision_and_no_boxes_are_fine():
    camera = random_camera(0)._replace(position=torch.tensor([456_789.25, 5_429_876.125, 100.0], dtype=torch.float64))
    uv, depth, alpha, dims = random_boxes(5, torch.float32)
    lifted = lift_boxes(uv, depth, alpha, dims, camera)
    assert lifted.box7.dtype == torch.float64
    torch.testing.assert_close(lower_boxes(*lifted, camera).center2d, uv.double(), atol=1e-4, rtol=0)
    none = lift_boxes(uv[:0], depth[:0], alpha[:0], dims[:0], camera)
    assert none.box7.shape == (0, 7)
    assert lower_boxes(*none, camera).center2d.shape == (0, 2)


def test_corners_of_a_box():
    corners = box_corners(torch.tensor([[1.0, 2.0, 10.0]]), torch.tensor([0.0]), torch.tensor([[2.0, 1.0, 4.0]]))[0]
    # heading along X: the front has the greatest x, its right side is towards the camera
    assert corners[0].tolist() == [3.0, 3.0, 10.5]
    assert corners[1].tolist() == [3.0, 3.0, 9.5]
    assert corners[6].tolist() == [-1.0, 1.0, 9.5]
    torch.testing.assert_close(corners.mean(0), torch.tensor([1.0, 2.0, 10.0]))
    ahead = box_corners(torch.zeros(1, 3), torch.tensor([-math.pi / 2]), torch.tensor([[2.0, 1.0, 4.0]]))[0]
    torch.testing.assert_close(ahead[0], torch.tensor([-0.5, 1.0, 2.0]))  # front left, seen from behind


def test_flipped_angles():
    alpha = torch.tensor([0.5, -0.5, 3.0, -3.0])
    flipped = torch.tensor([math.pi - 0.5, 0.5 - math.pi, math.pi - 3, 3 - math.pi])
    torch.testing.assert_close(flip_alpha(alpha), flipped)
    torch.testing.assert_close(flip_alpha(flip_alpha(alpha)), alpha)
    unknown = torch.tensor([-10.0])
    assert flip_alpha(unknown).item() == -10
    assert flip_alpha(unknown, mode="parity").item() == pytest.approx(10 - math.pi)


def test_a_mirrored_box_has_the_flipped_angle():
    camera = random_camera(3)
    uv, depth, alpha, _ = random_boxes(10)
    xyz = unproject(uv, depth, camera.intrinsics)
    yaw = alpha_to_yaw(alpha, xyz)
    mirrored = yaw_to_alpha(wrap_angle(math.pi - yaw), xyz * torch.tensor([-1.0, 1, 1], dtype=torch.float64))
    assert turns_apart(mirrored, flip_alpha(alpha)) < 1e-9


def test_the_ray_of_a_pixel_is_that_of_its_points():
    camera = random_camera(1)
    uv, depth, _, _ = random_boxes(10)
    xyz = unproject(uv, depth, camera.intrinsics)
    torch.testing.assert_close(pixel_ray(uv[:, 0], camera.intrinsics), torch.atan2(xyz[:, 0], xyz[:, 2]))


def test_lifting_by_the_rescaled_matrix():
    intrinsics = torch.tensor([[700.0, 0, 600, 45], [0, 710, 180, 1], [0, 0, 1, 0.01]])
    sizes = (375, 1242), (448, 1484)
    assert lifting_intrinsics(intrinsics, *sizes, 1.19467, mode="modern") is intrinsics
    assert lifting_intrinsics(intrinsics, sizes[0], sizes[0], 1.0, mode="parity") is intrinsics
    published = lifting_intrinsics(intrinsics, *sizes, 1.19467, mode="parity")
    torch.testing.assert_close(
        published, torch.tensor([[836.269, 0, 742, 0], [0, 836.269, 224, 0], [0, 0, 1, 0]]), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("name", ["kitti_dla34", "nusc_r101"])
def test_published_rescaled_matrix(golden3d, assert_close, name):
    golden = golden3d(f"network_{name}.npz")
    intrinsics, used = torch.from_numpy(golden["cali"]), torch.from_numpy(golden["calib_used"])
    original, resized = golden["size_original"].tolist(), golden["size_resized"].tolist()
    scale = golden["scale_factor"].item()
    assert_close(lifting_intrinsics(intrinsics, original, resized, scale, mode="parity"), used, 1e-12)
    if name == "kitti_dla34":
        assert_close(rescaled_intrinsics(intrinsics, resized, scale), used, 1e-12)
