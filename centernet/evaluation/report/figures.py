"""The report's figures as SVG text. Colours are those of Okabe and Ito, told apart with every kind of colour vision."""

import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from .calibration import Reliability
from .confusion import Confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "as_svg",
    "axes_grid",
    "class_bars",
    "class_curves",
    "confusion_matrix",
    "error_costs",
    "precision_recall",
    "reliability_curves",
    "styled",
    "training_curves",
]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#777777",
)  # fmt: skip
COLOURS = {
    "classification": ORANGE,
    "localisation": BLUE,
    "both": GREEN,
    "duplicate": PURPLE,
    "background": RED,
    "missed": SKY,
    "rare": RED,
    "common": ORANGE,
    "frequent": BLUE,
}
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "centernet",
}
_P = ParamSpec("_P")


def as_svg(figure: "Figure", label: str) -> str:
    """An ``<svg>`` element for an HTML page, without any address in it.

    Args:
        label: for those who cannot see it.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(?::\w+)?="[^"]*"', "", text)
    # letters stay readable on a narrow screen: below 0.7 of its size the figure scrolls
    width = 96 * float(figure.get_figwidth())
    size = f"max-width:{width:.0f}px;min-width:{0.7 * width:.0f}px"
    return text.replace("<svg", f'<svg role="img" aria-label="{label}" style="{size}"', 1)


def styled(draw: Callable[_P, "Figure"]) -> Callable[_P, "Figure"]:
    """Draw with the page's style, and leave matplotlib's settings as they were."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> "Figure":
        import matplotlib

        with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return drawn


