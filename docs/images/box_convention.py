#!/usr/bin/env python3
"""Draws box_convention.png with the package's own geometry: python docs/images/box_convention.py"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Arc, Polygon

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from centernet.tracking3d.ops.geometry import box_corners, project, yaw_to_alpha  # noqa: E402

EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
BOX, FRONT, GREY, RED, GREEN, BLUE = "#1f5fae", "#f2a33a", "#888888", "#c8352b", "#2b8a3e", "#1f5fae"


def corners(xyz, yaw, dims):
    as_tensor = [torch.tensor(value, dtype=torch.float64) for value in (xyz, yaw, dims)]
    return box_corners(*as_tensor).numpy()


def arrow(axes, start, end, colour, text="", at=1.0, shift=(0.0, 0.0), width=1.8):
    axes.annotate(
        "",
        end,
        start,
        annotation_clip=False,
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": 0, "shrinkB": 0},
    )
    if text:
        place = np.array(start) + at * (np.array(end) - np.array(start)) + np.array(shift)
        axes.text(*place, text, color=colour, fontsize=11, ha="center", va="center")


def draw_picture(axes):
    """The box as the camera sees it, from above and to the side so that all of it shows."""
    matrix = torch.tensor([[520.0, 0, 0, 0], [0, 520, 0, 0], [0, 0, 1, 0]], dtype=torch.float64)

    def seen(points):
        points = torch.as_tensor(np.asarray(points), dtype=torch.float64).reshape(-1, 3)
        c, s = np.cos(0.32), np.sin(0.32)  # look down a little
        tilt = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)
        return project((points - points.new_tensor([0.9, -2.2, -1.2])) @ tilt.T, matrix)[0].numpy()

    centre, yaw, dims = (1.6, 0.4, 6.0), 2.5, (1.5, 1.8, 4.0)
    box = corners(centre, yaw, dims)
    uv = seen(box)
    axes.add_patch(Polygon(uv[[0, 1, 5, 4]], color=FRONT, alpha=0.55, lw=0))
    for first, second in EDGES:
        axes.plot(*uv[[first, second]].T, color=BOX, lw=1.6)
    middle = uv.mean(0)
    for number, place in enumerate(uv):
        out = (place - middle) / np.hypot(*(place - middle))
        axes.text(*(place + 9 * out), str(number), color=BOX, fontsize=10, ha="center", va="center")
    axes.plot(*seen(centre).T, "o", color="black", ms=5)
    axes.text(*(seen(centre)[0] + (6, -8)), "(x, y, z)", fontsize=11)
    for ends, text, shift in (((3, 7), "h", (-10, 0)), ((2, 3), "w", (-6, 12)), ((3, 0), "l", (-12, 12))):
        axes.text(*(uv[list(ends)].mean(0) + shift), text, fontsize=13, fontweight="bold", color="black", ha="center")
    origin = np.array([-2.6, 0.6, 4.6])
    for axis, colour, text in ((0, RED, "X right"), (1, GREEN, "Y down"), (2, BLUE, "Z ahead")):
        tip = origin + np.eye(3)[axis] * (1.1, 0.8, 1.9)[axis]
        start, end = seen(origin)[0], seen(tip)[0]
        axes.plot(*end, alpha=0)
        arrow(axes, start, end, colour, text, 1.0, ((8, 12), (0, 12), (4, -9))[axis])
    axes.set_title("camera frame: corners 0 to 7, the front (0 1 5 4) filled", fontsize=11)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.margins(0.1)
    axes.axis("off")


def angle(axes, at, radius, start, end, colour, text, shift=(0, 0)):
    """From ``start`` to ``end``, degrees counter-clockwise in the drawing; an arrow head at ``end``."""
    low, high = min(start, end), max(start, end)
    axes.add_patch(Arc(at, 2 * radius, 2 * radius, theta1=low, theta2=high, color=colour, lw=1.8))
    turn = np.radians(end)
    tip = np.array(at) + radius * np.array([np.cos(turn), np.sin(turn)])
    back = np.radians(end - np.sign(end - start) * 8)
    tail = np.array(at) + radius * np.array([np.cos(back), np.sin(back)])
    arrow(axes, tail, tip, colour)
    middle = np.radians((low + high) / 2)
    place = np.array(at) + 1.32 * radius * np.array([np.cos(middle), np.sin(middle)]) + np.array(shift)
    axes.text(*place, text, color=colour, fontsize=13, ha="center", va="center")


def ground_box(axes, ground):
    axes.add_patch(Polygon(ground, fill=False, ec=BOX, lw=1.6))
    axes.plot(*ground[:2].T, color=FRONT, lw=5, solid_capstyle="butt")
    front, centre = ground[:2].mean(0), ground.mean(0)
    arrow(axes, centre, front + 0.4 * (front - centre), BOX)
    axes.plot(*centre, "o", color="black", ms=5)
    return centre


def draw_above(axes):
    """The same from above: yaw, the ray, alpha."""
    xyz, yaw = (3.0, 0.0, 7.0), 0.75
    centre = ground_box(axes, corners(xyz, yaw, (1.5, 1.8, 4.0))[:4, ::2])
    axes.plot([0, 1.38 * centre[0]], [0, 1.38 * centre[1]], "--", color=GREY, lw=1)
    axes.plot([centre[0], centre[0] + 3.2], [centre[1]] * 2, ":", color=GREY, lw=1.2)
    angle(axes, centre, 2.7, 0, -np.degrees(yaw), RED, "yaw", (0.1, 0))
    ray = np.degrees(np.arctan2(xyz[0], xyz[2]))
    angle(axes, (0, 0), 2.6, 90, 90 - ray, GREY, "ray", (0.3, 0.9))
    arrow(axes, (0, 0), (2.2, 0), RED, "X", 1.15)
    arrow(axes, (0, 0), (0, 3.6), BLUE, "Z", 1.1)
    axes.plot(0, 0, marker=(3, 0, 0), color="black", ms=11)
    alpha = yaw_to_alpha(torch.tensor(yaw), torch.tensor(xyz)).item()
    axes.text(
        -1.4,
        -1.5,
        "yaw: about Y, from X towards $-$Z\nray = atan2(x, z)\nalpha = yaw $-$ ray, what a crop shows",
        fontsize=11,
        va="top",
    )
    axes.text(
        -1.4, 10.3, f"here yaw {yaw:.2f}, ray {np.radians(ray):.2f}, alpha {alpha:.2f} rad", fontsize=10, color=GREY
    )
    axes.set_title("camera frame from above", fontsize=11)
    finish(axes)


def draw_world(axes):
    """Z up: box7."""
    yaw = 0.6
    turned = corners((4.6, 0.0, 4.4), -yaw, (1.5, 1.8, 4.0))[:4, ::2]
    centre = ground_box(axes, turned)
    axes.plot([centre[0], centre[0] + 3.2], [centre[1]] * 2, ":", color=GREY, lw=1.2)
    angle(axes, centre, 2.7, 0, np.degrees(yaw), RED, "yaw", (0.15, 0))
    arrow(axes, (0, 0), (2.6, 0), RED, "X", 1.14)
    arrow(axes, (0, 0), (0, 2.6), GREEN, "Y", 1.14)
    axes.plot(0, 0, "o", color=BLUE, ms=9, mfc="white", mew=1.8)
    axes.plot(0, 0, "o", color=BLUE, ms=3)
    axes.text(-0.75, -0.1, "Z up", color=BLUE, fontsize=11, ha="right")
    axes.text(
        -1.4,
        -1.5,
        "box7 = [X, Y, Z, yaw, h, w, l]\nX, Y, Z: the middle of the box, metres\nyaw: about Z, from X towards Y",
        fontsize=11,
        va="top",
    )
    axes.set_title("world frame from above", fontsize=11)
    finish(axes)


def finish(axes):
    axes.set_xlim(-2.2, 8.6)
    axes.set_ylim(-3.8, 10.8)
    axes.set_aspect("equal")
    axes.axis("off")


figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 4.9), width_ratios=(1.35, 1, 1))
draw_picture(left)
draw_above(middle)
draw_world(right)
figure.tight_layout()
figure.savefig(HERE / "box_convention.png", dpi=100)
