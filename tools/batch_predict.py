#!/usr/bin/env python3
"""Run a detector over many pictures, on this machine or on Ray. Give the same command again after a kill: it goes on.

    python tools/batch_predict.py --config-file configs/CenterNet2_R50_1x.yaml --input photos/ --output found.parquet \\
        --opts MODEL.WEIGHTS model_final.pth
    python tools/batch_predict.py ... --input shards/*.tar --output found/ --ray --workers 4 --gpus-per-worker 1
    python tools/batch_predict.py ... --input annotations/image_info.json --image-root images --output found.json

OUTPUT is a folder of Parquet files, one .parquet file, or one .json file (COCO); docs/BATCH.md has the columns.
OUTPUT.broken.jsonl lists the pictures that cannot be read.
Exit status: 0 done, 1 done, but some pictures are broken, 2 a mistake in the command or files.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.config_file import load_config, resolve_device
from centernet.errors import UserError, command_line
from centernet.inference.batch.inputs import Columns, list_pictures
from centernet.inference.batch.ray_workers import RayOptions
from centernet.inference.batch.run import FORMATS, Summary, predict_many
from centernet.inference.sources import find_inputs
from centernet.model_zoo import resolve_config_file

EXIT_SOME_BROKEN = 1
TOLD = 20  # broken pictures that are named on the terminal
INPUT = "folders, globs or files: pictures, .parquet, .tar (WebDataset); or one list of pictures (.txt, COCO .json)"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the model's YAML file")
    add("--input", required=True, nargs="+", metavar="PATH", help=INPUT)
    add(
        "--image-root",
        type=Path,
        metavar="FOLDER",
        help="of names in lists and in the result",
    )
    add("--image-column", default="", metavar="NAME", help="of Parquet files: bytes or paths (default: found)")
    add("--id-column", default="", metavar="NAME", help="of Parquet files (default: image_id, id, or numbers)")
    add("--output", required=True, type=Path, metavar="PATH", help="a folder, .parquet or .json")
    add("--format", default="", choices=("", *FORMATS), metavar="NAME", help=f"{', '.join(FORMATS)} (by the extension)")
    add("--threshold", type=float, default=0.05, metavar="P", help="smallest score (default 0.05)")
    add("--batch-size", type=int, default=8, metavar="N", help="pictures at a time in each model (default 8)")
    add("--shard-size", type=int, default=256, metavar="N", help="pictures that a kill can lose at most (default 256)")
    add("--workers", type=int, metavar="N", help="threads that decode (default: cores, up to 8); with --ray, models")
    add("--ray", nargs="?", const="", metavar="ADDRESS", help="on Ray: here, or in the running cluster at ADDRESS")
    add("--cpus-per-worker", type=int, default=1, metavar="N", help="with --ray (default 1)")
    add("--gpus-per-worker", type=float, metavar="X", help="with --ray (default 1 where there are GPUs)")
    add("--retry-broken", action="store_true", help="read pictures again that were broken")
    add("--precision", metavar="NAME", help="float32, bfloat16, float16 or auto (default float32; --optimize: auto)")
    add("--optimize", action="store_true", help="fold norms, half precision; on a GPU compile")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config settings, last")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuse numbers that cannot be meant, and a result among the inputs."""
    if not 0 <= options.threshold <= 1:
        raise UserError(f"--threshold is {options.threshold}, but it is a score: give a number from 0 to 1")
    for name in ("batch_size", "shard_size", "workers", "cpus_per_worker"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}, but must be at least 1")
    if options.gpus_per_worker is not None and options.gpus_per_worker < 0:
        raise UserError(f"--gpus-per-worker is {options.gpus_per_worker}, but must be 0 or more")
    for name in options.input:
        folder = Path(name).expanduser()
        if folder.is_dir() and options.output.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--output {options.output} is inside the input folder {name}, where a later run would take it for an "
                "input: give a place outside"
            )
        if not folder.is_dir() and options.output.resolve() in (file.resolve() for file in find_inputs([name]).all):
            raise UserError(f"--output {options.output} would overwrite an input of this name: give another place")


def ray_options(options: argparse.Namespace) -> RayOptions | None:
    """What --ray and its companions say; None without it."""
    if options.ray is None:
        if options.gpus_per_worker is not None or options.cpus_per_worker != 1:
            raise UserError("--cpus-per-worker and --gpus-per-worker are for runs with --ray")
        return None
    return RayOptions(options.ray, options.workers, options.cpus_per_worker, options.gpus_per_worker)


def report(output: Path, summary: Summary) -> int:
    """Print what was done; returns the exit status."""
    print(f"{summary.detections} detections on {summary.pictures} pictures in {output}")
    if not summary.broken:
        return 0
    print(f"{len(summary.broken)} pictures are broken, listed in {summary.broken_list}:")
    for sentence in summary.broken[:TOLD]:
        print(f"  {sentence}")
    if len(summary.broken) > TOLD:
        print(f"  and {len(summary.broken) - TOLD} more")
    return EXIT_SOME_BROKEN


@command_line
def main(arguments: list[str] | None = None) -> int:
    """List pictures, run the model, write; returns the exit status."""
    options = parse(arguments)
    check(options)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("centernet").setLevel(logging.INFO)
    ray = ray_options(options)
    cfg = load_config(resolve_config_file(options.config_file), options.opts)
    listed = list_pictures(options.input, options.image_root, Columns(options.image_column, options.id_column))
    if ray is None:
        resolve_device(cfg)
    summary = predict_many(
        cfg,
        listed,
        options.output,
        form=options.format,
        threshold=options.threshold,
        batch_size=options.batch_size,
        shard_size=options.shard_size,
        loaders=options.workers,
        ray=ray,
        retry_broken=options.retry_broken,
        precision=options.precision or ("auto" if options.optimize else "float32"),
        optimize=options.optimize,
    )
    return report(options.output, summary)


if __name__ == "__main__":
    sys.exit(main())
