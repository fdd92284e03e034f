"""docs/INFERENCE.md: its code runs, its links lead somewhere, its table has every option."""

import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import centernet
from centernet import model_zoo

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from file_server import serving  # noqa: E402

GUIDE = (ROOT / "docs" / "INFERENCE.md").read_text("utf-8")
SMALL = "CenterNet2_R18_digits"  # in the place of ResNet-50, and with smaller pictures
SIZES = ["INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 128, "TEST.DETECTIONS_PER_IMAGE", 9, "MODEL.DEVICE", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the guide names."""
    cfg = model_zoo.get_config(SMALL, [str(word) for word in SIZES])
    torch.manual_seed(0)
    state = {"model": model_zoo.get(SMALL, trained=False, device="cpu").state_dict()}
    mine, zoo = tmp_path / "output" / "mine", tmp_path / "zoo"
    mine.mkdir(parents=True)
    zoo.mkdir()
    (mine / "config.yaml").write_text(cfg.dump())
    torch.save(state, mine / "model_final.pth")
    torch.save(state, zoo / f"{SMALL}.pth")
    monkeypatch.setenv("CENTERNET_WEIGHTS", str(zoo))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for number, name in enumerate(("street", "park")):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_runs_from_top_to_bottom(folder: Path) -> None:
    pytest.importorskip("supervision")
    pytest.importorskip("pandas")
    scope: dict[str, object] = {}
    with serving() as server:
        server.files["street.jpg"] = (folder / "street.jpg").read_bytes()
        for block in re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL):
            if "broken.jpg" in block:
                (folder / "broken.jpg").write_text("hello")
            code = block.replace("CenterNet2_R50_1x", SMALL).replace("https://example.org", server.url)
            exec(compile(code, "docs/INFERENCE.md", "exec"), scope)
    for name in ("street_found.jpg", "found.png", "found.json", "found.csv"):
        assert (folder / name).stat().st_size > 20
    assert scope["drawn"].shape == (90, 120, 3)


def test_every_option_is_in_the_table() -> None:
    options = [
        name
        for name, parameter in inspect.signature(centernet.Predictor).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    assert re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE) == options


def test_links() -> None:
    for name, place in re.findall(r"\]\(([\w./]*)#?([\w-]*)\)", GUIDE):
        text = (ROOT / "docs" / name).read_text("utf-8")
        headings = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        assert not place or place in headings, place
    for path in re.findall(r"`((?:tools/)?\w+\.py)`", GUIDE):
        assert (ROOT / path).is_file(), path
