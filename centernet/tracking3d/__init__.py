"""Monocular 3D detection and tracking (QD-3DT, arXiv 2103.07351): a wing of the house with the same floors inside.

``ops/`` mathematics | ``modeling/`` modules | ``motion/`` motion models | ``tracker/`` | ``data/`` | ``evaluation/`` |
``inference/`` video to tracks. Frames and units, everywhere: boxes in pictures are continuous ``xyxy`` pixels; the
camera frame has X right, Y down, Z forward, in metres; the world frame has Z up; a box in the world is
``box7 = [X, Y, Z, yaw, h, w, l]`` with its geometric centre and yaw in radians in [-pi, pi); sizes are always in the
order height, width, length. Importing this package imports nothing.
"""