def axes_grid(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple["Figure", Any]:
    """A figure (inches) with ``[rows, columns]`` axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _shades(count: int) -> list[Any]:
    import matplotlib

    return [matplotlib.colormaps["cividis"](x) for x in np.linspace(0.0, 0.88, count)]


def _unit_square(axes: "Axes", x: str, y: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)


@styled
def precision_recall(precision: np.ndarray, ious: Sequence[float]) -> "Figure":
    """Mean over classes.

    Args:
        precision: ``[T, 101]`` in [0, 1] at recalls 0, 0.01, ..., one row an IoU threshold.
    """
    figure, grid = axes_grid(7, 4.6)
    axes = grid[0, 0]
    recalls = np.linspace(0, 1, precision.shape[1])
    for row, iou, colour in zip(precision, ious, _shades(len(ious)), strict=True):
        axes.plot(recalls, row, color=colour, label=f"IoU {iou:.2f}: AP {100 * row.mean():.1f}")
    _unit_square(axes, "recall", "precision (mean over classes)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def class_curves(precision: np.ndarray, names: Sequence[str], notes: Sequence[str]) -> "Figure":
    """Small multiples: one class each, at IoU 0.5 and 0.75.

    Args:
        precision: ``[2, 101, C]``.
        notes: one line a class, below its name.
    """
    columns = min(6, max(2, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure, grid = axes_grid(0.5 + 1.75 * columns, 1.95 * rows + 0.35, rows, columns, sharex=True, sharey=True)
    recalls = np.linspace(0, 1, precision.shape[1])
    for k, axes in enumerate(grid.flat):
        if k >= len(names):
            axes.set_axis_off()
            continue
        for row, colour, iou in zip(precision[:, :, k], (BLUE, ORANGE), ("0.50", "0.75"), strict=True):
            axes.plot(recalls, row, color=colour, linewidth=1.6, label=f"IoU {iou}")
        axes.set_title(f"{_shortened(names[k], 18)}\n{notes[k]}", fontsize=9.5)
        axes.set(xlim=(0, 1), ylim=(0, 1.04), yticks=(0, 0.5, 1))
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
        axes.tick_params(labelsize=9, labelbottom=k + columns >= len(names))
    figure.supxlabel("recall", fontsize=11)
    figure.supylabel("precision", fontsize=11)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


@styled
def class_bars(
    values: np.ndarray, names: Sequence[str], frequencies: np.ndarray, unit: str, groups: Sequence[str] | None
) -> "Figure":
    """AP of each class (percent; NaN: no object to find), most frequent first, with its frequency below."""
    order = np.argsort(-frequencies, kind="stable")
    named = len(order) <= 90
    longest = max((len(_shortened(names[k], 20)) for k in order), default=1) if named else 1
    width = min(12.0, max(6.0, 1.5 + 0.42 * len(order)))
    figure, grid = axes_grid(width, 4.9 + 0.05 * longest, 2, 1, sharex=True, height_ratios=(2, 1))
    colours = [COLOURS[groups[k]] if groups else BLUE for k in order]
    place = np.arange(len(order))
    thickness = 0.8 if named else 1.0
    top, bottom = grid[0, 0], grid[1, 0]
    top.bar(place, np.nan_to_num(values[order]), thickness, color=colours)
    if np.isfinite(values).any():
        mean = float(np.nanmean(values))
        top.axhline(mean, color="#222222", linewidth=1, linestyle="--")
        top.text(1.005, mean, f"mean\n{mean:.1f}", transform=top.get_yaxis_transform(), va="center", fontsize=10)
    for x in place[~np.isfinite(values[order])] if named else ():
        top.text(x, 1, "no objects", rotation=90, ha="center", va="bottom", fontsize=9, color=GREY)
    top.set(ylabel="AP (%)", ylim=(0, 100), xlim=(-0.6, len(order) - 0.4))
    bottom.bar(place, frequencies[order], thickness, color=colours)
    bottom.set(ylabel=unit.split(" (")[0])
    if named:
        shown = [_shortened(names[k], 20) for k in order]
        crowded = len(order) > 30
        turn = 90 if crowded else 60 if longest > 3 else 0
        bottom.set_xticks(
            place, shown, rotation=turn, ha="right" if turn == 60 else "center", fontsize=8 if crowded else 11
        )
        bottom.set_xlabel("class, most frequent first")
    else:
        bottom.set(xlabel=f"rank of the class by {unit}", yscale="log")
        bottom.yaxis.set_minor_formatter("")
    for axes in (top, bottom):
        axes.grid(axis="x", visible=False)
    if groups:
        _legend_of_groups(figure, [group for group in ("frequent", "common", "rare") if group in groups])
    return figure


def _legend_of_groups(figure: "Figure", groups: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    figure.legend(handles=[Patch(color=COLOURS[g], label=g) for g in groups], loc="outside upper right", ncols=3)


@styled
def error_costs(costs: dict[str, float], counts: dict[str, int]) -> "Figure":
    """Points of AP50 that each kind of error costs, with its count."""
    figure, grid = axes_grid(7.5, 3.1)
    axes = grid[0, 0]
    kinds = list(counts)[::-1]
    values = [costs[kind] for kind in kinds]
    axes.barh(kinds, values, color=[COLOURS[kind] for kind in kinds], height=0.7)
    for y, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        axes.annotate(
            f"{value:.2f}  ({counts[kind]:,} errors)", (value, y), (5, 0), textcoords="offset points", va="center"
        )
    axes.set(xlabel="cost (points of AP50)", xlim=(0, max(0.5, 1.45 * max(values))))
    axes.grid(axis="y", visible=False)
    return figure


@styled
def confusion_matrix(matrix: Confusion, names: Sequence[str], chosen: Sequence[int]) -> "Figure":
    """Rows in percent of the true class, with counts; the classes ``chosen``, background and missed."""
    rows = [*chosen, len(matrix.counts) - 1]
    counts = matrix.counts[np.ix_(rows, rows)]
    share = counts / np.maximum(matrix.counts[rows].sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.46 * len(rows)
    figure, grid = axes_grid(side + 1, side)
    axes = grid[0, 0]
    share[-1] = counts[-1] / max(1, counts[-1].max())  # of the background no share is known
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    labels = [_shortened(names[k], 16) for k in chosen]
    axes.set_xticks(range(len(rows)), [*labels, "missed"], rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [*labels, "background"])
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(visible=False)
    size = 10.5 if counts.max() < 1000 else 9
    for (y, x), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[y, x] > 0.55 else "#222222"
            axes.text(x, y, f"{count}", ha="center", va="center", fontsize=size, color=colour)
    for line in (axes.axhline, axes.axvline):
        line(len(rows) - 1.5, color="#222222", linewidth=1)
    return figure


@styled
def reliability_curves(panels: Sequence[tuple[str, str, Sequence[tuple[str, Reliability]]]]) -> "Figure":
    """Panels side by side: what happened against what was stated, and below how many entries each bin has.

    Args:
        panels: ``(title, label of the x axis, [(name, reliability), ...])``, at most three curves each.
    """
    figure, grid = axes_grid(5.4 * len(panels), 6.6, 2, len(panels), sharex=True, height_ratios=(3, 1.15))
    for column, (title, x, curves) in enumerate(panels):
        top, bottom = grid[0, column], grid[1, column]
        top.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfect")
        wide, highest = 0.086 / len(curves), 1
        for k, ((name, curve), colour) in enumerate(zip(curves, (BLUE, ORANGE, GREEN), strict=False)):
            some = curve.counts > 0
            spread = np.stack([curve.frequency - curve.low, curve.high - curve.frequency])[:, some].clip(0)
            top.errorbar(
                curve.confidence[some], curve.frequency[some], spread, color=colour, marker="os^"[k], markersize=5,
                elinewidth=1, capsize=2, label=f"{name}: ECE {curve.error:.3f}",
            )  # fmt: skip
            left = curve.edges[:-1] + 0.007 + k * wide
            bottom.bar(left, np.maximum(curve.counts, 0.5), wide, align="edge", color=colour)
            highest = max(highest, int(curve.counts.max()))
            if len(curves) == 1:
                for edge, count in zip(left[some], curve.counts[some], strict=True):
                    bottom.text(edge + wide / 2, count, f"{count}", ha="center", va="bottom", fontsize=8)
        top.set_title(title, loc="left", pad=8 + 17 * (len(curves) + 1))
        top.set(ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1.02))
        top.legend(loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
        bottom.set(xlabel=x, ylabel="entries a bin", yscale="log", ylim=(0.8, 5 * highest))
    return figure


@styled
def training_curves(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Losses, learning rate and, if it was measured more than once, AP, over iterations."""
    losses = sorted({key for row in rows for key in row if key.startswith("loss")})
    scores = sorted({key for row in rows for key in row if key.endswith("bbox/AP")})
    repeated = [key for key in scores if sum(key in row for row in rows) > 1]
    panels = ["losses", "rate", *(["AP"] if repeated else [])]
    figure, grid = axes_grid(10, 1.0 + 2.2 * len(panels) + 1.2, len(panels), 1, sharex=True,
                           height_ratios=[2, *[1] * (len(panels) - 1)])  # fmt: skip
    top = grid[0, 0]
    colours = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY)
    _lines(top, rows, "total_loss", "total", "#222222", "-")
    for k, key in enumerate(losses):
        _lines(top, rows, key, key.removeprefix("loss_"), colours[k % 7], ("-", "--", ":")[k // 7 % 3])
    top.set(ylabel="loss (log scale)", yscale="log")
    top.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    _lines(grid[1, 0], rows, "lr", "", BLUE, "-")
    grid[1, 0].set(ylabel="learning rate")
    for k, key in enumerate(repeated):
        _lines(grid[2, 0], rows, key, key.removesuffix("bbox/AP").strip("/"), colours[k % 7], "-", marker="o")
        grid[2, 0].set(ylabel="AP (%)")
    grid[-1, 0].set_xlabel("iteration")
    return figure


def _lines(
    axes: "Axes", rows: Sequence[dict[str, Any]], key: str, label: str, colour: str, style: str, marker: str = ""
) -> None:
    points = [(row["iteration"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, style, color=colour, label=label, marker=marker, markersize=4, linewidth=1.5)


def _shortened(text: str, length: int) -> str:
    # a dollar would begin a formula
    return (text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}").replace("$", r"\$")
