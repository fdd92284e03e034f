"""The switch between kernels and decompositions."""

import pytest

from centernet.ops.capture import capture_target, capturing


def test_target_is_set_inside_only():
    assert capture_target() is None
    with capturing("export"):
        assert capture_target() == "export"
        with capturing("onnx"):
            assert capture_target() == "onnx"
        assert capture_target() == "export"
    assert capture_target() is None


def test_target_is_reset_after_an_error():
    with pytest.raises(ZeroDivisionError), capturing("torchscript"):
        1 / 0  # noqa: B018
    assert capture_target() is None


def test_unknown_targets_are_refused():
    with pytest.raises(ValueError, match="'coreml' is no target"), capturing("coreml"):
        pass
