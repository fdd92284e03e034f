"""Reference numbers of the mathematics: some rows of them always, all of them where they are."""

import numpy as np
import pytest
import torch


@pytest.fixture(params=["some", "all"])
def reference(request, tracking3d_data, golden3d):
    """``reference("codecs")``: a function from names of arrays to tensors, float32 unless asked otherwise.

    ``tests/data/tracking3d/<name>_some.npz`` holds the first rows of most arrays of ``<name>.npz``.
    """

    def load(name):
        arrays = tracking3d_data(f"{name}_some.npz") if request.param == "some" else golden3d(f"{name}.npz")

        def tensor(key, dtype=torch.float32):
            return torch.from_numpy(np.asarray(arrays[key])).to(dtype)

        tensor.names = list(arrays)
        return tensor

    return load


@pytest.fixture
def assert_close():
    """``assert_close(ours, theirs, 1e-5)``: differences relative to the largest number of ``theirs``."""

    def check(ours, theirs, tolerance):
        assert ours.shape == theirs.shape
        assert ours.isfinite().all()
        if theirs.numel():
            assert (ours - theirs).abs().max().item() <= tolerance * max(theirs.abs().max().item(), 1e-12)

    return check
