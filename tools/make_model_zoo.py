#!/usr/bin/env python3
"""Write docs/MODEL_ZOO.md from the table in centernet/model_zoo/rows.py.

python tools/make_model_zoo.py
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.errors import command_line
from centernet.model_zoo import PSEUDO_LABELS, Row, drive_page
from centernet.model_zoo.rows import MOTION_MODELS, ROWS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "MODEL_ZOO.md"

INTRODUCTION = """\
# Model zoo

<!-- Written by tools/make_model_zoo.py from centernet/model_zoo/rows.py: change those. -->

AP and FPS are **as published by the authors**: AP of boxes in percent, tested at one scale; images a second on a
Titan Xp and a Titan RTX. No published checkpoint and no COCO were at hand when this package was written: neither has
been measured here. **Same numbers** means: given the same weights and images, features, detections (single images and
batches), all losses and the gradient norm of every parameter are those of the published code
(`tests/golden/test_reference_dumps.py`, which needs the published code's dumps; `test_fingerprints.py` has a part of
them with it).

By name, from Python and on the command line:

```python
from centernet import model_zoo

model = model_zoo.get("CenterNet2_R50_1x")  # published weights, evaluation mode, GPU if there is one
cfg = model_zoo.get_config("CenterNet2_R50_1x", ["SOLVER.MAX_ITER", "1000"])
```
```
python demo.py --config-file CenterNet2_R50_1x --input street.jpg --output found.jpg \\
    --opts MODEL.WEIGHTS zoo://CenterNet2_R50_1x
```

Weights are downloaded once, into `CENTERNET_CACHE` (else `FVCORE_CACHE/centernet`, else `~/.cache/centernet`), where
their sha256 is recorded at the first use and compared at every later one. `CENTERNET_WEIGHTS`, a folder or the http
address of one, is looked in first, for `NAME.pth` and `NAME.safetensors`. Each link below is followed by the one of
the authors' earlier page; either may be dead.

All models are trained on several scales, those with published rows on 8 GPUs; with smaller batches scale the learning
rate in proportion.
"""

SECTIONS = {
    "one stage": "## COCO: CenterNet, one stage",
    "two stages": "## COCO: CenterNet2, two stages\n\nR2 is Res2Net. `_ST`: trained on pseudo-labels too "
    f"([file]({drive_page(PSEUDO_LABELS[0])}), [earlier]({drive_page(PSEUDO_LABELS[1])}), made with Scaled-YOLOv4 on "
    "COCO's unlabelled images, scores from 0.5).",
    "LVIS v1": "## LVIS v1",
    "Objects365": "## Objects365",
    "no published row": "## Configs without published scores\n\nNo weights were published either.",
    "timm": "## Backbones of timm\n\nOurs: nothing is published, and nothing has been trained on COCO.",
    "demo": "## For small machines\n\nOurs, small enough to be trained on 2 CPU cores; figures, where there are any, "
    "and commands are in [BENCHMARKS.md](BENCHMARKS.md).",
    "3D tracking": "## Monocular 3D detection and tracking\n\nQD-3DT (arXiv 2103.07351), in modes: the published "
    "configs compute what the published code does (parity), `MODEL.TRACKING3D.MODE modern` mends its flaws. Downloads "
    "are the released files, converted as they are loaded. **Waymo**: no weights exist, because Waymo's licence does "
    "not allow to release models trained on its data; the configs are for your own training.",
    "motion": '### Motion models of the tracker\n\n`model_zoo.get("VeloLSTM_nuScenes")` is the network; in a config, '
    "`MODEL.TRACKING3D.TRACKER.MOTION VeloLSTM` and `MODEL.TRACKING3D.TRACKER.MOTION_WEIGHTS zoo://VeloLSTM_nuScenes`.",
}


def page() -> str:
    """The text of the page."""
    parts = [INTRODUCTION]
    for family, heading in SECTIONS.items():
        parts.append(f"{heading}\n\n{table([row for row in (*ROWS, *MOTION_MODELS) if row.family == family])}")
    return "\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """A section's table, without the columns that are empty in all its rows, and the notes below it."""
    columns = {
        "model": [f"[{row.name}](../configs/{row.config})" if row.config else row.name for row in rows],
        ("published AP" if any(row.ap for row in rows) else "published"): [scores(row) for row in rows],
        "published FPS": [" / ".join(map(str, row.fps)) if row.fps else "" for row in rows],
        "data": ["" if row.dataset == "COCO" else f"{row.dataset}: {row.metric}" for row in rows],
        "parameters": [f"{row.parameters:,}" for row in rows],
        "weights": [links(row) for row in rows],
        "same numbers": ["yes" if row.compared else "" for row in rows],
    }
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    lines = [shown.keys(), ["---"] * len(shown), *zip(*shown.values(), strict=True)]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    notes = "".join(f"- `{row.name}`: {'; '.join(noted(row))}.\n" for row in rows if noted(row))
    return f"{text}\n{notes}" if notes else text


def scores(row: Row) -> str:
    return row.published if row.ap is None else f"{row.ap:.1f}"


def links(row: Row) -> str:
    if row.withheld:
        return "none (licence)"
    titles = ("file", "earlier")
    return ", ".join(f"[{title}]({drive_page(i)})" for title, i in zip(titles, row.drive_ids, strict=False))


def noted(row: Row) -> list[str]:
    return [*row.notes, *(f"also called `{alias}`" for alias in row.aliases)]


@command_line
def main() -> None:
    PAGE.write_text(page(), "utf-8")
    print(f"{PAGE} is written: {len(ROWS) + len(MOTION_MODELS)} models")


if __name__ == "__main__":
    sys.exit(main())
