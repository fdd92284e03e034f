"""`benchmark.py evaluation`: COCO and LVIS scores against pycocotools, faster-coco-eval and lvis: figures and time.

Timed is the way from annotations and detections as lists in memory to all figures, loading into the scorer's own
structures included. Each run is a process of its own, with its peak memory. All scorers run on one thread, so that CPU
time is what the clock shows on an idle machine, and without garbage collection, which finds nothing and costs those
with many objects most. The lvis package keeps several Python objects for each pair of an image and a class, found or
not, and visits each five times: some 13 minutes and 24 GB for 20,000 images. It runs on 250, 500 and 1,000 images, and
on all of them where memory and swap space have room; otherwise a straight line gives its time and memory for all.
"""

import contextlib
import gc
import importlib.metadata
import io
import json
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from centernet.evaluation import score_detections, score_lvis_detections

from .processes import forget_peak, from_proc

DATA = Path(os.environ.get("CENTERNET_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
COCO_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100")
WIDTH, HEIGHT = 640, 480
COCO_SIZE = {"images": 5000, "boxes": 36_000, "classes": 80, "detections": 500_000}
LVIS_PER_IMAGE = {"boxes": 12, "detections": 300}
LVIS_IMAGES, LVIS_CLASSES, LVIS_SMALLER = 20_000, 1203, (250, 500, 1000)
LVIS_WHOLE_MB = 26_000  # what the lvis package may need for all images


def synthetic_truth(images: int, boxes: int, classes: int, *, crowds: bool = True, seed: int = 0) -> dict[str, Any]:
    """Annotations with log-uniform sides and few classes an image, every hundredth a crowd; LVIS's keys as well."""
    random = np.random.default_rng(seed)
    image = np.sort(random.integers(0, images, boxes))
    frequent_first = (classes * random.random((images, 4)) ** 2).astype(int)
    category = frequent_first[image, random.integers(0, 4, boxes)]
    sides = np.exp(random.uniform(np.log(8), np.log(300), (boxes, 2)))
    corner = random.random((boxes, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    columns = (image.tolist(), category.tolist(), np.hstack([corner, sides]).tolist())
    annotations = [
        {"id": number, "image_id": i + 1, "category_id": c + 1, "bbox": box, "area": 0.7 * box[2] * box[3]}
        | {"iscrowd": int(crowds and number % 100 == 0)}
        for number, (i, c, box) in enumerate(zip(*columns, strict=True), 1)
    ]
    absent = (random.integers(0, classes, (images, 8)) + 1).tolist()
    records = [
        {"id": number, "width": WIDTH, "height": HEIGHT, "neg_category_ids": absent[number - 1]}
        | {"not_exhaustive_category_ids": (frequent_first[number - 1, :1] + 1).tolist() if number % 4 == 0 else []}
        for number in range(1, images + 1)
    ]
    categories = [{"id": k + 1, "name": f"class {k}", "frequency": "fcr"[3 * k // classes]} for k in range(classes)]
    return {"images": records, "annotations": annotations, "categories": categories}


def synthetic_detections(truth: dict[str, Any], count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """A third are objects moved and resized by about 12 %, a third false boxes of a class that is in the image, a
    third false boxes of any class; scores have four digits, so that some are equal."""
    random = np.random.default_rng(seed)
    image_ids = np.array([image["id"] for image in truth["images"]])
    classes = np.array([category["id"] for category in truth["categories"]])
    objects = sorted(truth["annotations"], key=lambda item: item["image_id"])
    owner = np.array([item["image_id"] for item in objects])
    boxes = np.array([item["bbox"] for item in objects], dtype=np.float64)
    category_of = np.array([item["category_id"] for item in objects])

    image = np.sort(np.resize(image_ids, count))
    first, last = np.searchsorted(owner, image, "left"), np.searchsorted(owner, image, "right")
    pick = np.minimum(first + (random.random(count) * (last - first)).astype(int), len(objects) - 1)
    kind = np.where(last > first, random.integers(0, 3, count), 2)
    shift = random.normal(0, 0.12, (count, 4))
    near = np.hstack([boxes[pick, :2] + boxes[pick, 2:] * shift[:, :2], boxes[pick, 2:] * np.exp(shift[:, 2:])])
    false = random.uniform(5, 250, (count, 4))
    box = np.where((kind == 0)[:, None], near, false)
    category = np.where(kind < 2, category_of[pick], random.choice(classes, count))
    score = np.round(random.random(count) * np.where(kind == 0, 1.0, 0.7), 4)
    columns = zip(image.tolist(), category.tolist(), box.tolist(), score.tolist(), strict=True)
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in columns]


Curves = tuple[np.ndarray, np.ndarray]  # precision [T, R, K, A, M], recall [T, K, A, M]


def ours(truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[dict[str, float], Curves]:
    scores = score_detections(truth, detections, "bbox")
    return scores.metrics(), (scores.eval["precision"], scores.eval["recall"])


def ours_lvis(truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[dict[str, float], Curves]:
    scores = score_lvis_detections(truth, detections, "bbox")
    return scores.metrics(), (scores.eval["precision"], scores.eval["recall"])


def _coco(api: type, evaluator: type, truth: dict[str, Any], detections: list[dict[str, Any]]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        content = api()
        content.dataset = truth
        content.createIndex()
        evaluation = evaluator(content, content.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = {name: 100 * value for name, value in zip(COCO_FIGURES, evaluation.stats[:12].tolist(), strict=True)}
    return figures, (evaluation.eval["precision"], evaluation.eval["recall"])


def pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[dict[str, float], Curves]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _coco(COCO, COCOeval, truth, detections)


def faster_coco_eval(truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[dict[str, float], Curves]:
    from faster_coco_eval import COCO, COCOeval_faster

    return _coco(COCO, COCOeval_faster, truth, detections)


def lvis(truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[dict[str, float], Curves]:
    from lvis import LVIS, LVISEval, LVISResults

    vars(np).setdefault("float", float)  # removed from numpy in 1.24; lvis 0.5.3 still uses it

    class Content(LVIS):
        def __init__(self) -> None:
            self.logger = logging.getLogger("lvis")
            self.dataset = truth
            self._create_index()

    content = Content()
    evaluation = LVISEval(content, LVISResults(content, detections), "bbox")
    evaluation.run()
    figures = {name: 100 * float(value) for name, value in evaluation.results.items()}
    return figures, (evaluation.eval["precision"][..., None], evaluation.eval["recall"][..., None])


def faster_coco_eval_lvis(truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[dict[str, float], Curves]:
    from faster_coco_eval import COCO, COCOeval_faster

    content = COCO(truth)
    evaluation = COCOeval_faster(content, content.loadRes(detections), "bbox", lvis_style=True)
    evaluation.params.maxDets = [300]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {"AP": 100 * float(evaluation.stats[0])}, (evaluation.eval["precision"], evaluation.eval["recall"])


SCORERS: dict[str, Callable[..., tuple[dict[str, float], Curves]]] = {
    scorer.__name__: scorer for scorer in (ours, ours_lvis, pycocotools, faster_coco_eval, lvis, faster_coco_eval_lvis)
}


def run(scorer: str, truth: dict[str, Any] | dict[str, int], detections: int) -> dict[str, Any]:
    """One scorer in this process.

    Args:
        scorer: a key of ``SCORERS``.
        truth: annotations, or the arguments of :func:`synthetic_truth`.
        detections: how many to make.

    Returns:
        'seconds' (CPU), 'wall', 'before' and 'peak' (resident MB before scoring and at most), 'figures', 'curves'.
    """
    logging.disable(logging.WARNING)
    content = synthetic_truth(**truth) if isinstance(truth["images"], int) else truth
    found = synthetic_detections(content, detections)
    gc.collect()
    gc.disable()
    forget_peak()  # of making the detections
    before = from_proc("status", "VmRSS")
    start, wall = time.process_time(), time.perf_counter()
    figures, curves = SCORERS[scorer](content, found)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    peak = from_proc("status", "VmHWM")
    return {"seconds": seconds, "wall": wall, "before": before, "peak": peak, "figures": figures, "curves": curves}


def _room() -> float:
    """MB of memory and swap space that are free."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text("utf-8").splitlines())
    return sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree")) / 1024


def in_process(*arguments: Any) -> dict[str, Any]:
    """:func:`run` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def difference(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Largest absolute difference of the figures and of the curves; both in [0, 1]."""
    figures = [
        abs(value - other["figures"][name]) / 100
        for name, value in one["figures"].items()
        if name in other["figures"] and not (np.isnan(value) and other["figures"][name] < 0)
    ]
    curves = [float(np.abs(a - b).max()) for a, b in zip(one["curves"], other["curves"], strict=True)]
    return max(figures), max(curves)


def measure_equality() -> None:
    """Against the official packages on real annotations."""
    cases = [
        ("coco_mini/annotations/instances_val.json", "ours", "pycocotools", 20_000),
        ("lvis_mini/annotations/lvis_v0.5_val_100.json", "ours_lvis", "lvis", 30_000),
    ]
    print("| annotations | detections | package | figures differ by at most | precision and recall curves |")
    print("|---|---|---|---|---|")
    for file, mine, official, count in cases:
        if not (DATA / file).is_file():
            print(f"| {file} | - | - | not here | |")
            continue
        truth = json.loads((DATA / file).read_text("utf-8"))
        figures, curves = difference(in_process(mine, truth, count), in_process(official, truth, count))
        print(f"| {file} | {count:,} | {official} | {figures:.1e} | {curves:.1e} |", flush=True)
    print()


def measure_coco(pairs: int) -> None:
    """COCO's size, alternating."""
    size = {name: COCO_SIZE[name] for name in ("images", "boxes", "classes")}
    names = ("ours", "faster_coco_eval", "pycocotools")
    rounds = [{name: in_process(name, size, COCO_SIZE["detections"]) for name in names} for _ in range(pairs)]
    print(", ".join(f"{value:,} {name}" for name, value in COCO_SIZE.items()), f"({pairs} rounds, medians)\n")
    print("| scorer | CPU s | wall s | times faster than pycocotools, CPU | MB added | MB at most | figures differ |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        last = rounds[-1][name]
        seconds, wall = (statistics.median(turn[name][clock] for turn in rounds) for clock in ("seconds", "wall"))
        ratio = statistics.median(turn["pycocotools"]["seconds"] / turn[name]["seconds"] for turn in rounds)
        apart = difference(last, rounds[-1]["pycocotools"])[0]
        memory = f"{last['peak'] - last['before']:.0f} | {last['peak']:.0f}"
        print(f"| {name} | {seconds:.2f} | {wall:.2f} | {ratio:.1f} | {memory} | {apart:.1e} |", flush=True)
    print()


def measure_lvis(images: int = LVIS_IMAGES) -> None:
    """LVIS's size; the lvis package on parts of it, and in a straight line from there."""

    def score(name: str, count: int) -> dict[str, Any]:
        size = {"images": count, "boxes": LVIS_PER_IMAGE["boxes"] * count, "classes": LVIS_CLASSES, "crowds": False}
        return in_process(name, size, LVIS_PER_IMAGE["detections"] * count)

    print(f"LVIS: {LVIS_CLASSES} classes; an image has {LVIS_PER_IMAGE['boxes']} boxes, 300 detections\n")
    print("| images | scorer | CPU s | wall s | MB added | MB at most | times faster than lvis, CPU | figures differ |")
    print("|---|---|---|---|---|---|---|---|")

    def row(count: int, name: str, found: dict[str, Any], more: str) -> None:
        times = f"{found['seconds']:.2f} | {found['wall']:.2f}"
        memory = f"{found['peak'] - found['before']:.0f} | {found['peak']:.0f}"
        print(f"| {count:,} | {name} | {times} | {memory} | {more} |", flush=True)

    lines = []
    for count in LVIS_SMALLER:
        mine, reference = score("ours_lvis", count), score("lvis", count)
        lines.append((count, reference["seconds"], reference["peak"]))
        ratio, apart = reference["seconds"] / mine["seconds"], difference(mine, reference)[0]
        row(count, "ours", mine, f"{ratio:.1f} | {apart:.1e}")
        row(count, "lvis", reference, "1 | 0")
        if count == LVIS_SMALLER[0]:
            other = score("faster_coco_eval_lvis", count)
            apart = difference(other, reference)[0]
            row(count, "faster-coco-eval", other, f"{reference['seconds'] / other['seconds']:.1f} | {apart:.1e}")
    mine = score("ours_lvis", images)
    if _room() > LVIS_WHOLE_MB:
        reference = score("lvis", images)
        ratio, apart = reference["seconds"] / mine["seconds"], difference(mine, reference)[0]
        row(images, "ours", mine, f"{ratio:.1f} | {apart:.1e}")
        row(images, "lvis", reference, "1 | 0")
        return
    (x0, *at0), (x1, *at1) = lines[-2:]
    seconds, peak = (b + (b - a) / (x1 - x0) * (images - x1) for a, b in zip(at0, at1, strict=True))
    row(images, "ours", mine, f"{seconds / mine['seconds']:.0f} (extrapolated) | |")
    print(f"| {images:,} | lvis, extrapolated | {seconds:.0f} | | | {peak:.0f} | 1 | |\n")


def measure_evaluation(pairs: int = 3) -> None:
    """Print the tables of docs/BENCHMARKS.md."""
    packages = ("numpy", "pycocotools", "faster-coco-eval", "lvis")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) + "\n")
    measure_equality()
    measure_coco(pairs)
    measure_lvis()
