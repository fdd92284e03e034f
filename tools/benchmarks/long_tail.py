#!/usr/bin/env python3
"""Do federated loss and repeat-factor sampling help rare classes? 100 classes with Zipf frequencies, drawn here.

    make demo                                                    its model is where both runs start
    python tools/benchmarks/long_tail.py --weights output/demo/model_final.pth --seeds 1 2 3

The classes are the numbers 00 to 99, two handwritten digits each, on photographs; handwriting and photographs of the
validation images are not in the training images. In training, the k-th most frequent number is drawn with a chance
~ 1 / k; which number has which rank is drawn from the seed. In validation all numbers are equally frequent. A class is
rare with at most 10 training images, common with at most 60, frequent with more. Two trainings a seed, of as many
iterations: softmax on images drawn evenly, and federated sigmoid loss (class counts from the training set) with
repeat-factor sampling. What is finished is not done again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from centernet.data.datasets.digits_render import Source, load_source

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = [f"{number:02d}" for number in range(100)]
SIDE = 112  # of the images, pixels
GROUPS = {"rare": (1, 10), "common": (11, 60), "frequent": (61, 10**9)}  # training images
SMALL = [
    *("MODEL.ROI_HEADS.NUM_CLASSES", 100, "INPUT.MIN_SIZE_TRAIN", (SIDE,), "INPUT.MIN_SIZE_TEST", SIDE),
    *("SOLVER.RESET_ITER", True, "SOLVER.WARMUP_ITERS", 30, "SOLVER.BASE_LR", 0.03, "DATALOADER.NUM_WORKERS", 1),
    *("SOLVER.IMS_PER_BATCH", 8, "MODEL.BACKBONE.FREEZE_AT", 3, "MODEL.CENTERNET.POST_NMS_TOPK_TRAIN", 128),
    *("MODEL.CENTERNET.POST_NMS_TOPK_TEST", 64, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.01),
]
RECIPES: dict[str, list[Any]] = {
    "softmax": ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", False],
    "federated": [
        *("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True),
        *("MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CAT", 50, "MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH", ""),
        *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 0.05),
    ],
}


def draw_number(canvas: np.ndarray, number: int, corner: tuple[int, int], size: int, source: Source, rng: Any) -> int:
    """Draw two digits, ``size`` pixels high, into float64 ``[h, w, 3]`` in [0, 1]; returns their width."""
    digits = [source.strokes[rng.choice(source.samples[digit])] for digit in divmod(number, 10)]
    grey = Image.fromarray(np.concatenate([digit[:, 1:7] * 15 for digit in digits], axis=1))
    width = round(size * 1.5)
    ink = np.asarray(grey.resize((width, size), Image.Resampling.BICUBIC), np.float64) / 255
    x, y = corner
    window = canvas[y : y + size, x : x + width]
    colour = rng.uniform(0, 0.35, 3) if window.mean() > 0.5 else rng.uniform(0.65, 1, 3)
    window += np.clip(1.6 * ink - 0.2, 0, 1)[..., None] * (colour - window)
    return width


def write_split(folder: Path, split: str, count: int, chances: np.ndarray, seed: int) -> None:
    """``count`` images with one or two numbers and their COCO file."""
    source = load_source(split)
    images, annotations = [], []
    (folder / split).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        rng = np.random.default_rng([seed, split == "val", index])
        _, _, photo = source.photos[rng.integers(len(source.photos))]
        left, top = (int(rng.integers(max(extent - 2 * SIDE, 1))) for extent in photo.size)
        right, bottom = min(left + 2 * SIDE, photo.width), min(top + 2 * SIDE, photo.height)
        canvas = np.asarray(photo.resize((SIDE, SIDE), box=(left, top, right, bottom)), np.float64) / 255
        images.append({"id": index + 1, "file_name": f"{index + 1:05d}.jpg", "height": SIDE, "width": SIDE})
        for half in range(int(rng.integers(1, 3))):  # one above the other
            number, size = int(rng.choice(100, p=chances)), int(rng.integers(28, 50))
            x, y = int(rng.integers(SIDE - round(size * 1.5))), half * SIDE // 2 + int(rng.integers(SIDE // 2 - size))
            width = draw_number(canvas, number, (x, y), size, source, rng)
            where = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": number + 1}
            annotations.append({**where, "bbox": [x, y, width, size], "area": width * size, "iscrowd": 0})
        picture = Image.fromarray(np.rint(canvas * 255).astype(np.uint8))
        picture.save(folder / split / images[-1]["file_name"], quality=90)
    content = {"images": images, "annotations": annotations, "categories": categories(annotations)}
    (folder / f"{split}.json").write_text(json.dumps(content))


def categories(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As in LVIS: each with its number of images and the first letter of its group."""
    counts = np.bincount([c for _, c in {(a["image_id"], a["category_id"]) for a in annotations}], minlength=101)[1:]
    return [
        {"id": k + 1, "name": CLASSES[k], "image_count": int(n), "frequency": group_of(int(n))[0]}
        for k, n in enumerate(counts)
    ]


