"""Pseudo labels of a real (random) detector: what is written, and that a killed run ends in the same bytes."""

import json
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from small_models import EAGER, small_cfg

from centernet.data import ensure_registered, get_detection_dataset_dicts_with_source
from centernet.errors import UserError
from centernet.inference import Predictor
from centernet.inference.batch.identity import fingerprint
from centernet.inference.network import Network
from centernet.inference.pseudo_labels import (
    Journal,
    find_unlabelled,
    label_images,
    write_labels,
)


@pytest.fixture(scope="module")
def teacher(trained):
    return Predictor(small_cfg("CenterNet2_R50_1x", *EAGER, "MODEL.WEIGHTS", trained))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven pictures of two sizes; the fourth is broken."""
    root = tmp_path_factory.mktemp("unlabelled") / "photos"
    root.mkdir()
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80 if number % 2 else 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    (root / "3.png").write_bytes((root / "3.png").read_bytes()[:200])
    return root


@pytest.fixture(scope="module")
def whole(teacher, folder, tmp_path_factory):
    """The result of a run that nobody disturbed, and beside it its journal."""
    output = tmp_path_factory.mktemp("whole") / "whole.json"
    run(teacher, folder, output)
    return output


def run(teacher, folder, output, threshold=0.1):
    images = find_unlabelled([str(folder)])
    book = label_images(teacher, images, output.with_suffix(".jsonl"), floor=0.05, batch_size=2)
    return write_labels(output, images, book, teacher.categories.as_coco(), [threshold] * 4)


def test_a_coco_file_with_scores(teacher, folder, tmp_path, caplog):
    labels, broken = run(teacher, folder, tmp_path / "pseudo.json")
    content = json.loads((tmp_path / "pseudo.json").read_text())
    assert len(broken) == 1
    assert "3.png" in broken[0]
    assert any("3.png" in message for message in caplog.messages)
    assert [i["file_name"] for i in content["images"]] == [f"{k}.png" for k in (0, 1, 2, 4, 5, 6)]
    assert [(i["height"], i["width"]) for i in content["images"][:2]] == [(60, 70), (60, 80)]
    assert len(content["annotations"]) == labels > 6
    assert [c["id"] for c in content["categories"]] == [1, 2, 3, 4]
    for annotation in content["annotations"]:
        assert annotation["score"] >= 0.1
        assert annotation["category_id"] in (1, 2, 3, 4)
        x, y, w, h = annotation["bbox"]
        assert -0.01 <= x < x + w <= 80.01
        assert annotation["area"] == pytest.approx(w * h, abs=0.01)
    assert len({a["id"] for a in content["annotations"]}) == labels
    strict, _ = run(teacher, folder, tmp_path / "pseudo.json", threshold=0.3)  # from the journal
    assert strict < labels


def test_labels_are_what_the_predictor_says(teacher, folder, whole):
    content = json.loads(whole.read_text())
    images = [np.asarray(Image.open(folder / f"{k}.png"))[:, :, ::-1] for k in (4, 5)]
    instances = teacher.predict_batch([np.ascontiguousarray(i) for i in images])[0]["instances"]
    instances = instances[instances.scores >= 0.1]
    mine = [a for a in content["annotations"] if a["image_id"] == 5]
    assert len(mine) == len(instances) > 0
    found = np.array([a["bbox"] for a in mine])
    found[:, 2:] += found[:, :2]
    np.testing.assert_allclose(found, instances.pred_boxes.tensor.numpy(), atol=0.02)
    assert [a["category_id"] - 1 for a in mine] == instances.pred_classes.tolist()


def test_labels_do_not_depend_on_the_other_pictures(teacher, folder, tmp_path):
    """Padding changes results, so a picture is not padded to the size of another one."""
    labels = []
    for names in (["4.png"], ["4.png", "wide.png"]):
        root = tmp_path / str(len(names))
        root.mkdir()
        shutil.copy(folder / "4.png", root)
        if len(names) > 1:
            Image.open(folder / "5.png").resize((200, 60)).save(root / names[1])
        run(teacher, root, tmp_path / "pseudo.json")
        annotations = json.loads((tmp_path / "pseudo.json").read_text())["annotations"]
        labels.append([(*a["bbox"], a["score"]) for a in annotations if a["image_id"] == 1])
        (tmp_path / "pseudo.jsonl").unlink()
    assert len(labels[0]) > 1
    np.testing.assert_allclose(labels[1], labels[0], atol=0.02)


def journal_of(whole, tmp_path, kept, damage=""):
    """A journal with the header and ``kept`` pictures, then what a kill may leave."""
    lines = whole.with_suffix(".jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "killed.jsonl").write_text("".join(lines[: 1 + kept]) + damage)
    return tmp_path / "killed.json"


@pytest.mark.parametrize(
    ("kept", "damage"),
    [(-1, '{"teach'), (0, ""), (1, ""), (4, '{"id": 6, "hei'), (5, '{"id": 99}\n'), (6, "\x00\x00\n{}\n"), (7, "{")],
)
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(teacher, folder, whole, tmp_path, kept, damage):
    output = journal_of(whole, tmp_path, kept, damage)
    run(teacher, folder, output)
    assert output.read_bytes() == whole.read_bytes()
    assert output.with_suffix(".jsonl").read_bytes() == whole.with_suffix(".jsonl").read_bytes()


def test_what_is_done_is_not_done_again(teacher, folder, whole, tmp_path, monkeypatch):
    asked = []
    real = Network.__call__
    monkeypatch.setattr(Network, "__call__", lambda self, x: asked.append(len(x)) or real(self, x))
    run(teacher, folder, journal_of(whole, tmp_path, kept=7))
    assert asked == []
    run(teacher, folder, journal_of(whole, tmp_path, kept=5))
    assert asked == [2, 1]  # the batch of the fifth picture is done again as a whole


def test_a_journal_of_another_run_is_refused(teacher, folder, whole, tmp_path):
    more = tmp_path / "more"
    shutil.copytree(folder, more)
    (more / "7.png").write_bytes((folder / "0.png").read_bytes())
    with pytest.raises(UserError, match=r"another run \(its pictures differ\): delete it"):
        run(teacher, more, journal_of(whole, tmp_path, kept=7))


def test_the_fingerprint_is_of_weights_and_config(teacher, trained):
    same = Predictor(small_cfg("CenterNet2_R50_1x", *EAGER, "MODEL.WEIGHTS", trained))
    other = Predictor(small_cfg("CenterNet2_R50_1x", *EAGER, "MODEL.WEIGHTS", trained, "INPUT.MIN_SIZE_TEST", 90))
    assert fingerprint(same) == fingerprint(teacher) != fingerprint(other)
    next(iter(same.model.parameters())).data.view(-1)[0] += 1e-3
    assert fingerprint(same) != fingerprint(teacher)


def test_pictures_by_json_list_and_glob(folder):
    tmp_path = folder.parent
    listed = {"images": [{"id": 40, "file_name": "5.png", "license": 3}, {"id": 2, "file_name": "1.png"}]}
    (tmp_path / "info.json").write_text(json.dumps(listed))
    found = find_unlabelled([str(tmp_path / "info.json")], folder)
    assert [image.record for image in found] == listed["images"]
    assert [image.path for image in found] == [folder / "5.png", folder / "1.png"]
    (tmp_path / "list.txt").write_text("photos/2.png\n\nphotos/0.png\n")
    found = find_unlabelled([str(tmp_path / "list.txt")])
    assert [image.path for image in found] == [folder / "2.png", folder / "0.png"]
    found = find_unlabelled([str(folder / "[12].png")], tmp_path)
    assert [image.record for image in found] == [
        {"id": 1, "file_name": "photos/1.png"}, {"id": 2, "file_name": "photos/2.png"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{}", "no COCO file"),
        ("a.json", '{"images": []}', "lists no image"),
        ("a.json", '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}', "same id"),
        ("a.txt", "\n", "names no picture"),
        ("none.json", None, "cannot be read"),
    ],
)
def test_lists_that_are_none(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        find_unlabelled([str(tmp_path / name)])


def test_a_picture_outside_the_image_folder(folder, tmp_path):
    with pytest.raises(UserError, match="not in the image folder"):
        find_unlabelled([str(folder)], tmp_path / "elsewhere")


def test_the_result_is_read_for_training_with_its_scores(folder, whole):
    name = f"coco_json:{whole}:{folder}"
    ensure_registered([name])
    records = get_detection_dataset_dicts_with_source([name])
    scores = [a["score"] for record in records for a in record["annotations"]]
    assert len(scores) > 6
    assert min(scores) >= 0.1
    DatasetCatalog.remove(name), MetadataCatalog.remove(name)


def test_a_journal_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl", {"teacher": "x"}).resume([1], 2)
