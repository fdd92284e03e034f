"""The page's layout in gradio: which parts there are, where, and which function each one calls. Import it when a page
is made, not before: gradio is large."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from .callbacks import Detected, PageActions, Visit
from .findings import LOWEST_SCORE
from .markup import SAVE_AS_FILE, sentence
from .pictures import MOST_FRAMES, MOST_PICTURES

__all__ = ["build_page"]

_VISIT_SECONDS = 3600  # results of a visitor who is gone are forgotten
_ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "model"}  # the model is shared; visitors queue
_AT_ONCE = {"concurrency_limit": 8, "show_progress": "hidden", "queue": True}

_WELCOME = "Drop pictures or a video, or choose an example."


def build_page(actions: PageActions, threshold: float) -> gr.Blocks:
    """The page as ``gradio.Blocks``, not yet served.

    Args:
        actions: what the page does.
        threshold: the score at which the slider stands at first.
    """
    with gr.Blocks(
        title="CenterNet2", analytics_enabled=False, fill_width=True, delete_cache=(600, _VISIT_SECONDS)
    ) as page:
        visit = gr.State(Visit(), time_to_live=_VISIT_SECONDS)
        source = gr.State(None)  # what the visitor looks at: paths of files, or the number of an example
        gr.HTML(
            "<h1>CenterNet2</h1><p>Two stages, two probabilities: where an object is, and what it is.</p>",
            padding=False,
            elem_id="title",
        )
        with gr.Row(equal_height=False, elem_id="columns"):
            with gr.Column(scale=4, min_width=320):
                controls = _controls(actions, threshold)
            with gr.Column(scale=7, min_width=320):
                results = _results()
                with gr.Accordion("What the score means", open=True):
                    explanation = gr.Markdown(actions.explain(actions.shelf.names[0]), elem_id="explanation")
        _connect(actions, visit, source, controls, results, explanation)
    return page


def _controls(actions: PageActions, threshold: float) -> dict[str, Any]:
    names = actions.shelf.names
    parts = {
        "model": gr.Dropdown(names, value=names[0], label="Model", interactive=len(names) > 1, elem_id="model"),
        "files": gr.File(
            label=f"Pictures (up to {MOST_PICTURES}) or a video (up to {MOST_FRAMES} frames)",
            file_count="multiple",
            height=150,
            elem_id="files",
        ),
    }
    examples = actions.examples(names[0])
    parts["examples"] = gr.Gallery(
        examples,
        label="Examples",
        columns=6,
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=bool(examples),
        object_fit="cover",
        elem_id="examples",
    )
    parts["threshold"] = gr.Slider(
        LOWEST_SCORE,
        1.0,
        value=max(threshold, LOWEST_SCORE),
        step=0.01,
        label="Show detections with a score of at least",
        buttons=[],
        elem_id="threshold",
    )
    parts["heatmap"] = gr.Checkbox(label="Heatmap of the first stage: P(object)", elem_id="heatmap")
    parts["stages"] = gr.Checkbox(label="P(object) and P(class | object) of each detection", elem_id="stages")
    return parts


def _results() -> dict[str, Any]:
    return {
        "message": gr.HTML(sentence(_WELCOME), padding=False, elem_id="message"),
        "problem": gr.HTML(visible=False, padding=False, elem_id="problem"),
        "picture": gr.Image(
            label="Result",
            interactive=False,
            buttons=["download", "fullscreen"],
            visible=False,
            elem_id="picture",
        ),
        "number": gr.Slider(1, 2, value=1, step=1, label="Picture", visible=False, buttons=[], elem_id="number"),
        "found": gr.HTML(visible=False, padding=False, elem_id="found"),
        "save": gr.Button("Download the results as JSON", size="md", visible=False, elem_id="save"),
        "file": gr.Textbox(visible=False),
    }


def _connect(
    actions: PageActions,
    visit: Any,
    source: Any,
    controls: dict[str, Any],
    results: dict[str, Any],
    explanation: Any,
) -> None:
    """Say which event calls which function."""
    model, files, examples = controls["model"], controls["files"], controls["examples"]
    threshold = controls["threshold"]
    view_of = [visit, results["number"], threshold, controls["heatmap"], controls["stages"]]
    shown = [results["picture"], results["found"], results["problem"]]
    detected = [visit, results["message"], results["number"], results["save"]]

    def detect(model: str, source: Any, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008 gradio's way
        found = _detect(actions, model, source, lambda share, words: progress(share, desc=words))
        count = len(found.visit.shots)
        label = f"{'Frame' if found.visit.is_video else 'Picture'}, 1 to {count}"
        number = gr.Slider(maximum=max(count, 2), value=1, label=label, visible=count > 1)
        return found.visit, found.message, number, gr.Button(visible=count > 0)

    def view(*state: Any) -> tuple[Any, ...]:
        seen = actions.view(*state)
        return (
            gr.Image(seen.picture, label=seen.title, visible=seen.picture is not None),
            gr.HTML(seen.found, visible=bool(seen.found)),
            gr.HTML(seen.message, visible=bool(seen.message)),
        )

    def run_after(event: Any) -> None:
        # the model once, then the drawing
        waiting = [results["message"]]
        ran = event.then(detect, [model, source], detected, show_progress_on=waiting, **_ONE_AT_A_TIME)
        ran.then(view, view_of, shown, **_AT_ONCE)

    def look_at_files(paths: Sequence[str] | None) -> list[str] | None:
        return list(paths) if paths else None

    def look_at_example(event: gr.SelectData) -> tuple[int, None]:
        return event.index, None

    def other_model(name: str) -> tuple[Any, str]:
        pictures = actions.examples(name)
        return gr.Gallery(pictures, visible=bool(pictures)), actions.explain(name)

    run_after(gr.on([files.upload, files.delete, files.clear], look_at_files, files, source, show_progress="hidden"))
    run_after(examples.select(look_at_example, None, [source, files], show_progress="hidden"))
    run_after(model.input(other_model, model, [examples, explanation], show_progress="hidden"))
    for part in (threshold, results["number"], controls["heatmap"], controls["stages"]):
        part.input(view, view_of, shown, trigger_mode="always_last", **_AT_ONCE)
    text = results["save"].click(actions.results_file, [visit, threshold], results["file"], show_progress="hidden")
    text.then(None, results["file"], None, js=SAVE_AS_FILE)


def _detect(actions: PageActions, model: str, source: Any, progress: Any) -> Detected:
    if source is None:
        return Detected(Visit(), sentence(_WELCOME))
    if isinstance(source, int):
        return actions.detect_example(model, source)
    return actions.detect_uploads(model, source, progress)
