"""The newest checkpoint that is whole is found, whatever became of the newest and of the file that names it."""

import hashlib
import json
import logging
import shutil

import pytest
import torch
from torch import nn

from centernet.engine import TrainingCheckpointer
from centernet.engine.last_checkpoint import has_checkpoint, last_checkpoint
from centernet.engine.manifest import code_version, damage
from centernet.errors import UserError


def checkpointer(folder, value=0.0):
    model = nn.Linear(2, 3)
    nn.init.constant_(model.weight, value)
    return TrainingCheckpointer(model, str(folder))


@pytest.fixture
def three(tmp_path):
    """A folder with checkpoints of iterations 4, 9 and 14."""
    for iteration in (4, 9, 14):
        checkpointer(tmp_path, iteration).save(f"model_{iteration:07d}", iteration=iteration)
    return tmp_path


def flip(file):
    """Change a byte of the weights, not the size."""
    data = bytearray(file.read_bytes())
    at = data.index(torch.tensor([14.0]).numpy().tobytes())
    data[at] ^= 1
    file.write_bytes(data)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("harm, reason", [(flip, "SHA-256 differs"), (cut, "bytes, not"), ("remove", "not there")])
@pytest.mark.parametrize("manifest", [True, False])
def test_damaged_newest_gives_way_to_the_one_before(three, harm, reason, manifest, caplog):
    file = three / "model_0000014.pth"
    if not manifest:
        (three / "model_0000014.json").unlink()
        reason = "not there" if harm == "remove" else "damaged"
    file.unlink() if harm == "remove" else harm(file)
    assert reason in damage(file)
    with caplog.at_level(logging.WARNING):
        extra = (restored := checkpointer(three)).resume_or_load("")
    assert extra["iteration"] == 9
    assert restored.model.weight[0, 0] == 9
    assert f"The checkpoint {file} cannot be used: " in caplog.text
    assert "Going on from model_0000009.pth instead" in caplog.messages


@pytest.mark.parametrize("tag", [None, b"", b"\xff\xfe\x00", b"model_0000077.pth", b"a\nb\n" * 200, b".."])
def test_last_checkpoint_file_that_is_no_use(three, tag):
    (three / "last_checkpoint").unlink()
    if tag is not None:
        (three / "last_checkpoint").write_bytes(tag)
    assert has_checkpoint(three)
    assert last_checkpoint(three) == three / "model_0000014.pth"


def test_all_damaged_is_one_sentence(three):
    for file in three.glob("*.pth"):
        cut(file)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be used \(model_0000014.pth: .*model_0000004.pth: "):
        checkpointer(three).resume_or_load("")


def test_nothing_there(tmp_path):
    assert not has_checkpoint(tmp_path / "none")
    assert last_checkpoint(tmp_path) is None


def test_checkpoints_without_a_manifest(three):
    """As detectron2 and earlier versions leave them."""
    for file in three.glob("*.json"):
        file.unlink()
    assert checkpointer(three).resume_or_load("")["iteration"] == 14
    (three / "last_checkpoint").unlink()
    assert last_checkpoint(three) == three / "model_0000014.pth"
    shutil.copy(three / "model_0000014.pth", three / "model_final.pth")
    assert last_checkpoint(three) == three / "model_final.pth"


def test_files_of_an_earlier_run_are_not_taken(three):
    current = checkpointer(three)
    current.begin_run(resume=False)
    (three / "last_checkpoint").unlink()
    assert not has_checkpoint(three)
    current.save("model_0000009", iteration=9)  # in the place of an earlier one
    (three / "last_checkpoint").unlink()
    assert last_checkpoint(three) == three / "model_0000009.pth"
    again = checkpointer(three)
    again.begin_run(resume=True)
    again.save("model_0000011", iteration=11)
    (three / "last_checkpoint").unlink()
    assert last_checkpoint(three) == three / "model_0000011.pth"


def test_manifest(three):
    content = json.loads((three / "model_0000014.json").read_text())
    data = (three / "model_0000014.pth").read_bytes()
    assert content["iteration"] == 14
    assert (content["size"], content["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert content["entries"] == ["model", "iteration"]
    assert content["torch"] == torch.__version__
    assert content["world_size"] == 1
    assert content["code"] == code_version()
    assert {"centernet", "commit", "modified"} == set(content["code"])


def test_only_the_newest_are_kept(tmp_path):
    one = checkpointer(tmp_path)
    one.begin_run(resume=False)
    (tmp_path / "model_best.pth").write_bytes(b"best")
    for iteration in range(5):
        one.save(f"model_{iteration:07d}", iteration=iteration)
    assert len(list(tmp_path.glob("model_0*.pth"))) == 5  # 0 keeps all
    other = checkpointer(tmp_path)
    other.begin_run(resume=True)
    other.resume_or_load("")
    other.kept = 2
    for iteration in (5, 6, 7, 8):
        other.save(f"model_{iteration:07d}", iteration=iteration)
    other.save("model_final", iteration=8)
    names = {file.name for file in tmp_path.iterdir()}
    numbered = {"model_0000004", "model_0000007", "model_0000008", "model_final"}  # 4: what it went on from
    assert {f"{name}.pth" for name in numbered} | {f"{name}.json" for name in numbered} <= names
    assert {name for name in names if name.endswith(".pth")} == {f"{n}.pth" for n in numbered} | {"model_best.pth"}


def test_old_ones_of_an_earlier_run_stay(three):
    current = checkpointer(three)
    current.begin_run(resume=False)
    current.kept = 1
    current.save("model_0000019", iteration=19)
    current.save("model_0000024", iteration=24)
    assert {file.stem for file in three.glob("*.pth")} == {f"model_{n:07d}" for n in (4, 9, 14, 24)}


def test_removed_folder_is_made_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    one = checkpointer(folder, 3.0)
    one.begin_run(resume=False)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"OUTPUT_DIR .*run was removed during the run.*model_0000004.pth.*--resume"):
        one.save("model_0000004", iteration=4)
    assert (restored := checkpointer(folder)).resume_or_load("")["iteration"] == 4
    assert restored.model.weight[0, 0] == 3


def test_removed_folder_that_somebody_made_again(tmp_path):
    """An evaluation makes it for its results, and TensorBoard for its events."""
    one = checkpointer(tmp_path, 3.0)
    one.begin_run(resume=False)
    (tmp_path / "checkpoints.json").unlink()
    with pytest.raises(UserError, match="was removed during the run"):
        one.save("model_0000004", iteration=4)
    one.save("model_0000005", iteration=5)
    (tmp_path / "last_checkpoint").unlink()
    assert last_checkpoint(tmp_path) == tmp_path / "model_0000005.pth"


def test_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    one = checkpointer(folder)
    one.begin_run(resume=False)
    shutil.rmtree(folder)
    folder.write_text("in its place")
    with pytest.raises(UserError, match=r"checkpoints.json cannot be written: Not a directory"):
        one.save("model_0000004", iteration=4)


def test_full_disk(three):
    (three / "model_0000019.pth.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"model_0000019.pth cannot be written: No space left on device"):
        checkpointer(three).save("model_0000019", iteration=19)
    assert checkpointer(three).resume_or_load("")["iteration"] == 14
    assert not list(three.glob("*.tmp"))


def test_kill_between_a_file_and_its_manifest(three):
    """The manifest of an earlier file of that name must not condemn the new one."""
    one = checkpointer(three, 20.0)
    one.save("model_0000014", iteration=14)
    (three / "model_0000014.json").unlink()
    assert (restored := checkpointer(three)).resume_or_load("")["iteration"] == 14
    assert restored.model.weight[0, 0] == 20
