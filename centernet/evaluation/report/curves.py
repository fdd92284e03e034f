"""Curves of one or several trainings from their ``metrics.json``, a small panel a figure, a colour a run."""

import html
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UserError
from .figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, as_svg, axes_grid, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Rows", "draw_runs", "metric_rows", "read_runs", "runs_page"]

Rows = Sequence[Mapping[str, Any]]
_COLUMNS = 4
_MOST_POINTS = 1000  # of a line that is not smoothed
_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY, "#222222")
_TITLES = {
    "total_loss": "total loss",
    "lr": "learning rate",
    "time": "seconds an iteration",
    "data_time": "of these, waiting for data (s)",
    "memory_gb": "memory, peak (GB)",
}
_LAST = ("lr", "time", "data_time", "memory_gb")
_LEFT_OUT = ("iteration", "eta_seconds")
_VALIDATION = "validation/"


def metric_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.json``; none if there is no such file. What a kill cut off is left out."""
    rows = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            rows.append(row)
    return rows


def read_runs(places: Sequence[Path]) -> dict[str, Rows]:
    """Rows by a short name of the run, in the order of ``places``: run folders or ``metrics.json`` files.

    Raises:
        UserError: a place without figures.
    """
    files = [place / "metrics.json" if place.is_dir() else place for place in places]
    runs: dict[str, Rows] = {}
    for place, file, name in zip(places, files, _names(files), strict=True):
        if not file.is_file():
            raise UserError(f"{place} has no metrics.json: give OUTPUT_DIR of a training, or its metrics.json")
        try:
            rows = metric_rows(file)
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
        if not rows:
            raise UserError(f"{file} has no row with figures: it is damaged, or the training had not written one yet")
        runs[name] = rows
    return runs


def _names(files: Sequence[Path]) -> list[str]:
    """The last folders of each path, as many as it takes to tell the runs apart."""
    folders = [file.resolve().parent.parts for file in files]
    for count in range(1, max(map(len, folders), default=0) + 1):
        names = ["/".join(parts[-count:]) for parts in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{parts[-1]}/{file.name} ({k})" for k, (parts, file) in enumerate(zip(folders, files, strict=True), 1)]


@styled
def draw_runs(runs: Mapping[str, Rows], *, smooth: int = 0, only: Sequence[str] = ()) -> "Figure":
    """A panel for each figure that the runs have: losses, scores, learning rate, time, memory.

    Args:
        runs: rows by name, as :func:`read_runs` gives them.
        smooth: rows that a line is the mean of; the rows themselves stay visible behind it. 0: a fiftieth of them.
        only: patterns of figures to show, such as ``loss_cls*`` and ``bbox/AP``; none: all but the AP of each class.

    Raises:
        UserError: no figure fits ``only``.
    """
    panels = _panels(runs, only)
    rows = -(-len(panels) // _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    figure, grid = axes_grid(3.9 * columns, 0.6 + 2.6 * rows, rows, columns)
    end = 1 + max(row["iteration"] for run in runs.values() for row in run)
    for axes, key in zip(grid.flat, panels, strict=False):
        for (name, run), colour in zip(runs.items(), _cycled(len(runs)), strict=True):
            _draw(axes, run, key, colour, name, smooth)
            if "loss" in key:
                _draw(axes, run, _VALIDATION + key, colour, f"{name}, validation", 1, "--")
        axes.set_title(_TITLES.get(key, key.removeprefix("loss_")), loc="left", fontsize=11)
        axes.set_xlabel("iteration" if key in panels[-columns:] else "")
        axes.set_xlim(0, 1.02 * end)
        if "loss" in key:
            _leave_out_the_start(axes)
        elif key in _LAST:
            axes.set_ylim(bottom=0)
        else:
            _write_last_values(axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    _legend(figure, grid, runs)
    return figure


def _cycled(count: int) -> list[str]:
    return [_COLOURS[k % len(_COLOURS)] for k in range(count)]


def _panels(runs: Mapping[str, Rows], only: Sequence[str]) -> list[str]:
    """Total loss, its parts, scores, other figures, then rate, times and memory."""
    keys = {key for rows in runs.values() for row in rows for key, value in row.items() if _is_number(value)}
    keys = {key for key in keys if not key.startswith(_VALIDATION) and key not in _LEFT_OUT}
    if only:
        chosen = {key for key in keys if any(fnmatch(key, pattern) for pattern in only)}
        if not chosen:
            raise UserError(f"no figure fits {', '.join(only)}; there are {', '.join(sorted(keys))}")
    else:
        # of the scores, those that people compare; the others on demand
        chosen = {key for key in keys if "/" not in key or key.rpartition("/")[2] in ("AP", "AP50")}

    def order(key: str) -> tuple[int, str]:
        groups = (key == "total_loss", key.startswith("loss"), "/AP" in key, key not in _LAST)
        return (groups.index(True) if any(groups) else len(groups) + _LAST.index(key), key)

    return sorted(chosen, key=order)


def _draw(axes: Any, rows: Rows, key: str, colour: str, name: str, smooth: int, style: str = "-") -> None:
    points = [(row["iteration"], row[key]) for row in rows if _is_number(row.get(key))]
    if not points:
        return
    x, y = (np.asarray(column, float) for column in zip(*points, strict=True))
    width = min(smooth or max(1, len(y) // 50), len(y))
    marker = "o" if len(y) <= 30 and "loss" not in key and key not in _LAST else ""
    if width > 1 and not marker and key != "lr":
        step = -(-len(y) // _MOST_POINTS)
        axes.plot(x[::step], y[::step], color=colour, alpha=0.25, linewidth=0.8, zorder=1)
        y = _running_mean(y, width)
    axes.plot(x, y, style, color=colour, label=name, marker=marker, markersize=3.5, linewidth=1.6)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the ``width`` values around each, of fewer at the ends."""
    weight = np.ones(width)
    return np.convolve(values, weight, "same") / np.convolve(np.ones_like(values), weight, "same")


