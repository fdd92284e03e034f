"""`benchmark.py index`: a large COCO JSON through the index of annotations, and through detectron2's own path.

Memory is proportional set size (`Pss` of /proc/PID/smaps_rollup): a page that k processes share counts 1/k in each, so
sums over processes count every page once. Measured while every worker has read every record; the workers are those of a
DataLoader, the mapper does nothing.
"""

import gc
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .processes import from_proc, in_process

IMAGES, BOXES, CLASSES = 200_000, 3_000_000, 80


def write_json(path: Path, images: int, boxes: int) -> None:
    """A COCO JSON with random boxes, 1 % of them crowds, 2 % of the images without any; classes as skewed as 1/rank."""
    random = np.random.RandomState(0)
    sizes = random.randint(300, 1300, (images, 2)).tolist()
    owners = np.sort(random.randint(0, int(images * 0.98), boxes))
    random.shuffle(owners)
    ranks = 1 / np.arange(1, CLASSES + 1)
    labels = (random.choice(CLASSES, boxes, p=ranks / ranks.sum()) + 1).tolist()
    corners = np.round(random.uniform(1, 300, (boxes, 4)), 2).tolist()
    crowds = (random.rand(boxes) < 0.01).astype(int).tolist()
    with open(path, "w") as file:
        file.write('{"images": [')
        for number, (height, width) in enumerate(sizes):
            image = {"id": number + 1, "file_name": f"{number + 1:012d}.jpg", "height": height, "width": width}
            file.write((", " if number else "") + json.dumps(image))
        file.write('], "annotations": [')
        rows = zip(owners.tolist(), labels, corners, crowds, strict=True)
        for number, (owner, label, box, crowd) in enumerate(rows):
            entry = {"id": number + 1, "image_id": owner + 1, "category_id": label, "bbox": box, "iscrowd": crowd}
            entry["area"] = round(box[2] * box[3], 2)
            file.write((", " if number else "") + json.dumps(entry))
        categories = [{"id": number + 1, "name": f"class {number + 1}"} for number in range(CLASSES)]
        file.write('], "categories": ' + json.dumps(categories) + "}")


# --------------------------------------------------------------------------------------------------------- one run


def load(way: str, name: str) -> Any:
    """Records behind filters, and the weights of the class-aware sampler computed: what a loader needs to begin."""
    from centernet.data.loader import _load_records
    from centernet.data.samplers import class_aware_weights, repeat_factors

    if way == "index":
        records = _load_records([name])
    else:
        from detectron2.data import get_detection_dataset_dicts

        records = get_detection_dataset_dicts([name])
    class_aware_weights(records)
    repeat_factors(records, 0.001)
    return records


def pss(pid: int | str = "self") -> float:
    """Proportional set size of a process, MB."""
    return from_proc("smaps_rollup", "Pss", pid)


class ReadAll:
    """A dataset whose item k is what worker k has read: all records. It then waits until all are measured."""

    def __init__(self, dicts: Any, workers: int, barrier: Any) -> None:
        self.dicts, self.workers, self.barrier = dicts, workers, barrier

    def __len__(self) -> int:
        return self.workers

    def __getitem__(self, key: int) -> int:
        boxes = sum(len(self.dicts[index]["annotations"]) for index in range(len(self.dicts)))
        self.barrier.wait()  # all have read
        self.barrier.wait()  # all are measured
        return boxes


def measure_workers(dicts: Any, workers: int, start: str) -> tuple[float, float]:
    """PSS in MB of the workers together, and of the process that started them."""
    from torch.utils.data import DataLoader

    context = multiprocessing.get_context(start)
    barrier = context.Barrier(workers + 1)
    dataset = ReadAll(dicts, workers, barrier)
    loader = DataLoader(dataset, batch_size=1, num_workers=workers, multiprocessing_context=context, prefetch_factor=1)
    batches = iter(loader)
    barrier.wait()
    together = sum(pss(child.pid) for child in multiprocessing.active_children() if child.pid is not None)
    parent = pss()
    barrier.wait()
    list(batches)
    return together, parent


