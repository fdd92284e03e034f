"""The page in a real browser: headless Chromium, nothing but this machine."""

import base64
import io
import json
import re
import shutil
import socket
import time
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from centernet.errors import UserError
from centernet.inference.web import start_page

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
WAIT = 60_000  # milliseconds; a loaded machine is slow


@pytest.fixture(scope="module")
def address(configs):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -e '.[web]'")
    page = start_page(configs, threshold=0.2)
    yield page.local_url
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A tab that has opened the page and notes what goes wrong."""

    def __init__(self, browser, address, width=1280):
        self.tab = browser.new_page(viewport={"width": width, "height": 900})
        self.tab.set_default_timeout(WAIT)
        self.errors, self.requests = [], []
        self.tab.on("console", lambda line: line.type == "error" and self.errors.append(line.text))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(address)
        self.tab.wait_for_selector("#threshold input[type=range]")

    def close(self):
        assert self.errors == []
        self.tab.close()

    def bring(self, *paths):
        if self.tab.locator("#files button[aria-label='Clear']").count():
            self.tab.locator("#files button[aria-label='Clear']").click()
            self.tab.wait_for_selector("#files input[type=file]", state="attached")
        self.tab.set_input_files("#files input[type=file]", list(paths))

    def rows(self):
        return self.tab.locator("#found tbody tr").count()

    def pixels(self):
        script = """async () => {
            const blob = await (await fetch(document.querySelector('#picture img').src)).blob();
            const bytes = new Uint8Array(await blob.arrayBuffer());
            return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
        }"""
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(self.tab.evaluate(script)))).convert("RGB"), int)

    def until(self, seen, wanted, what):
        """Wait until ``wanted(seen())``."""
        end = time.monotonic() + WAIT / 1000
        while not wanted(value := seen()):
            assert time.monotonic() < end, what
            self.tab.wait_for_timeout(100)
        return value

    def move_threshold(self, value):
        self.tab.locator("#threshold input[type=range]").fill(str(value))


def scores_of(table):
    return [float(row[1]) for row in table]


def test_upload_threshold_heatmap_stages_download(browser, address, files):
    visitor = Visitor(browser, address)
    tab = visitor.tab
    assert tab.title() == "CenterNet2"
    assert "square root" not in tab.inner_text("#explanation")
    assert "P(class | object)" in tab.inner_text("#explanation")

    visitor.bring(files["good"])
    tab.wait_for_selector("#found tbody tr")
    assert "good.png, 120 x 90 pixels; small took" in tab.inner_text("#message")
    visitor.move_threshold(0.05)
    everything = visitor.until(lambda: tab.inner_text("#found caption"), lambda text: "0.05" in text, "slider at 0.05")
    total = int(re.match(r"(\d+) of (\d+) detections", everything)[1])
    assert visitor.rows() == total > 3
    table = [tab.locator("#found tbody tr").nth(n).locator("td").all_inner_texts() for n in range(total)]
    middle = sorted(scores_of(table))[total // 2] + 0.01
    before = visitor.pixels()
    visitor.move_threshold(f"{middle:.2f}")
    fewer = visitor.until(visitor.rows, lambda count: count < total, "rows fall with the threshold")
    assert fewer == sum(score >= round(middle, 2) for score in scores_of(table))
    plain = visitor.until(visitor.pixels, lambda now: (now != before).any(), "boxes go with the threshold")

    tab.check("#heatmap input")
    changed = visitor.until(
        lambda: np.abs(visitor.pixels() - plain).max(axis=2), lambda now: now.max() > 60, "the heatmap is seen"
    )
    assert (changed > 20).mean() > 0.1
    assert "P(object)" not in tab.inner_text("#found thead")
    tab.check("#stages input")
    visitor.until(lambda: tab.inner_text("#found thead"), lambda text: "P(object)" in text, "columns of the stages")

    with tab.expect_download() as download:
        tab.click("#save")
    content = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "detections.json"
    assert content["model"] == "small"
    assert [one["file"] for one in content["pictures"]] == ["good.png"]
    assert len(content["pictures"][0]["detections"]) == visitor.rows()

    assert visitor.errors == []
    foreign = [url for url in visitor.requests if not url.startswith((address, "data:", "blob:"))]
    assert foreign == [], "the page asks nobody but its own server"


def test_mistakes_are_sentences_on_the_page(browser, address, files):
    visitor = Visitor(browser, address, width=400)
    tab = visitor.tab
    visitor.bring(files["broken"])
    alert = tab.wait_for_selector("#message [role=alert]")
    assert alert.is_visible()
    assert alert.inner_text() == "Picture broken.png cannot be read: it is empty or of no known picture format."
    assert not tab.locator("#picture").is_visible()

    visitor.bring(files["broken"], files["good"], files["other"])
    tab.wait_for_selector("#found tbody tr")
    assert "2 pictures" in tab.inner_text("#message")
    assert "broken.png cannot be read" in tab.inner_text("#message")
    first = visitor.pixels()
    tab.locator("#number input[type=range]").fill("2")
    visitor.until(visitor.pixels, lambda now: now.shape != first.shape, "another picture")

    tab.check("#stages input")
    visitor.until(lambda: tab.inner_text("#found thead"), lambda text: "P(object)" in text, "columns of the stages")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400, "nothing sticks out of a narrow screen"

    tab.click("#model input")
    tab.get_by_role("option", name="without").click()
    visitor.until(lambda: tab.inner_text("#message"), lambda text: "has no weights" in text, "a model without weights")
    visitor.until(visitor.rows, lambda count: count == 0, "no rows of another model")
    assert "Traceback" not in tab.content()
    assert visitor.errors == []


def test_examples_and_two_visitors(browser, address, files):
    first, second = Visitor(browser, address), Visitor(browser, address)
    if not first.tab.locator("#examples button.thumbnail-item").count():
        pytest.skip("scikit-learn or scikit-image is not installed")
    first.tab.locator("#examples button.thumbnail-item").nth(1).click()
    second.bring(files["good"])
    for visitor in (first, second):
        visitor.tab.wait_for_selector("#picture img")
    assert "good.png" in second.tab.inner_text("#message")
    assert "good.png" not in first.tab.inner_text("#message")
    assert first.errors == second.errors == []


def test_a_port_that_is_taken_is_one_sentence(configs):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port} cannot be used \(.*\): give another one"):
            start_page(configs, port=port)
    with pytest.raises(UserError, match="--port 99999 does not exist"):
        start_page(configs, port=99999)
    with pytest.raises(UserError, match="--host nowhere.invalid is no address"):
        start_page(configs, host="nowhere.invalid")
