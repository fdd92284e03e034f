"""The doctor's findings as a JSON file and as an HTML page that needs nothing but itself."""

import base64
import html
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .doctor import Finding, Report
from .doctor_sheet import class_colour, contact_sheet

__all__ = ["report_content", "report_html", "summary_lines", "write_report"]

_NAMES_SHOWN = 100  # of a finding, on the page; the JSON file has all
_CLASSES_SHOWN = 60
_COLOURS = {"error": "#c62828", "warning": "#b26a00", "note": "#4a6572"}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222;
       background: #fff; overflow-wrap: anywhere }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; overflow-wrap: normal } td, th { padding: .15em .8em .15em 0; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
summary { cursor: pointer } ul { margin: .3em 0 .8em; max-height: 20em; overflow: auto }
.tag { color: #fff; border-radius: 3px; padding: 0 .5em; font-size: .85em }
.wide { overflow-x: auto } .wide > * { display: block; width: 100%; min-width: 44em; height: auto }
.bars { display: grid; grid-template-columns: fit-content(40%) 1fr; gap: .25em .5em; max-width: 52em;
        align-items: center; font-size: .9em }
.bars > :nth-child(odd) { text-align: right } .bars > :nth-child(even) { display: flex; align-items: center }
.bars i { height: 1em; flex: none } .bars span span { margin-left: .5em; white-space: nowrap }
svg text { font: 12px system-ui, sans-serif; fill: #333 }
"""


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``report.json``, ``report.html`` and ``pictures.jpg``; returns their paths.

    Raises:
        UserError: the folder cannot be made or written.
    """
    pictures = io.BytesIO()
    records = report.parts["train"] + report.parts["val"]
    contact_sheet(records, report.classes).save(pictures, "JPEG", quality=88)
    contents = {
        "report.json": json.dumps(report_content(report), indent=1).encode(),
        "report.html": report_html(report, pictures.getvalue()).encode(errors="backslashreplace"),
        "pictures.jpg": pictures.getvalue(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise UserError(f"the report cannot be written to {folder}: {error.strerror or error}") from None
    return [folder / name for name in contents]


def report_content(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    sizes = report.sizes
    parts = {
        part: {"images": len(records), "boxes": sum(len(record["annotations"]) for record in records)}
        for part, records in report.parts.items()
    }
    classes = [
        {"name": name}
        | {f"{part}_boxes": int(report.boxes[part][index]) for part in report.parts}
        | {f"{part}_images": int(report.images[part][index]) for part in report.parts}
        for index, name in enumerate(report.classes)
    ]
    return {
        "data": report.title,
        "parts": parts,
        "classes": classes,
        "findings": [finding._asdict() | {"count": len(finding.where)} for finding in report.findings],
        "sizes": {
            "median_scale_to_input": round(sizes.scale, 3),
            "half_diagonal_percentiles": sizes.percentiles(),
            "levels": [
                {"soi": list(limits), "share": round(share, 4)}
                for limits, share in zip(sizes.ranges, sizes.shares, strict=True)
            ],
            "narrower_than_a_cell": round(sizes.tiny, 4),
            "advice": [advice.text for advice in sizes.advice],
        },
    }


def summary_lines(report: Report) -> list[str]:
    """What a terminal shows: parts, classes, then one line a finding with the first names."""
    lines = []
    for part, numbers in report_content(report)["parts"].items():
        lines.append(f"{part}: {numbers['images']:,} images, {numbers['boxes']:,} boxes")
    lines.append(f"classes ({len(report.classes)}): {', '.join(report.classes[:20])}")
    for finding in report.findings:
        shown = "; ".join(finding.where[:3]) + ("; ..." if len(finding.where) > 3 else "")
        lines.append(f"{finding.level}: {_headline(finding)}" + (f" ({shown})" if shown else ""))
    counts = ", ".join(f"{report.count(level)} {level}s" for level in _COLOURS)
    return [*lines, counts]


def _headline(finding: Finding) -> str:
    return f"{finding.what}: {len(finding.where):,}" if finding.where else finding.what


def report_html(report: Report, pictures: bytes) -> str:
    """A page with everything in it: no script, no file, no address besides.

    Args:
        pictures: the contact sheet as JPEG.
    """
    title = html.escape(f"Data: {report.title}")
    sheet = base64.b64encode(pictures).decode()
    parts = "".join(
        f"<tr><td>{part}</td><td class=n>{numbers['images']:,}</td><td class=n>{numbers['boxes']:,}</td></tr>"
        for part, numbers in report_content(report)["parts"].items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<table><tr><th>part</th><th class=n>images</th><th class=n>boxes</th></tr>{parts}</table>
<h2>Findings</h2>
{"".join(map(_finding_html, report.findings)) or "<p>Nothing to remark.</p>"}
<h2>Pictures</h2>
<div class="wide"><img alt="pictures with their boxes" src="data:image/jpeg;base64,{sheet}"></div>
<h2>Classes</h2>
{_class_chart(report)}
<h2>Sizes</h2>
<p>Half diagonal of the objects in pixels of the model's input (images are scaled by {report.sizes.scale:.2f} in the
median), against the ranges of MODEL.CENTERNET.SOI.</p>
{_size_chart(report)}
{_level_table(report)}
</body></html>
"""


def _finding_html(finding: Finding) -> str:
    tag = f'<span class="tag" style="background:{_COLOURS[finding.level]}">{finding.level}</span>'
    headline = f"{tag} {html.escape(_headline(finding))}"
    if not finding.where:
        return f"<p>{headline}</p>\n"
    more = len(finding.where) - _NAMES_SHOWN
    names = "".join(f"<li>{html.escape(name)}</li>" for name in finding.where[:_NAMES_SHOWN])
    rest = f"<li>and {more:,} more, in report.json</li>" if more > 0 else ""
    opened = " open" if finding.level == "error" else ""
    return f"<details{opened}><summary>{headline}</summary><ul>{names}{rest}</ul></details>\n"


def _class_chart(report: Report) -> str:
    """A bar a class, most boxes first; training and validation side by side in two strengths of colour."""
    totals = sum(report.boxes.values(), np.zeros(len(report.classes), np.int64))
    order = np.argsort(-totals, kind="stable").tolist()
    shown = order[:_CLASSES_SHOWN]
    longest = max(1, int(totals.max(initial=0)))
    rows = []
    for index in shown:
        # room for the counts behind the longest bar
        train, val = (62 * int(report.boxes[part][index]) / longest for part in ("train", "val"))
        colour = "rgb({},{},{})".format(*(value * 3 // 4 for value in class_colour(index)))
        counts = f"{report.boxes['train'][index]:,} + {report.boxes['val'][index]:,}"
        rows.append(
            f"<span>{html.escape(report.classes[index])}</span>"
            f'<span><i style="width:{train:.2f}%;background:{colour}"></i>'
            f'<i style="width:{val:.2f}%;background:{colour};opacity:.45"></i><span>{counts}</span></span>\n'
        )
    rest = len(order) - len(shown)
    more = f"<p>and {rest} classes with fewer boxes, in report.json</p>" if rest > 0 else ""
    return f'<p>Boxes for training + validation.</p><div class="bars">\n{"".join(rows)}</div>{more}'


def _size_chart(report: Report) -> str:
    """Histogram over the logarithm of the half diagonal, with a band for each level above it."""
    radii = report.sizes.half_diagonals
    if not len(radii):
        return "<p>No objects.</p>"
    low, high = 1.0, 2048.0
    edges = np.geomspace(low, high, 45)
    counts, _ = np.histogram(np.clip(radii, low, high), edges)

    def x_of(value: float) -> float:
        return 20 + 740 * math.log(min(max(value, low), high) / low) / math.log(high / low)

    bands = "".join(
        f'<rect x="{x_of(start):.1f}" y="{6 + 14 * level}" width="{x_of(end) - x_of(start):.1f}" height="10" '
        f'fill="hsl({210 + 25 * level},45%,62%)"/><text x="{x_of(start) + 4:.1f}" y="{15 + 14 * level}">'
        f"level {level + 1}</text>"
        for level, (start, end) in enumerate(report.sizes.ranges)
    )
    top = 14 * len(report.sizes.ranges) + 14
    bars = "".join(
        f'<rect x="{x_of(start):.1f}" y="{top + 160 * (1 - count / counts.max()):.1f}" '
        f'width="{x_of(end) - x_of(start) - 1:.1f}" height="{160 * count / counts.max():.1f}" fill="#546e7a"/>'
        for start, end, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    )
    ticks = "".join(
        f'<text x="{x_of(tick):.1f}" y="{top + 176}" text-anchor="middle">{tick}</text>'
        for tick in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    )
    height = top + 184
    return f'<div class="wide"><svg viewBox="0 0 800 {height}" style="max-width:800px">{bands}{bars}{ticks}</svg></div>'


def _limit(value: float) -> str:
    return f"{value:g}" if value < 1e5 else "any"


def _level_table(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{level}</td><td class=n>{low:g}</td><td class=n>{_limit(high)}</td><td class=n>{share:.1%}</td></tr>"
        for level, ((low, high), share) in enumerate(zip(report.sizes.ranges, report.sizes.shares, strict=True), 1)
    )
    head = "<tr><th>level</th><th class=n>from</th><th class=n>to</th><th class=n>share of the objects</th></tr>"
    return f"<table>{head}{rows}</table>"