def run_once(way: str, json_file: str, root: str, workers: Sequence[tuple[str, int]], results: Any) -> None:
    """In a process of its own: time of loading, memory of loading, memory with each kind and number of workers."""
    from centernet.data import ensure_registered
    from centernet.data.mapper import MappedDataset

    name = f"coco_json:{json_file}:{root}"
    ensure_registered([name])
    base = from_proc("status", "VmHWM")
    begin, begin_cpu = time.perf_counter(), time.process_time()
    records = load(way, name)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    dataset = MappedDataset(records, _same)
    ready = time.perf_counter() - begin
    peak = from_proc("status", "VmHWM") - base
    dicts = dataset.dicts
    del records, dataset
    gc.collect()
    memory = {(start, count): measure_workers(dicts, count, start) for start, count in workers}
    results.put({"seconds": seconds, "cpu": cpu, "ready": ready, "peak": peak, "memory": memory, "images": len(dicts)})


def _same(record: dict[str, Any]) -> dict[str, Any]:
    return record


# ------------------------------------------------------------------------------------------------------------ report


@contextmanager
def _cache(folder: str) -> Iterator[Path]:
    before = os.environ.get("CENTERNET_CACHE")
    os.environ["CENTERNET_CACHE"] = folder
    try:
        yield Path(folder)
    finally:
        os.environ.pop("CENTERNET_CACHE")
        if before is not None:
            os.environ["CENTERNET_CACHE"] = before


def _forget_pages(path: Path) -> None:
    """Take a file out of the page cache, so that it is read from the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_index(folder: str | None = None, images: int = IMAGES, boxes: int = BOXES) -> None:
    """Print the tables of docs/BENCHMARKS.md."""
    with tempfile.TemporaryDirectory(dir=folder) as work, _cache(os.path.join(work, "cache")):
        files = {"full": Path(work) / "full.json", "control": Path(work) / "control.json"}
        write_json(files["full"], images, boxes)
        write_json(files["control"], 100, 200)
        size = files["full"].stat().st_size / 2**20
        print(f"{images:,} images, {boxes:,} boxes, {size:.0f} MB of JSON; Python {platform.python_version()}\n")
        print_tables(files["full"], files["control"], Path(work) / "cache" / "index")


def print_tables(full: Path, control: Path, cache: Path) -> None:
    """Times of all runs, then the memory of the last one of each way beside that with the small file."""
    workers = [(start, count) for start in ("fork", "spawn") for count in (1, 8)]
    print("| from the call to filters and weights done | s | CPU s | s with the dataset for workers ", end="")
    print("| peak memory added MB |")
    print("|---|---|---|---|---|")
    memory = {}
    for title, way in (
        ("index, first time (parsed)", "index"),
        ("index, second time", "index"),
        ("index, not in the page cache", "index"),
        ("index, third time", "index"),
        ("detectron2", "detectron2"),
    ):
        if "page cache" in title:
            for path in cache.glob("*.index"):
                _forget_pages(path)
        last = title in ("index, third time", "detectron2")
        found = in_process(run_once, way, str(full), str(full.parent), workers if last else [])
        row = " | ".join(f"{found[key]:.2f}" for key in ("seconds", "cpu", "ready"))
        print(f"| {title} | {row} | {found['peak']:.0f} |", flush=True)
        if last:
            bare = in_process(run_once, way, str(control), str(control.parent), workers)
            memory[way] = found["memory"], bare["memory"]
    sizes = [path.stat().st_size / 2**20 for path in cache.glob("*.index")]
    print(f"\nThe index is {max(sizes):.0f} MB.\n")
    for start in ("fork", "spawn"):
        _print_memory(memory, start)


def _print_memory(memory: dict[str, Any], start: str) -> None:
    print(f"| workers by {start}: PSS MB | 1 worker | 8 workers | ratio ", end="")
    print("| with 100 images: 1 | 8 | difference: 1 | 8 | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for way, (full, control) in memory.items():
        for title, part in (("workers", slice(0, 1)), ("workers and their parent", slice(0, 2))):
            one, eight = (sum(full[start, count][part]) for count in (1, 8))
            bare_one, bare_eight = (sum(control[start, count][part]) for count in (1, 8))
            data_one, data_eight = one - bare_one, eight - bare_eight
            print(
                f"| {way}, {title} | {one:.0f} | {eight:.0f} | {eight / one:.2f} | {bare_one:.0f} | {bare_eight:.0f} "
                f"| {data_one:.0f} | {data_eight:.0f} | {data_eight / data_one:.2f} |"
            )
    print()
