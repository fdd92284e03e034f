"""Weights for inference: no code of a file runs."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from centernet.errors import UserError
from centernet.inference.weights import load_weights


class RunsCode:
    """A pickle of it makes a folder when it is read without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_file_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # as torch before 2.6: unsafe unless told otherwise
    torch.save({"model": RunsCode(tmp_path / "made")}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth cannot be read: it holds Python objects \(posix\.mkdir\)"):
        load_weights(nn.Linear(2, 3), str(tmp_path / "a.pth"))
    assert not (tmp_path / "made").exists()
