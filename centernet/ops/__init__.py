"""The mathematics of the first and second stage: stateless functions, tensors in and tensors out.

Nothing here knows a config, a registry or detectron2. Two layouts recur:

* **flat cells**: all cells of all images and levels in one axis, level-major, then image, then row-major:
  ``flat(l, b, i, j) = sum_{k<l} B*H_k*W_k + b*H_l*W_l + i*W_l + j`` (see :class:`~centernet.ops.grid.Pyramid`);
* **padded detections**: ``[B, K, ...]`` with a validity mask (see :class:`~centernet.ops.detections.PaddedDetections`).
"""
