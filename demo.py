#!/usr/bin/env python
"""Show what a detector sees: pictures, a video or a webcam in; the same with boxes, names and scores out. Or a page in
the browser that does it."""

import argparse
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode

from centernet import model_zoo
from centernet.config_file import load_config, resolve_device
from centernet.errors import UserError, command_line
from centernet.inference import VisualizationDemo, set_score_threshold
from centernet.inference.outputs import check_writable, plan_outputs
from centernet.inference.result_files import ResultFile, check_result_file
from centernet.inference.runner import Report, leave_out_finished, run_frames, run_inputs
from centernet.inference.sources import Inputs, check_single_input, find_inputs, open_webcam
from centernet.inference.tracking2d import check_tracking, lowest_tracked_score
from centernet.inference.video import check_display
from centernet.inference.web import serve_page
from centernet.model_zoo import resolve_config_file
from centernet.tracking3d.inference import command as command3d

EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 130
DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "CenterNet2_R50_1x.yaml"

EXAMPLES = """
examples:
  one picture, the result in a file:
    python demo.py --config-file configs/CenterNet2_R50_1x.yaml --input street.jpg --output found.jpg \\
        --opts MODEL.WEIGHTS model_final.pth
  a folder or a pattern, the results in a folder, what was found in a table:
    python demo.py --config-file ... --input photos/ --output results/ --save-results found.csv --opts ...
    python demo.py --config-file ... --input 'photos/*.png' --output results/ --opts MODEL.WEIGHTS ...
  a video, only what is at least half certain, each object with a number:
    python demo.py --config-file ... --video-input walk.mp4 --output found.mp4 --confidence-threshold 0.5 \\
        --track --opts MODEL.WEIGHTS ...
  the second webcam, in a window (Esc ends):
    python demo.py --config-file ... --webcam 1 --opts MODEL.WEIGHTS ...
  boxes and tracks in 3D from one calibrated camera, with a view from above:
    python demo.py --tracking3d --config-file configs/tracking3d/... --input drive.mp4 --intrinsics camera.txt \\
        --output tracked.mp4 --save-results tracked.json --opts MODEL.WEIGHTS ...
  a page in the browser, for this machine alone:
    python demo.py --config-file ... --web --opts MODEL.WEIGHTS ...

exit code: 0 all was done, 1 some inputs could not be read, 2 there is a mistake in the command or the files, 130 Ctrl-C
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    config = "the model's YAML file; without it configs/CenterNet2_R50_1x.yaml, which needs MODEL.WEIGHTS"
    add("--config-file", metavar="FILE", help=config)
    source = parser.add_mutually_exclusive_group(required=True)
    pictures = "pictures, folders of pictures, patterns such as 'a/*.jpg', videos"
    source.add_argument("--input", nargs="+", metavar="PATH", help=pictures)
    source.add_argument("--video-input", metavar="FILE", help="a video")
    webcam = "a webcam; the first one, 0, without a number"
    source.add_argument("--webcam", nargs="?", type=int, const=0, metavar="NUMBER", help=webcam)
    page = "a page in the browser, with this model and those of the zoo whose weights are here: pip install -e '.[web]'"
    source.add_argument("--web", action="store_true", help=page)
    add("--host", metavar="ADDRESS", help="--web: where to listen (default 127.0.0.1; 0.0.0.0: for all machines)")
    add("--port", type=int, metavar="NUMBER", help="--web: the port (default: a free one, from 7860)")
    add("--share", action="store_true", help="--web: also a public link through gradio's servers")
    add(
        "--output",
        metavar="PATH",
        help="a file for one input, or a folder (made if it is not there); without it and --save-results a window "
        "shows the results (any key: the next one, Esc: end)",
    )
    add(
        "--save-results",
        metavar="FILE",
        help="what was found, as FILE.json, FILE.coco.json (COCO's format) or FILE.csv; with it and without --output "
        "nothing is drawn",
    )
    threshold = "show only detections with at least this score, 0 to 1 (default 0.3)"
    add("--confidence-threshold", type=float, default=0.3, metavar="P", help=threshold)
    add("--heatmap", action="store_true", help="lay the first stage's P(object) over the pictures")
    add("--track", action="store_true", help="videos: number the objects, the same number from frame to frame")
    together = "pictures of one size, or frames, that are predicted together (default 1)"
    add("--batch-size", type=int, default=1, metavar="N", help=together)
    faster = "half precision where the hardware has it, norms folded; on a GPU compiled, after a slow start"
    add("--optimize", action="store_true", help=faster)
    command3d.add_arguments(parser)
    add("--resume", action="store_true", help="leave out what an interrupted run of the same command has finished")
    keys = "config values to change, last on the line: MODEL.WEIGHTS FILE, MODEL.DEVICE cpu, ..."
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help=keys)
    return parser.parse_args(argv)


def find_sources(args: argparse.Namespace) -> Inputs:
    if args.webcam is not None:  # the name of the result in a folder
        return Inputs(images=(), videos=(Path(f"webcam{args.webcam}.mp4"),))
    if args.video_input is not None:
        inputs = Inputs(images=(), videos=(Path(args.video_input).expanduser(),))
    else:
        inputs = find_inputs(args.input)
    check_single_input(inputs)
    return inputs


def plan(args: argparse.Namespace, inputs: Inputs) -> dict[Path, Path] | None:
    """Where drawn results go; mistakes are told before a model is built."""
    if args.batch_size < 1:
        raise UserError(f"--batch-size is {args.batch_size}, but must be a whole number from 1")
    if args.track:
        check_tracking()
        if not inputs.videos:
            raise UserError("--track numbers the objects of videos, but there is no video among the inputs")
    results = plan_outputs(inputs.all, args.output) if args.output is not None else None
    if args.resume and (args.webcam is not None or results is None and args.save_results is None):
        raise UserError("--resume goes on with files that were written: give --input and --output or --save-results")
    for path in set((results or {}).values()):
        check_writable(path)
    if args.save_results is not None:
        check_result_file(Path(args.save_results).expanduser())
        check_writable(Path(args.save_results).expanduser())
    elif results is None:
        check_display()
    return results


def build_demo(args: argparse.Namespace) -> VisualizationDemo:
    if not args.config_file and "MODEL.WEIGHTS" not in args.opts:
        raise UserError(
            "which model? Give its config and trained weights: --config-file FILE --opts MODEL.WEIGHTS FILE "
            f"(with the weights alone, the config is {DEFAULT_CONFIG.name})"
        )
    cfg = load_config(resolve_config_file(args.config_file or DEFAULT_CONFIG), args.opts)
    command3d.refuse_leftovers(args, cfg)
    threshold = args.confidence_threshold
    set_score_threshold(cfg, lowest_tracked_score(threshold) if args.track else threshold)
    resolve_device(cfg)
    return VisualizationDemo(
        cfg,
        parallel=args.webcam is None,
        score_threshold=threshold,
        batch_size=args.batch_size,
        heatmap=args.heatmap,
        track=args.track,
        optimize=args.optimize,
    )


def open_results(args: argparse.Namespace, demo: VisualizationDemo) -> ResultFile | nullcontext[None]:
    if args.save_results is None:
        return nullcontext()
    weights, threshold = demo.predictor.cfg.MODEL.WEIGHTS, args.confidence_threshold
    settings = {"weights": weights, "threshold": threshold, "track": args.track}
    return ResultFile(Path(args.save_results).expanduser(), demo.metadata, settings, resume=args.resume)


def run_files(args: argparse.Namespace, report: Report) -> None:
    inputs = find_sources(args)
    results = plan(args, inputs)
    demo = build_demo(args)
    with open_results(args, demo) as saved:
        if args.resume:
            inputs = leave_out_finished(inputs, results, saved, report)
        run_inputs(demo, inputs, results, report, saved)


def run_3d(args: argparse.Namespace, report: Report) -> None:
    plan = command3d.make_plan(args)
    cfg = load_config(resolve_config_file(args.config_file), args.opts)
    resolve_device(cfg)
    command3d.run(plan, cfg, report)


def run_webcam(args: argparse.Namespace, report: Report) -> None:
    results = plan(args, find_sources(args))
    with open_webcam(args.webcam) as webcam:
        demo = build_demo(args)
        with open_results(args, demo) as saved:
            run_frames(demo, webcam, next(iter(results.values())) if results else None, report, saved)


def page_models(args: argparse.Namespace) -> dict[str, Callable[[], CfgNode]]:
    """The page's models by name: the one of the command line first, then those of the zoo whose weights are here."""
    models: dict[str, Callable[[], CfgNode]] = {}
    if args.config_file or "MODEL.WEIGHTS" in args.opts:
        path = Path(resolve_config_file(args.config_file or DEFAULT_CONFIG))
        cfg = load_config(path, args.opts)
        models[path.stem if path.stem != "config" else path.absolute().parent.name] = lambda: cfg
    keys = args.opts[::2]
    device = args.opts[2 * keys.index("MODEL.DEVICE") :][:2] if "MODEL.DEVICE" in keys else []
    for name in filter(model_zoo.is_at_hand, model_zoo.names()):
        if model_zoo.info(name).family == "3D tracking":  # needs a camera, which a picture dropped on a page lacks
            continue
        models.setdefault(name, partial(model_zoo.get_config, name, [*device, "MODEL.WEIGHTS", f"zoo://{name}"]))
    return models


def run_page(args: argparse.Namespace) -> None:
    files = ("output", "save_results", "heatmap", "track", "resume")
    if extra := [f"--{name.replace('_', '-')}" for name in files if getattr(args, name)]:
        raise UserError(f"{', '.join(extra)}: not with --web, whose page shows and saves the results")
    where = {"host": args.host or "127.0.0.1", "port": args.port, "share": args.share}
    serve_page(page_models(args), threshold=args.confidence_threshold, optimize=args.optimize, **where)


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("centernet").setLevel(logging.INFO)
    if not args.tracking3d:
        command3d.refuse_leftovers(args)
        if args.web:
            run_page(args)
            return 0
        if args.host or args.port or args.share:
            raise UserError("--host, --port and --share belong to --web")
    report, interrupted = Report(), False
    try:
        (run_3d if args.tracking3d else run_files if args.webcam is None else run_webcam)(args, report)
    except KeyboardInterrupt:
        interrupted = True
    written = " and ".join(path for path in (args.output, args.save_results) if path)
    where = f"; results in {written}" if written and report.pictures + report.frames else ""
    print(("interrupted after " if interrupted else "") + report.summary() + where)
    return EXIT_INTERRUPTED if interrupted else EXIT_SOME_FAILED if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
