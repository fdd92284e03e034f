"""The report as one HTML page that needs nothing but itself: no script, no file, no address besides."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UserError
from . import figures
from .analysis import Analysis, analyse
from .calibration import Reliability
from .error_kinds import KINDS
from .inputs import ReportInputs, short_name
from .matching import is_federated
from .pictures import WorstPicture, draw_errors
from .wording import (
    CONFIG_KEYS,
    EXPLANATIONS,
    KIND_MEANINGS,
    METRIC_MEANINGS,
    bias_words,
    product_words,
    score_words,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["report_page", "write_report"]

_CLASS_CURVES_A_FIGURE, _CLASS_CURVES = 24, 240  # small multiples; at most so many classes are drawn
_CONFUSED_CLASSES = 24
_STYLE = """
:root { color: #1d1d1f; background: #fff; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 70rem; margin: 0 auto; padding: 1.5rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem; overflow-wrap: anywhere }
h2 { margin-top: 2.8rem; border-bottom: 1px solid #ccc }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem } a { color: #0072B2 }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.tile { border: 1px solid #ccc; border-radius: .5rem; padding: .5rem 1rem }
.tile b { display: block; font-size: 1.5rem }
.note { background: #fff6df; border-left: 4px solid #E69F00; padding: .4rem 1rem; margin: .4rem 0;
        overflow-wrap: anywhere }
.table { overflow-x: auto } table { border-collapse: collapse; margin: .8rem 0 }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eee }
.table td:first-child { white-space: nowrap } .swatch.first { margin-left: 0 }
.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100%; height: auto }
.wrap { overflow-wrap: anywhere } .plot { overflow-x: auto } .plot svg { display: block; width: 100%; height: auto }
.plot img { min-width: 36rem }
figure { margin: 1.2rem 0 } figcaption { color: #444; max-width: 55rem; overflow-wrap: anywhere } p { max-width: 55rem }
.swatch { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .8em; border: 1px solid #333 }
pre { overflow: auto; max-height: 30rem; background: #f5f5f5; padding: 1rem; font-size: .8rem }
"""


def write_report(inputs: ReportInputs, path: Path, *, threshold: float | None = None, pictures: int = 12) -> Analysis:
    """Judge the results and write the page.

    Args:
        threshold: smallest score for the confusion matrix and the pictures; None: the one with the best F1.
        pictures: how many of the worst are shown.

    Raises:
        UserError: the results do not belong to the data, or the page cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        analysis = analyse(inputs, threshold=threshold)
        worst = [
            draw_errors(analysis.case, analysis.errors, image, cost, analysis.threshold, inputs.image_root)
            for image, cost in analysis.worst[:pictures]
        ]
        path.write_text(report_page(inputs, analysis, worst), "utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"the report cannot be written to {path}: {error.strerror or error}") from error
    return analysis


def report_page(inputs: ReportInputs, analysis: Analysis, worst: Sequence[WorstPicture]) -> str:
    """The page's HTML."""
    sections = [
        ("Average precision", _average_precision(analysis)),
        ("Errors", _errors(analysis)),
        ("Calibration", _calibration(inputs, analysis)),
        ("Classes", _classes(analysis)),
        ("Precision and recall", _curves(analysis)),
        ("Confusion", _confusion(analysis)),
        ("Worst pictures", _pictures(analysis, worst)),
        ("Training", _training(inputs)),
        ("Config", _config(inputs)),
    ]
    title = html.escape(f"{inputs.folder.resolve().name} on {short_name(inputs.dataset)}")
    menu = "".join(f'<a href="#{name.replace(" ", "-")}">{name}</a>' for name, _ in sections)
    body = "".join(f'<h2 id="{name.replace(" ", "-")}">{name}</h2>\n{"".join(parts)}\n' for name, parts in sections)
    notes = "".join(f'<p class="note">{html.escape(sentence)}</p>' for sentence in inputs.notes)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{title}</title><style>{_STYLE}</style></head><body>\n'
        f'<h1>{title}</h1>\n<p class="wrap">{_summary(inputs, analysis)}</p>\n<nav>{menu}</nav>\n'
        f"{_tiles(analysis)}{notes}\n{body}</body></html>\n"
    )


def _summary(inputs: ReportInputs, analysis: Analysis) -> str:
    case = analysis.case
    return (
        f"{len(case.images):,} images, {int(case.counts.sum()):,} objects of {len(case.categories):,} classes, "
        f"{len(case.found.scores):,} detections ({html.escape(inputs.results_file.name)})"
        + (f"; {html.escape(inputs.dataset)}" if short_name(inputs.dataset) != inputs.dataset else ".")
    )


def _tiles(analysis: Analysis) -> str:
    metrics = analysis.scores.metrics()
    values = [(name, _percent(metrics[name])) for name in ("AP", "AP50", "AP75")]
    worst = max(KINDS, key=lambda kind: analysis.costs[kind])
    values.append((f"AP50 lost to: {worst}", f"{analysis.costs[worst]:.1f}"))
    calibration = analysis.calibration
    curves = {"P(object)": calibration.objectness_single, "p\N{MIDDLE DOT}P": calibration.product}
    values += [(f"ECE of {name}", f"{curve.error:.3f}") for name, curve in curves.items() if curve is not None]
    return '<div class="tiles">' + "".join(f'<div class="tile">{n}<b>{v}</b></div>' for n, v in values) + "</div>\n"


def _percent(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "\N{EN DASH}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 1) -> str:
    """The last ``numbers`` columns are set as numbers; cells are HTML."""

    def line(cells: Sequence[str], tag: str) -> str:
        first = len(cells) - numbers
        kinds = ["" if k < first else ' class="number"' for k in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{k}>{c}</{tag}>" for c, k in zip(cells, kinds, strict=True)) + "</tr>"

    lines = line(head, "th") + "".join(line(row, "td") for row in rows)
    return f'<div class="table"><table>{lines}</table></div>\n'


def _figure(figure: "Figure", label: str, caption: str = "") -> str:
    under = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure><div class="plot">{figures.as_svg(figure, label)}</div>{under}</figure>\n'


def _average_precision(analysis: Analysis) -> Iterator[str]:
    rows = []
    for name, value in analysis.scores.metrics().items():
        meaning = METRIC_MEANINGS.get(name) or METRIC_MEANINGS.get(name[:3], "")
        rows.append((name, meaning, _percent(value)))
    yield _table(("", "meaning", "%"), rows)
    yield f"<p>{EXPLANATIONS['lvis' if is_federated({'images': analysis.case.images}) else 'coco']}</p>"


def _errors(analysis: Analysis) -> Iterator[str]:
    counts, costs = analysis.errors.counts(), analysis.costs
    yield f"<p>{EXPLANATIONS['errors']}</p>"
    yield _figure(figures.error_costs(costs, counts), "points of AP50 that each kind of error costs")
    rows = [
        (f"{swatch}{kind}", KIND_MEANINGS[kind], f"{counts[kind]:,}", f"{costs[kind]:.2f}")
        for kind in KINDS
        if (swatch := _swatch(figures.COLOURS[kind], "swatch first"))
    ]
    for name in ("all false positives", "all unfound objects"):
        rows.append((name, KIND_MEANINGS[name], "", f"{costs[name]:.2f}"))
    yield _table(("error", "meaning", "count", "points of AP50"), rows, 2)


def _swatch(colour: str, kind: str = "swatch") -> str:
    return f'<span class="{kind}" style="background:{colour}"></span>'


def _calibration(inputs: ReportInputs, analysis: Analysis) -> Iterator[str]:
    found = analysis.calibration
    yield f"<p>{EXPLANATIONS['calibration']}</p>"
    panels: list[tuple[str, str, list[tuple[str, Reliability]]]] = []
    rows: list[tuple[str, Reliability]] = []
    if found.objectness is not None and found.objectness_single is not None:
        curves = [("overlaps an object", found.objectness), ("best of its object", found.objectness_single)]
        panels.append(("First stage: P(object)", "stated P(object)", curves))
        rows += [(f"P(object), proposal {name}", curve) for name, curve in curves]
    final = [("score as reported", found.score)]
    if found.product is not None:
        final.append(("p\N{MIDDLE DOT}P, a probability", found.product))
    panels.append(("Detections: class and box right", "stated value", final))
    rows += final
    yield _figure(figures.reliability_curves(panels), "reliability curves with counts", EXPLANATIONS["reliability"])
    cells = [
        (name, bias_words(curve), f"{curve.counts.sum():,}", f"{curve.bias:+.3f}", f"{curve.error:.3f}",
         f"{curve.upper_error:.3f}")
        for name, curve in rows
    ]  # fmt: skip
    yield _table(("", "", "entries", "mean stated - observed", "ECE", "ECE of stated 0.1 or more"), cells, 4)
    yield f"<p>{score_words(inputs.cfg)} {product_words(inputs.cfg, inputs.proposals)}</p>"
    if found.objectness is not None:
        yield f"<p>{EXPLANATIONS['objectness']}</p>"
        if is_federated({"images": analysis.case.images}):
            yield f"<p>{EXPLANATIONS['objectness lvis']}</p>"
    yield from _bins(rows)


def _bins(rows: Sequence[tuple[str, Reliability]]) -> Iterator[str]:
    yield "<details><summary>Counts of every bin</summary>"
    for name, curve in rows:
        cells = []
        for k, count in enumerate(curve.counts.tolist()):
            values = (curve.confidence[k], curve.frequency[k], curve.low[k], curve.high[k])
            stated, seen, low, high = (f"{value:.3f}" if count else "" for value in values)
            interval = f"{low} to {high}" if count else ""
            cells.append((f"{curve.edges[k]:.1f} to {curve.edges[k + 1]:.1f}", f"{count:,}", stated, seen, interval))
        yield f"<h3>{name}</h3>" + _table(("bin", "entries", "mean stated", "observed", "95 % interval"), cells, 4)
    yield "</details>"


def _classes(analysis: Analysis) -> Iterator[str]:
    frequencies, names = analysis.frequencies, analysis.case.names
    ap, ap50 = analysis.class_ap(), analysis.class_ap("AP50")
    bars = figures.class_bars(ap, names, frequencies.counts, frequencies.unit, frequencies.groups)
    yield _figure(bars, "AP of each class", f"AP of each class; below: {html.escape(frequencies.unit)}.")
    order = np.argsort(-frequencies.counts, kind="stable")
    rows = [
        (
            html.escape(names[k]),
            f"{frequencies.counts[k]:,}",
            f"{analysis.case.counts[k]:,}",
            _percent(ap[k]),
            _percent(ap50[k]),
        )
        for k in order
    ]
    head = ("class", html.escape(frequencies.unit), "objects here", "AP", "AP50")
    yield f"<details><summary>Table of classes</summary>{_table(head, rows, 4)}</details>"


def _curves(analysis: Analysis) -> Iterator[str]:
    there = np.flatnonzero(analysis.case.counts > 0)
    if not len(there):
        yield "<p>There are no objects to find.</p>"
        return
    ap50, rows = analysis.class_ap("AP50"), (0, 2, 4, 5, 6, 8, 9)
    mean = analysis.precision[rows, :][:, :, there].clip(0).mean(axis=2)
    yield _figure(figures.precision_recall(mean, [0.5 + 0.05 * k for k in rows]), "precision over recall")
    order = there[np.argsort(-analysis.frequencies.counts[there], kind="stable")][:_CLASS_CURVES]
    if len(there) > len(order):
        yield f"<p>The {len(order)} most frequent of {len(there)} classes follow.</p>"
    for start in range(0, len(order), _CLASS_CURVES_A_FIGURE):
        part = order[start : start + _CLASS_CURVES_A_FIGURE]
        notes = [f"AP50 {ap50[k]:.1f}" for k in part]
        drawn = figures.class_curves(analysis.precision[[0, 5]][:, :, part].clip(0), _of(analysis, part), notes)
        opened = "" if start else " open"
        label = f"Classes {start + 1} to {start + len(part)} by frequency"
        yield f"<details{opened}><summary>{label}</summary>{_figure(drawn, label)}</details>"


def _of(analysis: Analysis, classes: Sequence[int] | np.ndarray) -> list[str]:
    return [analysis.case.names[k] for k in classes]


def _confusion(analysis: Analysis) -> Iterator[str]:
    counts = analysis.confusion.counts
    yield (
        f"<p>{EXPLANATIONS['confusion']} Detections with a score of {analysis.threshold:.3f} or more count: precision "
        f"{100 * analysis.threshold_precision:.1f} %, recall {100 * analysis.threshold_recall:.1f} %.</p>"
    )
    classes = np.arange(len(counts) - 1)
    if len(classes) > _CONFUSED_CLASSES:
        wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
        classes = np.sort(np.argsort(-wrong[:-1], kind="stable")[:_CONFUSED_CLASSES])
        yield f"<p>Shown are the {_CONFUSED_CLASSES} classes with most errors.</p>"
    drawn = figures.confusion_matrix(analysis.confusion, analysis.case.names, classes.tolist())
    yield _figure(drawn, "confusion matrix", EXPLANATIONS["confusion colours"])
    names = [html.escape(name) for name in analysis.case.names]
    rows = [(names[true], names[said], f"{count:,}") for true, said, count in analysis.confusion.worst(12)]
    if rows:
        yield "<h3>Most frequent mix-ups</h3>" + _table(("true class", "taken for", "count"), rows)


def _pictures(analysis: Analysis, worst: Sequence[WorstPicture]) -> Iterator[str]:
    yield f"<p>{EXPLANATIONS['pictures']} Detections with a score of {analysis.threshold:.3f} or more are drawn.</p><p>"
    yield f"Left:{_swatch(figures.YELLOW)}object{_swatch(figures.COLOURS['missed'])}object that was not found<br>Right:"
    yield f"{_swatch('#FFFFFF')}right" + "".join(_swatch(figures.COLOURS[kind]) + kind for kind in KINDS[:-1]) + "</p>"
    for picture in worst:
        remarks = html.escape("; ".join(picture.remarks) or "errors with smaller scores only")
        name = html.escape(picture.name)
        if picture.jpeg:
            source = f"data:image/jpeg;base64,{picture.jpeg}"
            yield f'<figure><div class="plot"><img alt="{name}" src="{source}"></div>'
        else:
            yield '<figure><p class="note">The image file cannot be read.</p>'
        yield f"<figcaption><b>{name}</b>, {picture.cost:.3f} points of AP50. {remarks}</figcaption></figure>\n"
    if not worst:
        yield "<p>No picture has an error.</p>"


def _training(inputs: ReportInputs) -> Iterator[str]:
    if any("total_loss" in row for row in inputs.metrics):
        yield _figure(figures.training_curves(inputs.metrics), "losses and learning rate over iterations")
    else:
        yield "<p>No training curves: there is no metrics.json with losses.</p>"


def _config(inputs: ReportInputs) -> Iterator[str]:
    if inputs.cfg is None:
        yield "<p>No config.yaml.</p>"
        return
    rows = []
    for key in CONFIG_KEYS:
        value: object = inputs.cfg
        for part in key.split("."):
            value = value[part]  # type: ignore[index]
        rows.append((f"<code>{key}</code>", html.escape(str(value))))
    yield _table(("key", "value"), rows, 0)
    yield f"<details><summary>The whole config</summary><pre>{html.escape(inputs.cfg.dump())}</pre></details>"
