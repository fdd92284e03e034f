#!/usr/bin/env python3
"""Draw the curves of one or several trainings: losses, scores, learning rate, time and memory over iterations.

    python tools/plot_metrics.py output/mine                              writes output/mine/curves.png
    python tools/plot_metrics.py output/a output/b --output a_and_b.html  two runs in one picture; also .svg
    python tools/plot_metrics.py output/mine --only 'loss_cls*' bbox/AP 'bbox/AP-*' --smooth 1

Dashed lines are validation losses (TEST.VALIDATION_LOSS). Lines are running means, the figures themselves stay visible
behind them. Works while a training runs.

Exit status: 0 written, 2 something to mend (one line says what).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.errors import UserError, command_line
from centernet.evaluation.report.curves import draw_runs, read_runs, runs_page

KINDS = (".png", ".svg", ".pdf", ".html")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="OUTPUT_DIR of a training, or a metrics.json")
    add("--output", type=Path, metavar="FILE", help="ends in .png, .svg, .pdf or .html (default: RUN/curves.png)")
    add("--smooth", type=int, default=0, metavar="N", help="mean over N rows (default: a fiftieth of them; 1: none)")
    add("--only", nargs="+", default=[], metavar="PATTERN", help="figures to show, such as total_loss 'loss_cls*'")
    return parser.parse_args(arguments)


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Read, draw, write; returns the exit status."""
    options = parse(arguments)
    if options.smooth < 0:
        raise UserError(f"--smooth is {options.smooth}: give a number of rows, 1 for no smoothing")
    first = options.runs[0]
    output = options.output or (first if first.is_dir() else first.parent) / "curves.png"
    if output.suffix.lower() not in KINDS:
        raise UserError(f"--output {output}: the name must end with one of {', '.join(KINDS)}")
    runs = read_runs(options.runs)
    figure = draw_runs(runs, smooth=options.smooth, only=options.only)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix.lower() == ".html":
            output.write_text(runs_page(runs, figure), "utf-8")
        else:
            figure.savefig(output, dpi=130)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    print(f"written: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
