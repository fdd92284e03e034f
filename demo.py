#!/usr/bin/env python
"""Show what a detector sees: pictures, a video or a webcam in; the same with boxes, names and scores out."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from centernet.config_file import load_config, resolve_device
from centernet.errors import UserError, command_line
from centernet.inference import VisualizationDemo, set_score_threshold
from centernet.inference.outputs import plan_outputs
from centernet.inference.runner import Report, run_frames, run_images, run_videos
from centernet.inference.sources import Inputs, check_single_input, find_inputs, open_webcam
from centernet.inference.video import check_display
from centernet.model_zoo import resolve_config_file

EXIT_SOME_FAILED = 1
DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "CenterNet2_R50_1x.yaml"

EXAMPLES = """
examples:
  one picture, the result in a file:
    python demo.py --config-file configs/CenterNet2_R50_1x.yaml --input street.jpg --output found.jpg \\
        --opts MODEL.WEIGHTS model_final.pth
  a folder or a pattern, the results in a folder:
    python demo.py --config-file ... --input photos/ --output results/ --opts MODEL.WEIGHTS ...
    python demo.py --config-file ... --input 'photos/*.png' --output results/ --opts MODEL.WEIGHTS ...
  a video, only what is at least half certain:
    python demo.py --config-file ... --video-input walk.mp4 --output found.mp4 --confidence-threshold 0.5 \\
        --opts MODEL.WEIGHTS ...
  the second webcam, in a window (Esc ends):
    python demo.py --config-file ... --webcam 1 --opts MODEL.WEIGHTS ...

exit code: 0 all was done, 1 some inputs could not be read, 2 there is a mistake in the command or the files
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="the model's YAML file; without it configs/CenterNet2_R50_1x.yaml, which needs MODEL.WEIGHTS",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help="pictures, folders of pictures, patterns such as 'a/*.jpg', videos",
    )
    source.add_argument("--video-input", metavar="FILE", help="a video")
    source.add_argument(
        "--webcam",
        nargs="?",
        type=int,
        const=0,
        metavar="NUMBER",
        help="a webcam; the first one, 0, without a number",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="a file for one input, or a folder (made if it is not there); without it a window shows the "
        "results (any key: the next one, Esc: end)",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.3,
        metavar="P",
        help="show only detections with at least this score, 0 to 1 (default 0.3)",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config values to change, last on the line: MODEL.WEIGHTS FILE, MODEL.DEVICE cpu, ...",
    )
    return parser.parse_args(argv)


def find_sources(args: argparse.Namespace) -> Inputs:
    if args.webcam is not None:
        return Inputs(
            images=(), videos=(Path(f"webcam{args.webcam}.mp4"),)
        )  # the name of the result in a folder
    if args.video_input is not None:
        inputs = Inputs(images=(), videos=(Path(args.video_input).expanduser(),))
    else:
        inputs = find_inputs(args.input)
    check_single_input(inputs)
    return inputs


def build_demo(args: argparse.Namespace) -> VisualizationDemo:
    if not args.config_file and "MODEL.WEIGHTS" not in args.opts:
        raise UserError(
            "which model? Give its config and trained weights: --config-file FILE --opts MODEL.WEIGHTS FILE "
            f"(with the weights alone, the config is {DEFAULT_CONFIG.name})"
        )
    cfg = load_config(resolve_config_file(args.config_file or DEFAULT_CONFIG), args.opts)
    set_score_threshold(cfg, args.confidence_threshold)
    resolve_device(cfg)
    return VisualizationDemo(cfg, score_threshold=args.confidence_threshold)


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("centernet").setLevel(logging.INFO)

    inputs = find_sources(args)
    results = plan_outputs(inputs.all, args.output) if args.output is not None else None
    if results is None:
        check_display()
    report = Report()
    if args.webcam is not None:
        with open_webcam(args.webcam) as webcam:
            run_frames(build_demo(args), webcam, next(iter(results.values())) if results else None, report)
    else:
        demo = build_demo(args)
        run_images(demo, inputs.images, results, report)
        run_videos(demo, inputs.videos, results, report)

    print(
        report.summary()
        + (f"; results in {args.output}" if args.output and report.pictures + report.frames else "")
    )
    return EXIT_SOME_FAILED if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
