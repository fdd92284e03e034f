#!/usr/bin/env python3
"""From nothing to a trained, evaluated and shown detector on this machine; `make demo` runs this after
set-up.

    python tools/run_demo.py [--resume] [KEY VALUE ...]

Makes the embedded data (handwritten digits on photographs), trains configs/demo/CenterNet2_R18_digits.yaml on
it, evaluates on the held-out images, draws boxes on some of them, and ends with a table. KEY VALUE pairs
change the config, for example SOLVER.MAX_ITER 100. All results are in output/demo.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from centernet.data.datasets import data_root, generate_digits  # noqa: E402
from centernet.errors import UserError, command_line  # noqa: E402

CONFIG = "configs/demo/CenterNet2_R18_digits.yaml"
OUTPUT = Path("output/demo")
PICTURES = 12
CONFIDENCE = 0.5


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted demo")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of the config")
    return parser.parse_intermixed_args(arguments)


def run(title: str, *command: str | Path) -> None:
    """Run a command line of this repository as a user would; its output is shown."""
    print(f"\n== {title}\n$ python {' '.join(map(str, command))}", flush=True)
    status = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=False).returncode
    if status:
        raise UserError(f"the demo stopped: {command[0]} ended with status {status}")


def read_scores(metrics_file: Path) -> dict[str, float]:
    """AP, AP50 and AP75 (percent) of the last evaluation, and the median seconds of an iteration."""
    rows = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    evaluated = [row for row in rows if "bbox/AP" in row]
    if not evaluated:
        raise UserError(f"{metrics_file} has no scores: was the evaluation interrupted?")
    scores = {name: evaluated[-1][f"bbox/{name}"] for name in ("AP", "AP50", "AP75")}
    return scores | {"s/iteration": median(row["time"] for row in rows if "time" in row)}


@command_line
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    start = time.perf_counter()
    print("== The data", flush=True)
    folder = generate_digits(ROOT / data_root())
    print(f"handwritten digits on photographs: {folder} (licences: {folder / 'LICENSES.txt'})")

    resume = ["--resume"] if options.resume else []
    run(
        "Training and evaluation",
        *("train_net.py", "--config-file", CONFIG, *resume, *options.opts, "OUTPUT_DIR", OUTPUT),
    )

    pictures = OUTPUT / "pictures"
    shutil.rmtree(ROOT / pictures, ignore_errors=True)  # those of an earlier demo
    held_out = sorted((folder / "val").glob("*.jpg"))[:PICTURES]
    run(
        "Pictures of the detections on held-out images",
        *("demo.py", "--config-file", CONFIG, "--input", *held_out, "--output", pictures),
        *("--confidence-threshold", str(CONFIDENCE)),
        *("--opts", *options.opts, "MODEL.WEIGHTS", OUTPUT / "model_final.pth"),
    )

    scores = read_scores(ROOT / OUTPUT / "metrics.json")
    scores["minutes"] = (time.perf_counter() - start) / 60
    formats = {"s/iteration": ".3f"}
    cells = [format(value, formats.get(name, ".1f")) for name, value in scores.items()]
    print("\n" + tabulate([cells], headers=list(scores), tablefmt="github", disable_numparse=True))
    print(f"\npictures with the boxes: {ROOT / pictures}")


if __name__ == "__main__":
    sys.exit(main())
