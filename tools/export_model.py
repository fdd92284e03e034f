#!/usr/bin/env python3
"""Export a detector to one file, NMS inside: ONNX (.onnx), TorchScript (.ts) or torch.export (.pt2).

    python tools/export_model.py CenterNet2_R50_1x model.onnx
    python tools/export_model.py my.yaml model.ts --weights my.pth --preprocess --postprocess
    python tools/export_model.py CenterNet2_R50_1x model.pt2 --fixed --size 512 640 --batch 4

The file is compared with the model on real pictures (--images, or photographs that come with the package) before it is
written; the figures go into its metadata. docs/EXPORT.md says what goes in and out.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from centernet.errors import UserError, command_line
from centernet.export import export_model
from centernet.export.request import SUFFIXES
from centernet.inference import Predictor
from centernet.inference.images import load_image
from centernet.modeling.fixed_size import FixedSizeDetector


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="name of a published model, or a YAML file")
    parser.add_argument("output", type=Path, help=f"file to write; its ending is the format: {', '.join(FORMATS)}")
    parser.add_argument("--weights", help="of the model; '' for random ones; otherwise the published or the config's")
    parser.add_argument("--fixed", action="store_true", help="exactly --size and --batch; otherwise any")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 640), metavar=("HEIGHT", "WIDTH"), help="pixels")
    parser.add_argument("--batch", type=int, default=1, help="pictures a call, with --fixed")
    parser.add_argument("--preprocess", action="store_true", help="pictures in, resized inside; --size is theirs")
    parser.add_argument("--postprocess", action="store_true", help="boxes in pixels of the original pictures")
    parser.add_argument("--threshold", type=float, help="smallest score of a detection")
    parser.add_argument("--images", type=Path, nargs="+", help="pictures to compare on")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes to the config")
    return parser.parse_args(arguments)


FORMATS = {suffix: name for name, suffix in SUFFIXES.items()}


def pictures_of(paths: list[Path] | None) -> list[np.ndarray] | None:
    """uint8 RGB pictures; None for those of the package."""
    return None if paths is None else [load_image(path)[:, :, ::-1] for path in paths]


@command_line
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.output.suffix not in FORMATS:
        raise UserError(f"{options.output} must end in one of {', '.join(FORMATS)}: the ending is the format")
    pictures = pictures_of(options.images)
    predictor = Predictor(options.model, options.weights, device="cpu", threshold=options.threshold, opts=options.opts)
    metadata = export_model(
        FixedSizeDetector(predictor.model),
        options.output,
        cfg=predictor.cfg,
        format=FORMATS[options.output.suffix],
        dynamic=not options.fixed,
        height=options.size[0],
        width=options.size[1],
        batch=options.batch,
        preprocess=options.preprocess,
        postprocess=options.postprocess,
        model=Path(options.model).stem,
        class_names=predictor.metadata.get("thing_classes", []),
        pictures=pictures,
    )
    check = json.loads(metadata["check"])
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
    print(f"  inputs {', '.join(json.loads(metadata['inputs']))}; outputs {', '.join(json.loads(metadata['outputs']))}")
    at_a_time = " and ".join(map(str, check["batches"]))
    print(
        f"  compared with the model on {check['images']} pictures, {at_a_time} at a time: {check['detections']} "
        f"detections, boxes within {check['boxes']:.2g} pixels, scores within {check['scores']:.2g}, same classes"
    )


if __name__ == "__main__":
    sys.exit(main())
