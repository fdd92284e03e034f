"""The page's own HTML: the table of detections, sentences, the explanation of the score, and the style sheet."""

from collections.abc import Sequence
from html import escape

import numpy as np
from detectron2.config import CfgNode

from .drawing import class_color
from .findings import Findings

__all__ = ["SAVE_AS_FILE", "STYLE", "explain_score", "sentence", "table"]

STYLE = """
.gradio-container { max-width: min(1280px, 100vw) !important; margin: 0 auto !important; }
.gradio-container, .gradio-container main, #columns > * { min-width: 0 !important; }
#title, #message, #problem, #found { padding: 0 !important; }
#title > *, #message > *, #problem > *, #found > * { padding: 0 !important; }
#title h1 { margin: 0 0 2px; font-size: 1.55rem; letter-spacing: -.01em; }
#title p { margin: 0; color: var(--body-text-color-subdued); }
.sentence { border-radius: 8px; padding: 10px 14px; line-height: 1.45; border: 1px solid var(--border-color-primary);
  background: var(--block-background-fill); color: var(--body-text-color); overflow-wrap: anywhere; }
.sentence + .sentence { margin-top: 8px; }
.sentence.wrong { border-color: #dc2626; border-left-width: 5px; }
.sentence b { font-weight: 650; }
#examples .grid-wrap { height: auto; min-height: 0; padding-top: 30px; }
#examples .grid-container { grid-template-columns: repeat(6, minmax(0, 1fr)); grid-auto-rows: auto; gap: 6px; }
#examples .caption-label { display: none; }
#examples .thumbnail-item { aspect-ratio: 1; height: auto; }
#picture { padding-top: 34px; }
#picture .icon-button-wrapper { top: -34px; }
#picture .image-container { overflow: visible; }
#picture img { max-height: 72vh; object-fit: contain; }
.found { overflow-x: auto; }
.found table { width: 100%; border-collapse: collapse; margin: 0; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
.found table, .found thead, .found tbody, .found tr { border: 0 !important; background: none; }
.found caption { text-align: left; padding: 4px 2px 8px; color: var(--body-text-color-subdued); caption-side: top; }
.found th { text-align: left; font-weight: 600; }
.found th, .found td { padding: 6px 10px; border: 0 !important; color: var(--body-text-color);
  border-bottom: 1px solid var(--border-color-primary) !important; }
.found td { white-space: nowrap; }
.found td.box { color: var(--body-text-color-subdued); }
.found .dot { display: inline-block; width: .8em; height: .8em; border-radius: 3px; margin-right: .5em;
  vertical-align: -.05em; }
.found .bar { display: inline-block; width: 56px; height: 6px; border-radius: 3px; margin-left: 8px;
  vertical-align: 2px; background: var(--border-color-primary); overflow: hidden; }
.found .bar i { display: block; height: 100%; background: var(--color-accent); }
@media (max-width: 760px) {
  .gradio-container, .gradio-container main { padding: 8px !important; }
  #columns { flex-direction: column; }
  #columns > * { width: 100%; }
  .found .bar { display: none; }
  .found table { font-size: .82rem; }
  .found td { white-space: normal; }
  .found th, .found td { padding: 6px 5px; vertical-align: top; }
}
"""

# The browser makes the file: nothing is left on the server
SAVE_AS_FILE = """(text) => {
  if (!text) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'detections.json';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""

_DOT, _ROOT = "\N{MIDDLE DOT}", "\N{SQUARE ROOT}"


def sentence(text: str, wrong: bool = False) -> str:
    """A sentence for the visitor; '' for none. Mistakes are announced to screen readers."""
    if not text:
        return ""
    return f'<div class="sentence{" wrong" if wrong else ""}" role="{"alert" if wrong else "status"}">{text}</div>'


def table(findings: Findings, total: int, threshold: float, class_names: Sequence[str], stages: bool) -> str:
    """The detections as rows, best first.

    Args:
        findings: those shown.
        total: how many there are without the threshold.
        threshold: smallest score shown.
        class_names: by class number.
        stages: with the probability of each stage, where the model gives it.
    """
    columns = [("Score", findings.scores)]
    if stages:
        columns += [
            (title, values)
            for title, values in (
                ("P(object)", findings.objectness),
                ("P(class | object)", findings.class_probability),
            )
            if values is not None
        ]
    caption = f"{len(findings)} of {total} detections, with a score of {threshold:.2f} or more"
    if not len(findings):
        return f'<div class="found"><table><caption>{caption}</caption></table></div>'
    titles = ["Class", *(title for title, _ in columns), "Box (x, y, width, height)"]
    head = "".join(f"<th>{title}</th>" for title in titles)
    rows = "".join(_row(findings, row, class_names, [values for _, values in columns]) for row in range(len(findings)))
    return (
        f'<div class="found"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(findings: Findings, row: int, class_names: Sequence[str], columns: Sequence[np.ndarray]) -> str:
    number = int(findings.classes[row])
    color = "rgb({},{},{})".format(*class_color(number))
    cells = [f'<td><span class="dot" style="background:{color}"></span>{escape(class_names[number])}</td>']
    for values in columns:
        value = float(values[row])
        cells.append(f'<td>{value:.2f}<span class="bar"><i style="width:{100 * value:.0f}%"></i></span></td>')
    x1, y1, x2, y2 = (float(value) for value in findings.boxes[row])
    cells.append(f'<td class="box">{x1:.0f}, {y1:.0f}, {x2 - x1:.0f}, {y2 - y1:.0f}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def explain_score(cfg: CfgNode) -> str:
    """What the score of this model means, as Markdown."""
    node = cfg.MODEL.CENTERNET
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        root = node.WITH_AGN_HM and node.SQRT_SCORE
        return (
            f"This is a one-stage model: its score is {'the square root of a' if root else 'a'} probability of the "
            "heatmap, read at the centre of the object."
        )
    if not cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE:
        return "The score of this model is **P(class | object)**, the probability of its second stage alone."
    first = f"{_ROOT}P(object)" if node.WITH_AGN_HM and node.SQRT_SCORE else "P(object)"
    return (
        "The first stage says where objects are: **P(object)**, which the heatmap shows. The second says what they "
        "are: **P(class | object)**. The score joins the two, **score = "
        f"{_ROOT}( P(class | object) {_DOT} {first} )**, so it ranks detections but is larger than a probability: for "
        f"an object that is certainly there, a score of 0.5 means P(class | object) = 0.25. "
        f"The probability of the class is the product P(object) {_DOT} P(class | object)."
    )