def _leave_out_the_start(axes: Any) -> None:
    """Limits that what comes after the first tenth asks for: the first rows are often ten times as high."""
    late = [line.get_ydata()[line.get_xdata() >= 0.1 * axes.get_xlim()[1]] for line in axes.lines]
    values = np.concatenate([*late, *([] if any(len(y) for y in late) else [line.get_ydata() for line in axes.lines])])
    margin = 0.08 * float(np.ptp(values)) or 0.1
    axes.set_ylim(max(0.0, float(values.min()) - margin), float(values.max()) + margin)


def _write_last_values(axes: Any) -> None:
    """In the lower right corner, where scores that rise leave room."""
    for k, line in enumerate(reversed(axes.lines)):
        place = (0.93, 0.04 + 0.11 * k)
        axes.text(*place, f"{line.get_ydata()[-1]:.1f}", transform=axes.transAxes, ha="right", color=line.get_color())


def _legend(figure: "Figure", grid: Any, runs: Mapping[str, Rows]) -> None:
    entries = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [label for name in runs for label in (name, f"{name}, validation") if label in entries]
    if names:
        figure.legend([entries[n] for n in names], names, loc="outside upper left", ncols=min(4, len(names)))


def runs_page(runs: Mapping[str, Rows], figure: "Figure") -> str:
    """One HTML page with the curves and a table of where the runs ended; it needs no other file."""
    head = ("run", "iterations", "total loss", "AP", "best AP", "s/iteration")
    body = []
    for name, rows in runs.items():
        ap = [row[key] for row in rows for key in row if key.endswith("bbox/AP") and not key.startswith("ema/")]
        cells = [f"{max(row['iteration'] for row in rows) + 1:,}", _last(rows, "total_loss", ".3f")]
        cells += [f"{ap[-1]:.1f}", f"{max(ap):.1f}"] if ap else ["", ""]
        cells.append(_last(rows, "time", ".3g"))
        body.append(f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{title}</th>" for title in head)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Training curves</title><style>'
        "body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 0 auto; padding: 1.5rem } "
        "svg { max-width: 100%; height: auto } th, td { text-align: left; padding: .2rem 1.2rem .2rem 0 }"
        f"</style></head><body>\n<h1>Training curves</h1>\n<table><tr>{titles}</tr>\n{''.join(body)}</table>\n"
        f"{as_svg(figure, 'losses, scores, learning rate, time and memory over iterations')}\n</body></html>\n"
    )


def _last(rows: Rows, key: str, form: str) -> str:
    values = [row[key] for row in rows if _is_number(row.get(key))]
    return format(values[-1], form) if values else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
