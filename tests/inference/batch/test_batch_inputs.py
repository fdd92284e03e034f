"""Which pictures are found, by every kind of input, and that each is read as the same picture."""

import io
import json
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from centernet.errors import UserError
from centernet.inference.batch.inputs import Columns, list_pictures
from centernet.inference.batch.lists import Listed
from centernet.inference.batch.reading import Reader
from centernet.inference.images import SourceError, load_image

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

COUNT = 40


def encoded(number):
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (12 + number % 5, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty pictures in two sub-folders."""
    root = tmp_path_factory.mktemp("inputs") / "photos"
    for number in range(COUNT):
        file = root / ("even" if number % 2 == 0 else "odd/deep") / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(number))
    return root


def same_pictures(listed, numbers):
    """Whether the listed pictures are read as those with these numbers, by threads, a little out of order."""
    reader = Reader()
    order = sorted(range(len(listed)), key=lambda index: index + random.Random(index).randint(0, 6))
    with ThreadPoolExecutor(3) as pool:
        read = dict(zip(order, pool.map(lambda index: reader.read(listed[index]), order), strict=True))
    for index, number in enumerate(numbers):
        expected = np.asarray(Image.open(io.BytesIO(encoded(number))))[:, :, ::-1]
        np.testing.assert_array_equal(read[index], expected)
    return True


def test_a_folder_with_sub_folders(photos, tmp_path, caplog):
    listed = list_pictures([str(photos)])
    assert [entry.key for entry in listed[:2]] == ["even/00.png", "even/02.png"]
    assert [entry.image_id for entry in listed] == list(range(1, COUNT + 1))
    assert same_pictures(listed, [*range(0, COUNT, 2), *range(1, COUNT, 2)])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(encoded(1))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "2.png").write_bytes(encoded(2))
    (tmp_path / "._3.png").write_bytes(b"")
    (tmp_path / "notes.heic").write_bytes(b"")
    with caplog.at_level("INFO"):
        listed = list_pictures([str(tmp_path)])
    assert [entry.key for entry in listed] == ["1.png", "gone.jpg"] or [entry.key for entry in listed] == [
        "a/1.png",
        "a/gone.jpg",
    ]
    assert "1 files that are no pictures are not looked at (1 .heic)" in caplog.text
    assert "No such file" in str(Reader().read(listed[1]))


def test_names_that_begin_with_a_line(tmp_path, caplog):
    """Cameras call photos _DSC0001.jpg; writers of Parquet call their own notes so."""
    (tmp_path / "_DSC0001.png").write_bytes(encoded(1))
    assert [entry.key for entry in list_pictures([str(tmp_path)])] == ["_DSC0001.png"]
    (tmp_path / "_DSC0001.png").unlink()
    parquet.write_table(arrow.table({"image": [encoded(2)]}), tmp_path / "rows.parquet")
    parquet.write_table(arrow.table({"note": [1]}), tmp_path / "_notes.parquet")
    with caplog.at_level("INFO"):
        assert [entry.key for entry in list_pictures([str(tmp_path)])] == ["rows.parquet#0"]
    assert "1 files that are no Parquet files are not looked at" in caplog.text


def test_lists(photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"even/02.png\n\n{photos}/odd/deep/01.png\n")
    listed = list_pictures([str(tmp_path / "list.txt")], photos)
    assert [(e.image_id, e.key) for e in listed] == [(1, "even/02.png"), (2, f"{photos}/odd/deep/01.png")]
    assert same_pictures(listed, [2, 1])
    images = [{"id": 40, "file_name": "even/04.png", "license": 1}, {"id": 7, "file_name": "even/00.png"}]
    (tmp_path / "info.json").write_text(json.dumps({"images": images}))
    listed = list_pictures([str(tmp_path / "info.json")], photos)
    assert [(e.image_id, e.key) for e in listed] == [(40, "even/04.png"), (7, "even/00.png")]
    assert same_pictures(listed, [4, 0])
    for name in ("list.txt", "info.json"):  # as Windows' editors write it
        before = list_pictures([str(tmp_path / name)], photos)
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
        assert list_pictures([str(tmp_path / name)], photos) == before


@pytest.mark.parametrize("kind", ["bytes", "large bytes", "hugging face"])
def test_parquet_with_bytes(tmp_path, kind):
    content = [encoded(number) for number in range(COUNT)]
    ids = [f"id {number}" for number in range(COUNT)]
    column = {
        "bytes": lambda: arrow.array(content, arrow.binary()),
        "large bytes": lambda: arrow.array(content, arrow.large_binary()),
        "hugging face": lambda: arrow.array([{"bytes": c, "path": "x.png"} for c in content]),
    }[kind]()
    for name, part in (("a", slice(0, 30)), ("b", slice(30, COUNT))):
        table = arrow.table({"label": ["x"] * len(ids[part]), "image_id": ids[part], "picture": column[part]})
        parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=19)
    listed = list_pictures([str(tmp_path)])
    assert [entry.image_id for entry in listed] == ids
    assert [listed[30].key, listed[29].place] == ["b.parquet#0", (1, 10)]
    assert same_pictures(listed, range(COUNT))
    assert [e.image_id for e in list_pictures([str(tmp_path)], None, Columns("picture", "image_id"))] == ids


def test_parquet_with_paths_and_without_ids(photos, tmp_path):
    table = arrow.table({"file_name": ["even/02.png", None, "even/00.png"], "note": ["a", "b", "c"]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    listed = list_pictures([str(tmp_path / "rows.parquet")], photos)
    assert [(entry.image_id, bool(entry.broken)) for entry in listed] == [(1, False), (2, True), (3, False)]
    assert same_pictures([listed[0], listed[2]], [2, 0])
    assert "names no picture" in str(Reader().read(listed[1]))


def test_parquet_that_leaves_questions(tmp_path):
    two = arrow.table({"a": [b"x"], "b": [b"y"], "n": [0.5], "t": ["x"]})
    parquet.write_table(two, tmp_path / "two.parquet")
    for columns, words in [
        (Columns(), "which column holds the pictures"),
        (Columns("c"), "'c' is not there; its columns are a, b, n, t"),
        (Columns("n"), "'n' is neither bytes nor text"),
        (Columns("a", "id"), "id column 'id' is not there"),
        (Columns("a", "n"), "must hold an integer or a text"),
    ]:
        with pytest.raises(UserError, match=words):
            list_pictures([str(tmp_path)], None, columns)
    parquet.write_table(arrow.table({"a": [b"x", b"y"], "id": [3, 3]}), tmp_path / "two.parquet")
    with pytest.raises(UserError, match=r"the same id \(3\)"):
        list_pictures([str(tmp_path)])
    parquet.write_table(arrow.table({"a": [b"x", None], "id": [3, 4]}), tmp_path / "two.parquet")
    listed = list_pictures([str(tmp_path)])
    assert "no known picture format" in str(Reader().read(listed[0]))
    assert "its row has no bytes" in str(Reader().read(listed[1]))
    (tmp_path / "worse.parquet").write_bytes(b"PAR1 and nothing")
    listed = list_pictures([str(tmp_path)])
    assert "worse.parquet cannot be read" in listed[2].broken


def write_tar(file, numbers, mode="w"):
    with tarfile.open(file, mode) as archive:
        for number in numbers:
            for suffix, content in ((".png", encoded(number)), (".json", b"{}")):
                member = tarfile.TarInfo(f"sample/{number:04d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_tar_files(tmp_path):
    write_tar(tmp_path / "a.tar", range(25))
    write_tar(tmp_path / "b.tar", range(25, COUNT))
    listed = list_pictures([str(tmp_path / "*.tar")])
    assert listed[26].key == "b.tar/sample/0026.png"
    assert same_pictures(listed, range(COUNT))
    whole = (tmp_path / "b.tar").read_bytes()
    found = {}
    for name, cut in (("data", 20_000 // 512 * 512 + 700), ("header", 1536 * 5 + 100), ("end", len(whole))):
        (tmp_path / "b.tar").write_bytes(whole.rstrip(b"\0") if name == "end" else whole[: min(cut, len(whole) // 2)])
        found[name] = list_pictures([str(tmp_path)])
        assert "b.tar is damaged" in found[name][-1].broken
        assert sum(bool(entry.broken) for entry in found[name]) == 1
    assert len(found["header"]) < len(found["end"])
    (tmp_path / "a.tar").write_bytes(b"nothing")
    (tmp_path / "b.tar").unlink()
    with pytest.raises(UserError, match="names no picture: tar file"):
        list_pictures([str(tmp_path)])


def test_what_is_refused(photos, tmp_path):
    with pytest.raises(UserError, match="holds no picture"):
        list_pictures([str(tmp_path)])
    write_tar(tmp_path / "a.tar", range(2))
    with pytest.raises(UserError, match="names pictures and tar files: give one kind"):
        list_pictures([str(tmp_path), str(photos)])
    write_tar(tmp_path / "a.tar.gz", range(2), "w:gz")
    with pytest.raises(UserError, match="compressed tar file"):
        list_pictures([str(tmp_path / "a.tar.gz")])
    (tmp_path / "list.txt").write_text("a.png\nb.png\na.png\n")
    with pytest.raises(UserError, match=r"the same name \('a.png'\)"):
        list_pictures([str(tmp_path / "list.txt")])
    for value, words in [("null", "has no 'id'"), ("1.5", "has the 'id' 1.5: give"), ("[2]", r"has the 'id' \[2\]")]:
        (tmp_path / "info.json").write_text(f'{{"images": [{{"id": {value}, "file_name": "a.png"}}]}}')
        with pytest.raises(UserError, match=words):
            list_pictures([str(tmp_path / "info.json")])
    with pytest.raises(UserError, match="info.json is a list of pictures, which is given alone"):
        list_pictures([str(photos), str(tmp_path / "info.json")])
    with pytest.raises(UserError, match="does not exist"):
        list_pictures(["not/here"])


def test_what_changed_since_it_was_listed_is_broken(tmp_path):
    write_tar(tmp_path / "a.tar", range(3))
    listed = list_pictures([str(tmp_path)])
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:600])
    assert "the tar file ends in it" in str(Reader().read(listed[2]))
    (tmp_path / "a.tar").unlink()
    assert "a.tar/sample/0000.png cannot be read: FileNotFoundError" in str(Reader().read(listed[0]))
    gone = Reader().read(Listed(1, "x#0", str(tmp_path / "x.parquet"), (0, 0), "a"))
    assert isinstance(gone, SourceError)


def test_a_broken_picture_of_any_kind_is_a_sentence(load_tool, tmp_path):
    benchmark = load_tool("benchmarks/batch_predict")
    bad = benchmark.write_pictures(tmp_path, 5, 12)
    listed = list_pictures([str(tmp_path)])
    assert len(listed) == 17
    reader = Reader()
    broken = {entry.key: str(read) for entry in listed if isinstance(read := reader.read(entry), SourceError)}
    assert set(broken) == bad
    assert all("\n" not in sentence and len(sentence) < 300 for sentence in broken.values())
    good = next(entry for entry in listed if entry.key not in bad)
    np.testing.assert_array_equal(reader.read(good), load_image(good.file))