def group_of(count: int) -> str:
    """Group of a class with ``count`` training images; classes without any count as rare."""
    return next(name for name, (_, most) in GROUPS.items() if count <= most)


def make_data(folder: Path, seed: int, options: argparse.Namespace) -> None:
    """Training images with Zipf frequencies, validation images with equal ones."""
    if (folder / "val.json").is_file():
        return
    zipf = 1 / np.random.default_rng(seed).permutation(np.arange(1, 101))
    write_split(folder, "train", options.train_images, zipf / zipf.sum(), seed)
    write_split(folder, "val", options.val_images, np.full(100, 0.01), seed)


def train(options: argparse.Namespace, folder: Path, recipe: str, seed: int) -> dict[str, float]:
    """Mean AP of each group of classes on the validation images."""
    output = folder / recipe
    if not (output / "model_final.pth").is_file():
        names = {split: f"coco_json:{folder / split}.json:{folder / split}" for split in ("train", "val")}
        settings = [
            *("OUTPUT_DIR", output, "SEED", seed, "MODEL.WEIGHTS", options.weights.resolve()),
            *("DATASETS.TRAIN", (names["train"],), "DATASETS.TEST", (names["val"],)),
            *("SOLVER.MAX_ITER", options.iterations, *SMALL, *RECIPES[recipe], *options.opts),
        ]
        command = [sys.executable, "train_net.py", "configs/demo/CenterNet2_R18_digits.yaml", "--resume"]
        subprocess.run([*command, *map(str, settings)], check=True, cwd=REPOSITORY)
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    scores = next(row for row in reversed(rows) if "bbox/AP" in row)
    counted = json.loads((folder / "train.json").read_text())["categories"]
    means = {"all": scores["bbox/AP"]}
    for group in GROUPS:
        names = [c["name"] for c in counted if group_of(c["image_count"]) == group]
        means[group] = mean(scores[f"bbox/AP-{name}"] for name in names if f"bbox/AP-{name}" in scores)
    return means


def main() -> None:
    """All seeds and both recipes, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="a trained configs/demo/CenterNet2_R18_digits.yaml")
    add("--output", type=Path, default=Path("output/long_tail"))
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--iterations", type=int, default=300)
    add("--train-images", type=int, default=1500)
    add("--val-images", type=int, default=400)
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config settings of all trainings")
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in RECIPES}
    columns = ["all", *GROUPS]
    for seed in options.seeds:
        folder = Path(os.path.abspath(options.output)) / f"seed{seed}"
        make_data(folder, seed, options)
        for recipe, rows in results.items():
            rows.append(train(options, folder, recipe, seed))
            print(f"seed {seed}, {recipe}: {rows[-1]}", flush=True)
    print(f"| recipe | {' | '.join(columns)} | rare, by seed |\n|---|{'---|' * (len(columns) + 1)}")
    for recipe, rows in results.items():
        cells = [f"{mean(row[column] for row in rows):.1f}" for column in columns]
        by_seed = ", ".join(f"{row['rare']:.1f}" for row in rows)
        print(f"| {recipe} | {' | '.join(cells)} | {by_seed} |")


if __name__ == "__main__":
    main()
