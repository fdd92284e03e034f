#!/usr/bin/env python3
"""Run an ONNX file of tools/export_model.py without PyTorch: onnxruntime, numpy and Pillow are enough.

    python tools/onnx_runner.py model.onnx picture.jpg --threshold 0.5 --json found.json

Works on files with and without --preprocess and --postprocess; what a file needs is in its metadata.
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def network_input(picture: np.ndarray, metadata: dict) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 [H, W, 3] to images [1, 3, H', W'] and image_sizes [1, 2]: resized as in evaluation, padded."""
    rule, canvas, divisor = (json.loads(metadata[key]) for key in ("resize", "canvas", "divisor"))
    size = np.array(picture.shape[:2], dtype=float)
    if rule["square"]:
        size = np.maximum(np.floor(size * min(rule["long"] / size)), 1)
    elif rule["short"]:
        size = size * (rule["short"] / size.min())
        size = np.maximum(np.floor(size * min(1.0, rule["long"] / size.max()) + 0.5), 1)
    if canvas:  # of a file with a fixed size
        size = np.maximum(np.floor(size * min(1.0, *(np.array(canvas) / size))), 1)
    height, width = size.astype(int).tolist()
    smallest = json.loads(metadata["smallest"])
    rows, columns = canvas or (-(-max(side, smallest) // divisor) * divisor for side in (height, width))
    images = np.zeros((1, 3, rows, columns), np.uint8)
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    images[0, :, :height, :width] = np.asarray(resized).transpose(2, 0, 1)
    return images, np.array([[height, width]])


def detect(session: onnxruntime.InferenceSession, picture: np.ndarray) -> list[dict]:
    """Objects in a picture uint8 [H, W, 3] RGB, best first: class, score, box x1, y1, x2, y2 in its pixels."""
    metadata = session.get_modelmeta().custom_metadata_map
    names, original = json.loads(metadata["class_names"]), np.array([picture.shape[:2]])
    if metadata["input_format"] == "BGR":
        picture = np.ascontiguousarray(picture[:, :, ::-1])
    if json.loads(metadata["preprocess"]):
        fixed = json.loads(metadata["canvas"])
        if fixed and list(picture.shape[:2]) != fixed:
            raise SystemExit(f"error: this file is for pictures of {fixed[0]} x {fixed[1]} pixels")
        inputs = [picture[None]]
    else:
        inputs = [*network_input(picture, metadata), original]
    inputs = dict(zip(json.loads(metadata["inputs"]), inputs, strict=False))
    found = dict(zip(json.loads(metadata["outputs"]), session.run(None, inputs), strict=True))
    boxes, keep = found["boxes"][0], found["valid"][0]
    if not json.loads(metadata["postprocess"]):
        sizes = inputs["image_sizes"] if "image_sizes" in inputs else found["image_sizes"]
        boxes = np.clip(boxes * np.tile((original / sizes)[0, ::-1], 2), 0, np.tile(original[0, ::-1], 2))
    rows = zip(boxes[keep], found["scores"][0][keep], found["classes"][0][keep], strict=True)
    return [
        {"class": names[c] if c < len(names) else str(c), "score": float(s), "box": [round(float(v), 2) for v in b]}
        for b, s, c in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("picture")
    parser.add_argument("--threshold", type=float, default=0.3, help="smallest score shown")
    parser.add_argument("--json", help="file to write")
    options = parser.parse_args()
    picture = np.asarray(ImageOps.exif_transpose(Image.open(options.picture)).convert("RGB"))
    onnxruntime.set_default_logger_severity(3)  # warnings are about constants that it could fold
    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    found = [row for row in detect(session, picture) if row["score"] >= options.threshold]
    for row in found:
        print(f"{row['class']:20} {row['score']:.3f}  {row['box']}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
