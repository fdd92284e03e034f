"""What the page does, without a browser."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_models import small_cfg

from centernet.errors import UserError
from centernet.inference import Predictor
from centernet.inference.web import ModelShelf, pictures
from centernet.inference.web.callbacks import PageActions, Visit
from centernet.inference.web.drawing import draw_findings
from centernet.inference.web.findings import LOWEST_SCORE, Findings, class_probabilities
from centernet.inference.web.markup import explain_score


def rows(html):
    return html.count("<tr>") - 1  # without the head's


def words(html):
    return re.sub(r"<[^>]+>", "", html)


def test_the_model_runs_once_and_the_threshold_filters(actions, files, cfg, picture):
    visit = actions.detect_uploads("small", [files["good"]]).visit
    everything = Predictor(cfg, threshold=LOWEST_SCORE)(picture)
    scores = everything.scores.numpy()
    assert len(scores) > 3
    middle = float(np.median(scores))
    actions.shelf.get = None  # whoever asks the model again fails
    low, high = (actions.view(visit, 1, threshold, False, False) for threshold in (LOWEST_SCORE, middle))
    assert rows(low.found) == len(scores)
    assert rows(high.found) == int((scores >= middle).sum()) < len(scores)
    assert (low.picture != high.picture).any()
    assert actions.view(visit, 1, 1.0, False, False).found.count("<td") == 0


def test_the_file_of_results(actions, files, cfg, picture):
    visit = actions.detect_uploads("small", [files["good"], files["other"]]).visit
    content = json.loads(actions.results_file(visit, 0.0))
    assert [(one["file"], one["width"], one["height"]) for one in content["pictures"]] == [
        ("good.png", 120, 90),
        ("other.png", 120, 70),
    ]
    found = Predictor(cfg, threshold=LOWEST_SCORE)(picture)
    first = content["pictures"][0]["detections"]
    np.testing.assert_allclose([one["score"] for one in first], found.scores.numpy(), atol=6e-5)
    np.testing.assert_allclose([one["box"] for one in first], found.pred_boxes.tensor.numpy(), atol=0.051)
    np.testing.assert_allclose([one["objectness"] for one in first], found.objectness.numpy(), atol=6e-5)
    for one in first:  # the published rule
        assert one["score"] == pytest.approx((one["class_probability"] * one["objectness"] ** 0.5) ** 0.5, abs=1e-3)
    assert actions.results_file(Visit(), 0.0) == ""


def test_the_heatmap_and_the_stages_change_what_is_seen(actions, files):
    visit = actions.detect_uploads("small", [files["good"]]).visit
    plain, heat, stages = (
        actions.view(visit, 1, 0.2, *switches) for switches in ((False, False), (True, False), (False, True))
    )
    assert (plain.picture != heat.picture).mean() > 0.3
    assert (plain.picture != stages.picture).any()
    assert "P(object)" in stages.found
    assert "P(object)" not in plain.found
    again = actions.view(visit, 1, 0.2, True, False)
    assert (again.picture == heat.picture).all()


def test_a_broken_picture_is_named_and_the_others_are_shown(actions, files):
    found = actions.detect_uploads("small", [files["broken"], files["good"], files["deep"]])
    assert [shot.name for shot in found.visit.shots] == ["good.png"]
    assert "Picture broken.png cannot be read: it is empty or of no known picture format." in words(found.message)
    assert "deep.png has more than 8 bits a channel" in words(found.message)
    assert found.message.count('role="alert"') == 2
    assert files["broken"].rpartition("/")[0] not in found.message


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("without", "has no weights"), ("gone", "there is no file gone.pth"), ("../x", "this page has no model '../x'")],
)
def test_models_that_cannot_be_used(actions, files, model, sentence):
    found = actions.detect_uploads(model, [files["good"]])
    assert found.visit.shots == []
    assert sentence in words(found.message).replace("&#x27;", "'").replace("This", "this")
    assert 'role="alert"' in found.message


def test_a_defect_of_ours_is_one_sentence(actions, files, monkeypatch, caplog):
    monkeypatch.setattr(actions.shelf, "get", lambda name: 1 / 0)
    found = actions.detect_uploads("small", [files["good"]])
    assert "Something went wrong inside the program" in found.message
    assert "ZeroDivisionError" in caplog.text


def test_a_video(actions, write_clip):
    seen = []
    found = actions.detect_uploads("small", [str(write_clip(frames=4))], lambda share, words: seen.append(share))
    assert found.visit.is_video
    assert [shot.name for shot in found.visit.shots] == [f"clip.mp4, frame {n}" for n in (1, 2, 3, 4)]
    assert seen == sorted(seen)
    assert len(seen) == 4
    first, last = (actions.view(found.visit, number, 1.0, False, False).picture for number in (1, 4))
    assert (first != last).any()


def test_videos_that_are_refused(actions, write_clip, files, monkeypatch, tmp_path):
    clip = str(write_clip(frames=6))
    monkeypatch.setattr(pictures, "MOST_FRAMES", 5)
    assert "clip.mp4 has 6 frames, but this page takes 5" in actions.detect_uploads("small", [clip]).message
    both = actions.detect_uploads("small", [clip, files["good"]]).message
    assert "One video or several pictures" in both
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    message = actions.detect_uploads("small", [str(broken)]).message
    assert "Video broken.mp4 cannot be opened" in message
    many = [files["good"]] * (pictures.MOST_PICTURES + 1)
    assert "51 pictures are too many" in actions.detect_uploads("small", many).message


def test_visitors_share_one_model(actions, files):
    with ThreadPoolExecutor(4) as pool:
        names = ["good", "other"] * 2
        visits = list(pool.map(lambda name: actions.detect_uploads("small", [files[name]]).visit, names))
    for name, visit in zip(names, visits, strict=True):
        alone = actions.detect_uploads("small", [files[name]]).visit
        assert visit.shots[0].name == f"{name}.png"
        np.testing.assert_array_equal(visit.shots[0].findings.scores, alone.shots[0].findings.scores)
    assert actions.shelf.get("small") is actions.shelf.get("small")


def test_examples_can_be_looked_at(actions):
    titles = [title for _, title in actions.examples("small")]
    if not titles:
        pytest.skip("scikit-learn or scikit-image is not installed")
    found = actions.detect_example("small", 1)
    assert [shot.name for shot in found.visit.shots] == [titles[1]]


def test_no_model_at_all():
    with pytest.raises(UserError, match="the page needs a model"):
        ModelShelf({})


def test_names_of_classes_and_files_are_no_markup(cfg, files, tmp_path):
    actions = PageActions(ModelShelf({"<b>x</b>": lambda: cfg}))
    visit, message = actions.detect_uploads("<b>x</b>", [files["good"]])
    assert "<b>x</b>" not in message
    visit.class_names[:] = ["<script>"] * len(visit.class_names)
    seen = actions.view(visit, 1, LOWEST_SCORE, False, True)
    assert "<script>" not in seen.found
    assert "&lt;script&gt;" in seen.found


RULES = [
    ("CenterNet2_R50_1x", (), "\N{SQUARE ROOT}P(object)", 0.3**2 / 0.25**0.5),
    ("CenterNet2_R50_1x", ("MODEL.CENTERNET.SQRT_SCORE", False), "the two", 0.3**2 / 0.25),
    ("CenterNet2_R50_1x", ("MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE", False), "second stage alone", 0.3),
    ("CenterNet-FPN_R50_1x", ("MODEL.CENTERNET.WITH_AGN_HM", True), "square root of a probability", 0.3**2 / 0.25),
]


@pytest.mark.parametrize(("config", "opts", "wording", "value"), RULES)
def test_the_class_probability_follows_the_rule_of_the_model(config, opts, wording, value):
    cfg = small_cfg(config, *opts)
    assert class_probabilities(cfg, np.array([0.3]), np.array([0.25])) == pytest.approx(value)
    assert wording in explain_score(cfg)


def test_drawings_stay_inside_and_small_pictures_are_enlarged():
    image = np.full((40, 60, 3), 128, np.uint8)
    boxes = np.array([[-5.0, -5.0, 70.0, 45.0], [50.0, 0.0, 60.0, 5.0]])
    found = Findings(boxes, np.array([0.9, 0.5]), np.array([0, 1]))
    drawn = draw_findings(image, found, ["a long name of a class", "b"], 60, stages=True)
    assert drawn.shape == (640, 960, 3)
    nothing = draw_findings(image, found.at_least(0.95), ["a", "b"], 60, stages=True)
    assert (nothing == 128).all()
    assert (drawn != 128).any(axis=2).mean() > 0.01
