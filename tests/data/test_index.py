"""The index: item by item what detectron2 loads, the same draws, one build, and never a wrong or a broken one."""

import json
import logging
import multiprocessing
import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.data.build import filter_images_with_few_keypoints, filter_images_with_only_crowd_annotations
from detectron2.data.datasets import load_coco_json, load_lvis_json, register_coco_instances
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.data import build_test_loader, build_train_loader, index, index_build, index_file
from centernet.data.datasets import open_dataset
from centernet.data.index import Records, open_index
from centernet.data.loader import _load_records, _orientations, _report_classes, get_detection_dataset_dicts_with_source
from centernet.data.mapper import MappedDataset
from centernet.data.samplers import class_aware_weights, repeat_factors
from centernet.errors import UserError

DATA = Path(os.environ.get("CENTERNET_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
REAL = [*DATA.glob("coco_mini/annotations/instances_*.json"), *DATA.glob("bccd/annotations/*.json")]
REAL_LVIS = sorted(DATA.glob("lvis_mini/annotations/*.json"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(logging.getLogger("centernet"), "propagate", True)  # a training before may have ended it
    before = set(MetadataCatalog.list())
    yield tmp_path / "cache" / "index"
    for name in set(MetadataCatalog.list()) - before:
        MetadataCatalog.remove(name)


def told_by_file(caplog):
    return [r for r in caplog.records if r.name == "centernet.data.index_file" and r.levelname == "WARNING"]


def identical(a, b):
    """Equal, and integers where integers are: detectron2 rounds boxes of integers when it resizes them."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and (a == b or a != a)


def random_number(rng, high):
    return rng.choice([rng.randrange(high), round(rng.uniform(0, high), 2)])


def random_segmentation(rng, height, width):
    kind = rng.randrange(5)
    if kind == 0:
        return {"size": [height, width], "counts": [height * width - 7, 7]}
    if kind == 1:
        return {"size": [height, width], "counts": "PPYo0"}
    sizes = [2 * rng.randrange(3, 7) for _ in range(rng.randrange(1, 3))]
    if kind == 2:
        sizes.append(rng.choice([4, 7]))  # no polygon
    if kind == 3:
        return [[1.0, 2.0, 3.0, 4.0]] if rng.random() < 0.5 else []
    return [[random_number(rng, width) for _ in range(size)] for size in sizes]


def random_coco(seed, images=12, annotations=40, *, odd=False):
    """A COCO JSON with everything that detectron2 accepts."""
    rng = random.Random(seed)
    ids = rng.sample(range(-5, 10**12), images)
    categories = [{"id": number, "name": f"class {number}"} for number in rng.sample(range(1, 90), 5)]
    content = {"info": {"annotations": [1]}, "images": [], "annotations": [], "categories": categories}
    for number in ids:
        size = {"height": rng.randrange(20, 99), "width": rng.randrange(20, 99)}
        content["images"].append({"id": number, "file_name": f"ü/{number}\\ \ud83d\ude00.png", **size, "licence": None})
    for number in rng.sample(range(10**9), annotations):
        image = rng.choice(content["images"])
        entry = {"id": number, "image_id": image["id"], "category_id": rng.choice(categories)["id"], "area": 3}
        entry["bbox"] = [random_number(rng, 50) for _ in range(4)]
        if rng.random() < 0.8:
            entry["iscrowd"] = int(rng.random() < 0.3)
        if rng.random() < 0.6:
            entry["segmentation"] = random_segmentation(rng, image["height"], image["width"])
        if rng.random() < 0.4:
            entry["keypoints"] = [random_number(rng, 50) if k % 3 < 2 else rng.randrange(3) for k in range(9)]
        if rng.random() < 0.5:
            entry["score"] = rng.random()
        if rng.random() < 0.05:
            entry["image_id"] = 10**13  # of no image
        content["annotations"].append(entry)
    if odd:
        entry = rng.choice(content["annotations"])
        entry.update(rng.choice([{"bbox": [1, 2, True, 4]}, {"iscrowd": 2}, {"iscrowd": False}, {"bbox": [1.5] * 5}]))
        rng.choice(content["images"]).update(rng.choice([{"height": 10.5}, {"width": "40"}, {"height": 2**40}]))
    keys = list(content)
    rng.shuffle(keys)
    return {key: content[key] for key in keys}


def random_lvis(seed, images=8, annotations=30):
    rng = random.Random(seed)
    content = random_coco(seed, images, annotations)
    for image in content["images"]:
        image["coco_url"] = f"http://images/train2017/{abs(image['id']):012d}.jpg"
        image["neg_category_ids"] = rng.sample(range(1, 1204), 3)
        if rng.random() < 0.5:
            image["not_exhaustive_category_ids"] = rng.sample(range(1, 1204), 2)
    for entry in content["annotations"]:
        entry["category_id"] = rng.randrange(1, 1204)
        entry["segmentation"] = [[random_number(rng, 50) for _ in range(8)]]
        entry["score"] = 0.5
    return content


def write(folder, content, name="labels.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / name)


def both(json_file, name, *, lvis=False, keys=()):
    load = load_lvis_json if lvis else load_coco_json
    root = "root/" if lvis else "root"
    expected = load(json_file, root, name, extra_annotation_keys=list(keys))
    metadata = MetadataCatalog.get(name).as_dict()
    MetadataCatalog.remove(name)
    records = open_index(json_file, root, name, lvis=lvis, extra_annotation_keys=keys)
    assert MetadataCatalog.get(name).as_dict() == metadata
    MetadataCatalog.remove(name)
    return expected, records


# ------------------------------------------------------------------------------------------------------------- content


@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([(), ("score",)]))
@settings(deadline=None, max_examples=60)
def test_items_are_those_of_load_coco_json(tmp_path_factory, seed, odd, keys):
    file = write(tmp_path_factory.mktemp("coco"), random_coco(seed, odd=odd))
    for expected, records in (both(file, "random", keys=keys), both(file, "random", keys=keys)):  # built, then read
        assert isinstance(records, Records)
        assert len(records) == len(expected)
        for item, reference in zip(records, expected, strict=True):
            assert identical(item, reference)


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_items_are_those_of_load_lvis_json(tmp_path_factory, seed):
    file = write(tmp_path_factory.mktemp("lvis"), random_lvis(seed))
    for expected, records in (both(file, "lvis_v1_x", lvis=True, keys=("score",)), both(file, "lvis_v1_x", lvis=True)):
        assert all(map(identical, records, expected))
        assert len(records) == len(expected) == 8


def test_lvis_with_the_classes_of_coco(tmp_path):
    content = random_lvis(3)
    for entry in content["annotations"]:
        entry["category_id"] = 90  # number 79 of COCO's classes
    expected, records = both(write(tmp_path, content), "lvis_v0.5_x_cocofied", lvis=True)
    assert all(map(identical, records, expected))
    assert records.image_classes()[1].tolist() == [79] * len(records.image_classes()[0])


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_files(path):
    expected, records = both(str(path), "real")
    assert len(records) == len(expected)
    assert all(map(identical, records, expected))


@pytest.mark.parametrize("path", REAL_LVIS, ids=lambda path: path.name)
def test_real_lvis_files(path):
    expected, records = both(str(path), "lvis_v0.5_real", lvis=True)
    assert len(records) == len(expected)
    assert all(map(identical, records, expected))


def test_ordinary_files_are_streamed(tmp_path):
    # both() would pass with detectron2's loader behind every index
    file = Path(write(tmp_path, random_coco(1)))
    assert len(index_build.stream_coco(file, "", ()).arrays["image_id"]) == 12
    file = Path(write(tmp_path, random_lvis(1)))
    assert len(index_build.stream_lvis(file, "", (), None).arrays["image_id"]) == 8


@pytest.mark.parametrize("space", ["", " ", "\n\t"])
def test_white_space(tmp_path, space):
    text = json.dumps(random_coco(2), indent=1, separators=(f"{space},{space}", f"{space}:{space}"))
    expected, records = both(write(tmp_path, f"{space}{text}{space}"), "space")
    assert all(map(identical, records, expected))


def test_files_without_annotations_or_images(tmp_path):
    content = random_coco(0)
    content["annotations"] = []
    expected, records = both(write(tmp_path, content), "bare")
    assert list(records) == expected
    assert not records.has_objects().any()
    assert class_aware_weights(records).tolist() == [0] * 12
    del content["annotations"]
    expected, records = both(write(tmp_path, content, "none.json"), "bare")
    assert list(records) == expected
    content["images"] = []
    assert list(both(write(tmp_path, content, "empty.json"), "bare")[1]) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["annotations"].append(content["annotations"][0]),
        lambda content: content["annotations"][0].pop("id"),
        lambda content: content["annotations"][0].pop("category_id"),
        lambda content: content["annotations"][0].update(ignore=1, image_id=content["images"][0]["id"]),
        lambda content: content["annotations"][0].update(bbox=[], image_id=content["images"][0]["id"]),
        lambda content: content["annotations"][0].update(category_id=99, image_id=content["images"][0]["id"]),
        lambda content: content["images"][0].pop("height"),
        lambda content: content["images"][0].update(id="a"),
        lambda content: content.pop("categories"),
        lambda content: content["categories"][0].pop("name"),
    ],
)
def test_errors_are_detectron2s(tmp_path, change, cache):
    content = random_coco(4)
    for entry in content["annotations"]:
        entry.pop("segmentation", None)
    change(content)
    file = write(tmp_path, content)
    with pytest.raises((AssertionError, KeyError, ValueError, TypeError)) as expected:
        load_coco_json(file, "root", "bad")
    MetadataCatalog.remove("bad") if "bad" in MetadataCatalog.list() else None
    with pytest.raises(expected.type) as caught:
        open_index(file, "root", "bad")
    assert str(caught.value) == str(expected.value)
    assert not list(cache.glob("*.index"))


@given(st.binary(max_size=6), st.integers(0, 10**6), st.integers(0, 8))
@settings(deadline=None, max_examples=60)
def test_broken_text_is_detectron2s_matter(tmp_path_factory, junk, position, cut):
    text = json.dumps(random_coco(5, 3, 4)).encode()
    at = position % len(text)
    file = tmp_path_factory.mktemp("broken") / "labels.json"
    file.write_bytes(text[:at] + junk + text[at + cut :])
    outcomes = []
    for load in (load_coco_json, open_index):
        try:
            outcomes.append(list(load(str(file), "root", "broken")))
        except Exception as error:
            outcomes.append((type(error), str(error)))
        if "broken" in MetadataCatalog.list():
            MetadataCatalog.remove("broken")
    assert identical(*outcomes) or outcomes[0] == outcomes[1]


# ------------------------------------------------------------------------------------------------- all images at once


def joined(tmp_path, seed, count=2):
    parts, lists = [], []
    for number in range(count):
        file = write(tmp_path, random_coco(seed + number, 30, 90), f"{seed}-{number}.json")
        expected, records = both(file, "part")
        parts.append(records)
        lists += [{**record, "dataset_source": number} for record in expected]
    return Records.join(parts), lists


@pytest.mark.parametrize("seed", range(4))
def test_filters_and_weights_are_those_of_the_lists(tmp_path, seed):
    records, dicts = joined(tmp_path, 10 * seed)
    kept, kept_dicts = records.select(records.has_objects()), filter_images_with_only_crowd_annotations(dicts)
    assert 0 < len(kept) < len(records)
    assert list(kept) == kept_dicts
    few = records.select(records.visible_keypoints() >= 3)
    assert 0 < len(few) < len(records)
    assert list(few) == filter_images_with_few_keypoints(dicts, 3)
    for some, reference in ((records, dicts), (kept, kept_dicts)):
        np.testing.assert_array_equal(class_aware_weights(some), class_aware_weights(reference))
        np.testing.assert_array_equal(class_aware_weights(some, 0.7), class_aware_weights(reference, 0.7))
        for threshold in (0.01, 0.5, 1.7):
            np.testing.assert_array_equal(repeat_factors(some, threshold), repeat_factors(reference, threshold))
        np.testing.assert_array_equal(_orientations(some), _orientations(reference))
        np.testing.assert_array_equal(some.sources, [record["dataset_source"] for record in reference])
        objects = [a["category_id"] for r in reference for a in r["annotations"] if not a.get("iscrowd", 0)]
        np.testing.assert_array_equal(some.class_counts(5), np.bincount(objects, minlength=5))


def test_weights_of_many_classes_an_image_are_summed_exactly(tmp_path):
    rng = random.Random(0)
    content = random_coco(0, 40, 900)
    content["categories"] = [{"id": number, "name": str(number)} for number in range(1, 60)]
    for entry in content["annotations"]:
        entry["category_id"] = min(rng.randrange(1, 60), rng.randrange(1, 60))
        entry.pop("segmentation", None)
    expected, records = both(write(tmp_path, content), "many")
    np.testing.assert_array_equal(class_aware_weights(records), class_aware_weights(expected))


def test_a_record_can_be_chosen_twice(tmp_path):
    records, dicts = joined(tmp_path, 70)
    chosen = np.array([59, 3, 3, 40, 0])
    some, reference = records.select(chosen), [dicts[k] for k in chosen]
    assert list(some) == reference
    np.testing.assert_array_equal(class_aware_weights(some), class_aware_weights(reference))
    objects = [a["category_id"] for r in reference for a in r["annotations"] if not a.get("iscrowd", 0)]
    np.testing.assert_array_equal(some.class_counts(5), np.bincount(objects, minlength=5))


def test_it_is_a_sequence(tmp_path):
    records, dicts = joined(tmp_path, 80)
    assert records[-1] == dicts[-1]
    assert list(records[5:30:7]) == dicts[5:30:7]
    assert [record["image_id"] for record in reversed(records)] == [record["image_id"] for record in reversed(dicts)]
    assert dicts[8] in records
    for index_ in (60, -61):
        with pytest.raises(IndexError):
            records[index_]
    first = records[0]
    first["annotations"].append(1)
    assert records[0] == dicts[0]  # each access makes a dict of its own


def test_unusual_sizes_are_an_error_of_grouping_only(tmp_path):
    content = random_coco(3)
    content["images"][4]["width"] = 40.5
    expected, records = both(write(tmp_path, content), "odd")
    assert records.sizes() is None
    np.testing.assert_array_equal(_orientations(records), _orientations(expected))


# ------------------------------------------------------------------------------------------------------ on the disk


def test_it_is_built_once_and_again_after_a_change(tmp_path, cache, monkeypatch):
    builds = []
    stream = index_build.stream_coco
    monkeypatch.setattr(index, "stream_coco", lambda *args: builds.append(args) or stream(*args))
    file = write(tmp_path, random_coco(1))
    first = list(open_index(file, "root", "own"))
    assert list(open_index(file, "root", "own")) == first
    assert len(builds) == 1
    stamp = os.stat(file).st_mtime_ns
    os.utime(file, ns=(stamp, stamp + 1))  # the same content
    open_index(file, "root", "own")
    assert len(builds) == 2
    text = Path(file).read_text()
    Path(file).write_text(text.replace('"licence": null', '"licence": 1234'))  # as long as before
    os.utime(file, ns=(stamp, stamp + 1))
    open_index(file, "root", "own")
    assert len(builds) == 3
    assert len(list(cache.glob("*.index"))) == 1
    other = open_index(file, "elsewhere", "own")
    assert other[0]["file_name"].startswith("elsewhere/")
    assert list(open_index(file, "root", "own", extra_annotation_keys=("score",))) != first
    assert len(builds) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "header", "longer", "foreign"])
def test_a_damaged_index_is_made_anew(tmp_path, cache, caplog, damage):
    file = write(tmp_path, random_coco(1))
    expected = list(open_index(file, "root", "own"))
    (path,) = cache.glob("*.index")
    whole = path.read_bytes()
    for attempt in range(1 if damage in ("empty", "foreign", "longer") else 12):
        at = random.Random(attempt).randrange(len(whole))
        flipped = bytes([whole[at] ^ 1 << attempt % 8])
        header = bytes([whole[at % 300] ^ 255])
        path.write_bytes(
            {
                "cut": whole[:at],
                "empty": b"",
                "flip": whole[:at] + flipped + whole[at + 1 :],
                "header": whole[: at % 300] + header + whole[at % 300 + 1 :],
                "longer": whole + b"\0",
                "foreign": b"PK\3\4" * 99,
            }[damage]
        )
        caplog.clear()
        assert list(open_index(file, "root", "own")) == expected
        assert len(told_by_file(caplog)) == 1
        assert "is damaged" in caplog.text
        assert path.read_bytes() == whole


def test_without_a_place_to_write(tmp_path, monkeypatch, caplog):
    file = write(tmp_path, random_coco(1))
    (tmp_path / "occupied").write_text("")  # a file where the folder should go; permissions do not stop root
    monkeypatch.setenv("CENTERNET_CACHE", str(tmp_path / "occupied"))
    expected, records = both(file, "own")
    assert list(records) == expected
    assert len(told_by_file(caplog)) == 1
    assert "working without it" in caplog.text
    assert list(pickle.loads(pickle.dumps(records))) == expected


def test_a_full_disk(tmp_path, monkeypatch, caplog, cache):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_file.os, "fsync", full)
    expected, records = both(write(tmp_path, random_coco(1)), "own")
    assert list(records) == expected
    assert "No space left on device" in caplog.text
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_indices_of_files_that_are_gone_are_deleted(tmp_path, cache):
    gone = write(tmp_path, random_coco(1), "gone.json")
    open_index(gone, "root", "own")
    (old,) = cache.glob("*.index")
    Path(gone).unlink()
    open_index(write(tmp_path, random_coco(2)), "root", "other")
    assert not old.exists()
    assert len(list(cache.glob("*.index"))) == 1


def _open_in_process(file, barrier, results):
    built = []
    stream = index.stream_coco
    index.stream_coco = lambda *args: (built.append(1), time.sleep(0.5), stream(*args))[-1]
    barrier.wait()
    results.put((len(built), len(open_index(file, "root", "own")), len(built)))


def test_processes_at_once_build_once(tmp_path):
    file = write(tmp_path, random_coco(1))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_open_in_process, args=(file, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(after for _, _, after in outcomes) == 1
    assert {length for _, length, _ in outcomes} == {12}


# --------------------------------------------------------------------------------------------------------- in loaders


def test_sending_to_a_worker_is_cheap_and_finds_the_same_file(tmp_path, cache):
    file = write(tmp_path, random_coco(1, 400, 4000))
    records = open_index(file, "root", "own")
    sent = pickle.dumps(MappedDataset(records, str))
    assert len(sent) < 4_000
    assert list(pickle.loads(sent).dicts) == list(records)
    before = list(records)
    write(tmp_path, random_coco(2))
    open_index(file, "root", "other")
    assert list(records) == before  # whoever has the old one keeps it
    with pytest.raises(RuntimeError, match="was replaced"):
        pickle.loads(sent)


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler", "ClassAwareSampler"])
def test_loaders_give_what_they_gave_without_an_index(small_cfg, monkeypatch, sampler):
    small_cfg.DATALOADER.SAMPLER_TRAIN = sampler
    small_cfg.DATALOADER.REPEAT_THRESHOLD = 0.9

    def batches():
        loaders = build_train_loader(small_cfg, seed=3), build_test_loader(small_cfg, small_cfg.DATASETS.TEST[0])
        taken = [next(iter(loaders[0])) for _ in range(2)] + list(loaders[1])
        pixels = [[(d["image_id"], d["image"].sum().item()) for d in batch] for batch in taken]
        return pixels, [type(loader.dataset.dicts) for loader in loaders]

    indexed, kinds = batches()
    assert kinds == [Records, Records]
    monkeypatch.setattr("centernet.data.loader.open_dataset", DatasetCatalog.get)
    listed, kinds = batches()
    assert kinds == [DatasetFromList, DatasetFromList]
    assert indexed == listed


def test_which_registrations_have_an_index(write_coco, forget_datasets, tmp_path):
    _, labels, images = write_coco().split(":")
    register_coco_instances("by_detectron2", {}, labels, images)
    assert isinstance(open_dataset("by_detectron2"), Records)
    assert list(open_dataset("by_detectron2")) == DatasetCatalog.get("by_detectron2")

    DatasetCatalog.register("by_user", lambda: load_coco_json(labels, images, "by_user")[:4])
    MetadataCatalog.get("by_user").set(json_file=labels, image_root=images, evaluator_type="coco")
    assert type(open_dataset("by_user")) is list
    mixed = _load_records(["by_detectron2", "by_user"])
    assert [record["dataset_source"] for record in mixed] == [0] * 10 + [1] * 4
    plain = get_detection_dataset_dicts_with_source("by_detectron2")
    assert type(plain) is list
    assert plain == list(_load_records("by_detectron2"))


def test_builtin_datasets_have_an_index():
    from centernet.data.datasets.registration import JsonSource, _builtin_source

    for name, lvis in {"coco_2017_train": False, "keypoints_coco_2017_val": False, "lvis_v1_train": True}.items():
        source = _builtin_source(name, DatasetCatalog[name])
        assert (source.json_file, source.lvis) == (MetadataCatalog.get(name).json_file, lvis)
    for name in ("objects365_train", "nuimages_train", "digits_train", "coco_un_yolov4_55_0.5"):
        assert isinstance(DatasetCatalog[name], JsonSource)
    for name in ("coco_2017_val_panoptic_separated", "voc_2007_train"):
        assert _builtin_source(name, DatasetCatalog[name]) is None


def test_more_classes_than_the_metadata_tells(tmp_path, forget_datasets):
    lvis = random_lvis(0)
    lvis["annotations"][0]["category_id"] = 5000
    lvis["annotations"][0]["image_id"] = lvis["images"][0]["id"]
    records = both(write(tmp_path, lvis), "lvis_v1_x", lvis=True)[1]
    assert len(records.class_counts(1203)) == 5000
    DatasetCatalog.register("too_few", list)
    MetadataCatalog.get("too_few").set(thing_classes=[str(number) for number in range(1203)])
    with pytest.raises(UserError, match="class number 4999, but there are 1203"):
        _report_classes(["too_few"], records)
