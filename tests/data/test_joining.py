"""Joining sources: the split is a pure function of seed and names, parts stay apart, classes keep their order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from centernet.data.joining import hold_out, join_sources, validation_names
from centernet.data.readers import Problems, Source
from centernet.errors import UserError

NAMES = st.lists(st.text("abcdefg/.", min_size=1, max_size=6), min_size=2, max_size=40, unique=True)


@given(NAMES, st.floats(0.01, 0.99), st.integers(0, 5), st.randoms())
def test_draw_depends_on_names_and_seed_only(names, fraction, seed, random):
    drawn = validation_names(names, fraction, seed)
    shuffled = random.sample(names, len(names))
    assert drawn == validation_names(shuffled, fraction, seed) <= set(names)
    assert 1 <= len(drawn) < len(names)
    assert abs(len(drawn) - fraction * len(names)) <= 1


def test_draw_is_what_it_was():
    """A fixed answer: another draw would silently change what people's scores are measured on."""
    names = [f"{number}.jpg" for number in range(20)]
    assert sorted(validation_names(names, 0.2, 0)) == EXPECTED
    assert validation_names(names, 0.2, 1) != set(EXPECTED)
    assert validation_names(names, 0.1, 0) < set(EXPECTED)
    assert not validation_names(names, 0, 0)


EXPECTED = ["18.jpg", "2.jpg", "3.jpg", "4.jpg"]


def test_one_image_cannot_be_split():
    with pytest.raises(UserError, match="one image only"):
        validation_names(["a.jpg"], 0.5, 0)


def source(folder, classes, declared=True, **parts):
    """A source; parts are given as ``train="ab"``: one image a letter, with one box of the first class."""
    made = Source(folder, "COCO", list(classes), declared)
    for part, names in parts.items():
        made.parts[part] = [
            {"file_name": str(folder / name), "name": name, "height": 9, "width": 9}
            | {"annotations": [{"bbox": [0, 0, 5, 5], "category_id": 0, "iscrowd": 0}]}
            for name in names
        ]
    return made


def join(*sources, **options):
    problems = Problems()
    joined = join_sources(list(sources), problems)
    hold_out(joined, problems, **{"fraction": 0.25, "seed": 0, **options})
    return joined, problems


def names(records):
    return "".join(record["name"] for record in records)


def test_a_validation_part_is_used_and_a_test_part_left_alone(tmp_path):
    joined, problems = join(source(tmp_path, ["x"], train="abc", val="de", test="f"))
    assert (names(joined.train), names(joined.val), joined.drawn) == ("abc", "de", None)
    assert problems.notes() == ["part-unused"]


@pytest.mark.parametrize("part", ["val", "test", "all"])
def test_a_single_part_is_split(tmp_path, part):
    joined, problems = join(source(tmp_path, ["x"], **{part: "abcdefgh"}))
    assert (len(joined.train), len(joined.val)) == (6, 2)
    assert sorted(names(joined.train) + names(joined.val)) == list("abcdefgh")
    assert joined.drawn == sorted(names(joined.val))
    assert not problems.found


def test_an_earlier_draw_is_kept_and_new_images_are_trained_on(tmp_path):
    joined, _ = join(source(tmp_path, ["x"], all="abcdefgh"), earlier=["b", "gone"], fraction=0.9)
    assert (names(joined.train), names(joined.val)) == ("acdefgh", "b")


def test_classes_of_a_collected_list_extend_it(tmp_path):
    joined, problems = join(
        source(tmp_path / "1", ["b", "c"], declared=False, all="ab"),
        source(tmp_path / "2", ["a", "c"], declared=False, all="cd"),
    )
    assert joined.classes == ["b", "c", "a"]
    assert not problems.errors()
    assert {r["annotations"][0]["category_id"] for r in joined.train + joined.val if r["name"] in "cd"} == {2}


def test_same_file_from_two_sources(tmp_path):
    one, two = source(tmp_path, ["x"], train="ab"), source(tmp_path, ["x"], train="b", val="ac")
    joined, problems = join(one, two)
    assert (names(joined.train), names(joined.val)) == ("b", "ac")
    assert {kind: problems.count(kind) for kind in problems.found} == {"image-in-both-parts": 1, "image-file-twice": 1}


def test_class_that_only_validation_has(tmp_path):
    data = source(tmp_path, ["x", "y", "z"], train="a", val="b")
    data.parts["val"][0]["annotations"][0]["category_id"] = 1
    _, problems = join(data)
    assert problems.found == {"class-not-in-training": ["y"], "class-without-box": ["z"]}
