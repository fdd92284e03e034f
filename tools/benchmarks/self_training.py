#!/usr/bin/env python3
"""Does self-training help? A teacher on a tenth of the labels, its pseudo labels on the rest, a student on both.

    python tools/benchmarks/self_training.py --data datasets/bccd --seeds 1 2 3

For each seed: a random tenth of the training images keeps its labels, the teacher trains on it, tools/pseudo_label.py
runs the teacher over the others, whose labels nobody sees (thresholds by class: 1.3 times as many labels a picture as
the labelled tenth has objects), and the student trains on labels and pseudo labels, each weighted by its score, from
the same ImageNet weights. It has ten times the pictures and takes 2.5 times the iterations; --control also trains on
the tenth alone for as long. All are scored on the validation images. Every step is a command of its own; what is
finished is not done again, so an interrupted run goes on.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from statistics import mean

REPOSITORY = Path(__file__).resolve().parents[2]
# for two CPU cores: small pictures, constant early layers and batch norms, thin heads
SMALL = [
    *("INPUT.MIN_SIZE_TRAIN", (224, 240, 256), "INPUT.MIN_SIZE_TEST", 240, "DATALOADER.NUM_WORKERS", 1),
    *("MODEL.TIMM.FREEZE_AT", 2, "MODEL.TIMM.NORM", "FrozenBN", "MODEL.FPN.OUT_CHANNELS", 64),
    *("MODEL.CENTERNET.POST_NMS_TOPK_TRAIN", 128, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64),
    *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 1),
]
# of the student's images a third has true labels
MIXED = [
    *("DATALOADER.SAMPLER_TRAIN", "MultiDatasetSampler", "DATALOADER.DATASET_RATIO", [1, 2]),
    *("INPUT.PSEUDO_LABEL_WEIGHT", "score"),
]


def split_labels(data: Path, folder: Path, seed: int, fraction: float) -> None:
    """Write ``labelled.json`` (a random part of the training images) and ``unlabelled.json`` (the others, bare)."""
    content = json.loads((data / "annotations" / "instances_train.json").read_text())
    images = sorted(content["images"], key=lambda image: image["id"])
    kept = {image["id"] for image in random.Random(seed).sample(images, round(fraction * len(images)))}
    shared = {key: content[key] for key in ("info", "licenses", "categories") if key in content}
    labelled = {
        **shared,
        "images": [image for image in images if image["id"] in kept],
        "annotations": [a for a in content["annotations"] if a["image_id"] in kept],
    }
    unlabelled = {**shared, "images": [image for image in images if image["id"] not in kept]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labelled.json").write_text(json.dumps(labelled))
    (folder / "unlabelled.json").write_text(json.dumps(unlabelled))


def run(script: str, *words: object) -> None:
    """One command of this repository; ends the program if it fails."""
    command = [sys.executable, str(REPOSITORY / script), *map(str, words)]
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True)


def train(options: argparse.Namespace, output: Path, train_sets: list[str], *, iterations: int, seed: int) -> float:
    """AP of a model on the validation images, trained if it is not there yet."""
    if not (output / "model_final.pth").is_file():
        steps = (round(0.7 * iterations), round(0.9 * iterations))
        run(
            "train_net.py", options.config_file, "--resume", "OUTPUT_DIR", output, "SEED", seed,
            "DATASETS.TRAIN", tuple(train_sets), "DATASETS.TEST", (coco(options.data, "instances_val.json"),),
            "SOLVER.MAX_ITER", iterations, "SOLVER.STEPS", steps, "SOLVER.WARMUP_ITERS", 50,
            *SMALL, *(MIXED if len(train_sets) > 1 else ()), *options.opts,
        )  # fmt: skip
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return next(row["bbox/AP"] for row in reversed(rows) if "bbox/AP" in row)


def coco(data: Path, json_file: str | Path) -> str:
    """Name of a COCO-format data set whose images are those of ``data``."""
    return f"coco_json:{data / 'annotations' / json_file}:{data / 'images'}"


def one_seed(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """AP of each model."""
    folder = (options.output / f"seed{seed}").resolve()
    split_labels(options.data, folder, seed, options.fraction)
    labelled = coco(options.data, folder / "labelled.json")
    scores = {"teacher": train(options, folder / "teacher", [labelled], iterations=options.iterations, seed=seed)}
    if options.control:
        longer = {"iterations": options.student_iterations, "seed": seed}
        scores["longer teacher"] = train(options, folder / "longer_teacher", [labelled], **longer)
    run(
        "tools/pseudo_label.py", "--config-file", folder / "teacher" / "config.yaml",
        "--input", folder / "unlabelled.json", "--image-root", options.data / "images",
        "--output", folder / "pseudo.json",
        "--class-thresholds", "counts", "--labels-ratio", options.labels_ratio, "--validation", labelled,
        "--opts", "MODEL.WEIGHTS", folder / "teacher" / "model_final.pth",
    )  # fmt: skip
    both = [labelled, coco(options.data, folder / "pseudo.json")]
    scores["student"] = train(options, folder / "student", both, iterations=options.student_iterations, seed=seed)
    return scores


def main() -> None:
    """All seeds, one after the other, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, default=Path("datasets/bccd"), help="images/ and annotations/instances_{train,val}.json")
    add("--config-file", default=str(REPOSITORY / "configs/demo/CenterNet2_MobileNetV2_bccd.yaml"))
    add("--output", type=Path, default=Path("output/self_training"))
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--fraction", type=float, default=0.1, help="of the training images that keeps its labels")
    add("--iterations", type=int, default=400, help="of the teacher")
    add("--student-iterations", type=int, default=1000)
    add("--labels-ratio", type=float, default=1.3, help="pseudo labels for each object expected")
    add("--control", action="store_true", help="also a teacher with the student's iterations")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config settings of all trainings")
    options = parser.parse_args()
    options.data = options.data.resolve()
    scores = [one_seed(options, seed) for seed in options.seeds]
    names = list(scores[0])
    print(f"| seed | {' AP | '.join(names)} AP | gain |\n|---|{'---|' * (len(names) + 1)}")
    average = {name: mean(row[name] for row in scores) for name in names}
    for label, row in [*zip(options.seeds, scores, strict=True), ("mean", average)]:
        cells = " | ".join(f"{row[name]:.1f}" for name in names)
        print(f"| {label} | {cells} | {row['student'] - row['teacher']:+.1f} |")


if __name__ == "__main__":
    main()
