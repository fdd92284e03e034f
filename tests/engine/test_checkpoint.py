"""Files of weights: what goes in comes out, and what is wrong with one is a sentence."""

import logging
import pickle

import pytest
import torch
from torch import nn

from centernet.engine import TrainingCheckpointer
from centernet.errors import UserError


def model(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def test_round_trip_of_tensors_and_plain_types(tmp_path):
    one, other = model(), model()
    optimizers = [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9) for net in (one, other)]
    one(torch.rand(4, 2)).sum().backward()
    optimizers[0].step()
    TrainingCheckpointer(one, str(tmp_path), optimizer=optimizers[0]).save("model_0000007", iteration=7)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"
    assert torch.load(tmp_path / "model_0000007.pth", weights_only=True)["iteration"] == 7

    extra = TrainingCheckpointer(other, str(tmp_path), optimizer=optimizers[1]).resume_or_load("", resume=True)
    assert extra["iteration"] == 7
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert str(optimizers[0].state_dict()) == str(optimizers[1].state_dict())


def test_without_resume_only_the_weights(tmp_path):
    TrainingCheckpointer(model(), str(tmp_path), optimizer=torch.optim.SGD(model().parameters(), 0.1)).save("a")
    optimizer = torch.optim.SGD(model().parameters(), 0.5)
    checkpointer = TrainingCheckpointer(model(), str(tmp_path), optimizer=optimizer)
    checkpointer.resume_or_load(str(tmp_path / "a.pth"), resume=False)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert checkpointer.resume_or_load("", resume=False) == {}


def test_partly_fitting_weights_are_one_line(tmp_path, caplog):
    weights = {**model().state_dict(), "old.weight": torch.zeros(1)}
    del weights["1.running_mean"]
    torch.save(weights, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        TrainingCheckpointer(model(width=3)).resume_or_load(str(tmp_path / "a.pth"))
    assert (
        "Weights: 5 of the model's 6 entries loaded; 1 of the model's 6 entries missing (such as "
        "1.running_mean): these stay as initialised; 1 of the file are not used"
    ) in caplog.messages
    caplog.clear()
    weights["0.weight"] = torch.zeros(5, 5)
    torch.save(weights, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        TrainingCheckpointer(model()).resume_or_load(str(tmp_path / "a.pth"))
    assert "1 of another shape (such as 0.weight: (5, 5) there, (3, 2) here)" in caplog.text
    assert "4 of the model's 6 entries" in caplog.text


def _unpicklable_without_code():
    return logging.Formatter()


@pytest.mark.parametrize(
    "write, sentence",
    [
        (
            lambda file: torch.save({"model": {"x": torch.zeros(2)}}, file),
            "does not fit this model at all: none of its 1",
        ),
        (lambda file: torch.save({"model": model(4).state_dict() | {}}, file), None),
        (lambda file: torch.save({"model": 3}, file), "holds no dict of tensors under 'model'"),
        (lambda file: file.write_bytes(b"not weights"), "is a text file, not weights"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: torch.save({"model": _unpicklable_without_code()}, file), r"objects \(logging.Formatter\)"),
        (lambda file: file.write_bytes(pickle.dumps(_unpicklable_without_code())), r"objects \(logging.Formatter\)"),
    ],
)
def test_unusable_files(tmp_path, write, sentence):
    file = tmp_path / "a.pth"
    write(file)
    net = nn.Linear(2, 3) if sentence is None else model()
    with pytest.raises(UserError, match=sentence or "does not fit this model at all") as error:
        TrainingCheckpointer(net).resume_or_load(str(file))
    assert "\n" not in str(error.value)


def test_address_that_cannot_be_reached():
    with pytest.raises(UserError, match="cannot be read: .*; fetch it by other means and give its path"):
        TrainingCheckpointer(model()).resume_or_load("http://127.0.0.1:9/a.pth")


def test_damaged_zip(tmp_path):
    TrainingCheckpointer(model(), str(tmp_path)).save("a")
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"can be used \(a\.pth: it has \d+ bytes, not \d+\); bring back"):
        TrainingCheckpointer(model(), str(tmp_path)).resume_or_load("")
    with pytest.raises(UserError, match=r"the weights file .*a\.pth cannot be read: "):
        TrainingCheckpointer(model(), str(tmp_path)).resume_or_load(str(tmp_path / "a.pth"), resume=False)


def test_last_checkpoint_that_is_gone(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    with pytest.raises(UserError, match=r"\(model_0000004.pth: it is not there\); bring back"):
        TrainingCheckpointer(model(), str(tmp_path)).resume_or_load("")


def test_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    net = model()
    checkpointer = TrainingCheckpointer(net, str(tmp_path))
    checkpointer.save("model_0000004", iteration=4)

    def full(data, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="model_0000009.pth cannot be written: No space left on device"):
        checkpointer.save("model_0000009", iteration=9)
    names = ["last_checkpoint", "model_0000004.json", "model_0000004.pth"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert TrainingCheckpointer(model(), str(tmp_path)).resume_or_load("")["iteration"] == 4
