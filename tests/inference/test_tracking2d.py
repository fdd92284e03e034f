import builtins
import colorsys
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import Visualizer
from small_models import instances

from centernet.errors import UserError
from centernet.inference.tracking2d import NO_TRACK, Tracker2D
from centernet.inference.visualize import draw_predictions

needs_trackers = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("trackers") is None, reason="needs the extra [video]"
)


def box(x: float, y: float, size: float = 20) -> list[float]:
    return [x, y, x + size, y + size]


@needs_trackers
class TestIds:
    def test_two_that_pass_each_other_keep_their_ids_in_any_order(self) -> None:
        tracker, seen = Tracker2D(fps=25, threshold=0.3), []
        for frame in range(25):
            boxes = [box(2 + 4 * frame, 10), box(98 - 4 * frame, 32)]
            order = [0, 1] if frame % 2 else [1, 0]
            found = tracker.update(instances([boxes[i] for i in order], [0.9, 0.8], order))
            assert found.pred_classes.tolist() == order
            assert found.scores.tolist() == pytest.approx([0.9, 0.8])
            seen.append([found.track_ids.tolist()[order.index(i)] for i in (0, 1)])
        assert seen[0] == [NO_TRACK, NO_TRACK]
        assert sorted(seen[1]) == [1, 2]
        assert all(ids == seen[1] for ids in seen[1:])

    def test_a_flicker_gets_no_id_and_a_short_absence_keeps_it(self) -> None:
        tracker = Tracker2D(fps=25, threshold=0.3)
        here, gone = instances([box(10, 10)], [0.9], [1]), instances([], [], [])
        shown = [here, here, *[gone] * 10, here, *[gone] * 40, here, here]
        ids = [tracker.update(frame).track_ids.tolist() for frame in shown]
        assert ids[:2] == [[NO_TRACK], [1]]
        assert ids[12] == [1]
        assert ids[-2:] == [[NO_TRACK], [2]]  # more than a second later it is another

    def test_what_is_barely_seen_goes_on_but_begins_nothing(self) -> None:
        tracker = Tracker2D(fps=25, threshold=0.5)
        scores = [0.3, 0.3, 0.3, 0.9, 0.9, 0.3, 0.3]
        ids = [tracker.update(instances([box(10, 10)], [score], [0])).track_ids.tolist() for score in scores]
        assert ids == [[-1], [-1], [-1], [-1], [1], [1], [1]]

    def test_an_object_of_wavering_class_is_one_object(self) -> None:
        tracker = Tracker2D(fps=25, threshold=0.3)
        for frame in range(6):
            scores = [0.8, 0.7] if frame % 2 else [0.7, 0.8]
            found = tracker.update(instances([box(10, 10), box(11, 10)], scores, [3, 1]))
            assert found.pred_classes.tolist() == [3 if frame % 2 else 1]
            assert found.track_ids.tolist() == [1 if frame else NO_TRACK]

    def test_each_video_counts_from_one(self) -> None:
        for _ in range(2):
            tracker = Tracker2D(fps=25, threshold=0.3)
            tracker.update(instances([box(10, 10)], [0.9], [0]))
            assert tracker.update(instances([box(10, 10)], [0.9], [0])).track_ids.tolist() == [1]


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "trackers":
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"needs the package trackers.*\[video\]"):
        Tracker2D(fps=25, threshold=0.3)


@pytest.mark.parametrize("video", [False, True])
def test_ids_and_names_are_drawn_in_the_colour_of_the_id(monkeypatch: pytest.MonkeyPatch, video: bool) -> None:
    texts, colours = [], []
    monkeypatch.setattr(Visualizer, "draw_text", lambda _, text, *__, **___: texts.append(text))
    monkeypatch.setattr(Visualizer, "draw_box", lambda _, __, edge_color, **___: colours.append(tuple(edge_color)))
    found = instances([box(60, 30), box(10, 10, 30), box(80, 60, 10)], [0.9, 0.8, 0.7], [1, 0, 1])
    found.track_ids = torch.tensor([7, 12, NO_TRACK])
    metadata = Metadata(name="test", thing_classes=["cat", "dog"])
    image = np.zeros((90, 120, 3), dtype=np.uint8)
    pen = VideoVisualizer(metadata) if video else None
    draw_predictions(image, {"instances": found}, metadata, visualizer=pen)
    assert sorted(texts) == ["#12 cat 80%", "#7 dog 90%", "dog 70%"]
    assert found.pred_classes.tolist() == [1, 0, 1]
    assert metadata.thing_classes == ["cat", "dog"]
    if video:
        assert len(set(colours)) == 3
        first = list(colours)
        colours.clear()
        draw_predictions(image, {"instances": found}, metadata, visualizer=pen)
        assert colours == first
        assert sum(colorsys.rgb_to_hsv(*colour)[1] == 0 for colour in colours) == 1  # without a track: grey
