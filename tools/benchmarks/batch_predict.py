"""Batch prediction under kills, and one Ray worker against two.

    python tools/benchmarks/batch_predict.py kills --pictures 5000 --broken 100 --kills 10 --kills-on-ray 2
    python tools/benchmarks/batch_predict.py ray --pictures 600

``kills``: small JPEGs, some of them broken in many ways, a seeded model of a few milliseconds a picture. One run that
nobody disturbs; another that is killed (SIGKILL to its whole process group) at random moments, the last ones on Ray;
then what both have written is compared. ``ray``: pictures a second with 1 and with 2 workers of a thread each, in turn.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "batch_predict.py"
CONFIG = """
_BASE_: "{base}"
MODEL:
  DEVICE: cpu
  WEIGHTS: "{weights}"
  FPN: {{OUT_CHANNELS: 64, NORM: ""}}
  CENTERNET: {{NUM_BOX_CONVS: 1, PRIOR_PROB: 0.3, NUM_CLASSES: 4, POST_NMS_TOPK_TEST: 32}}
  ROI_HEADS: {{NUM_CLASSES: 4}}
  ROI_BOX_HEAD: {{FC_DIM: 32}}
DATASETS: {{TRAIN: (), TEST: ()}}
INPUT: {{MIN_SIZE_TEST: {size}, MAX_SIZE_TEST: {most}}}
"""
COLUMNS = ("image_id", "key", "width", "height", "boxes", "scores", "class_ids", "class_names")


# ---------------------------------------------------------------------------------------------------- what is needed


def write_pictures(folder: Path, good: int, broken: int, size: tuple[int, int] = (64, 128)) -> set[str]:
    """JPEGs of random sizes in sub-folders, with broken ones between them; returns the names of the broken ones."""
    draw = random.Random(0)
    places = set(draw.sample(range(good + broken), broken))
    bad = set()
    for number in range(good + broken):
        name = f"{number % 10}/{number:05d}.jpg"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = jpeg(number, draw.randint(*size), draw.randint(*size))
        if number in places:
            bad.add(name)
            spoil(path, content, len(bad))
        else:
            path.write_bytes(content)
    return bad


def jpeg(seed: int, width: int, height: int) -> bytes:
    """A few coloured rectangles on a smooth ground."""
    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((width, height))
    pixels = np.array(ground)
    for _ in range(4):
        x, y = rng.integers(0, width - 8), rng.integers(0, height - 8)
        pixels[y : y + rng.integers(8, 40), x : x + rng.integers(8, 40)] = rng.integers(0, 255, 3)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def spoil(path: Path, content: bytes, kind: int) -> None:
    """Write a broken picture of one of ten kinds."""
    deep = BytesIO()
    Image.new("I;16", (20, 20)).save(deep, "PNG")
    bomb = 2 * (60000).to_bytes(2, "little")  # width and height of a GIF of 50 bytes
    kinds = (
        content[: len(content) // 2],  # truncated
        content[:20],
        b"",
        b"this is no picture\n" * 20,
        b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n",  # a wrong extension
        bytes(len(content)),  # zeros, as after a crash of the disk
        b"GIF89a" + bomb + b"\x80\x00\x00" + bytes(6) + b"," + bytes(4) + bomb + b"\x00\x02\x02D\x01\x00;",
        deep.getvalue(),  # 16 bits a channel
    )
    if kind % 10 < 8:
        path.write_bytes(kinds[kind % 10])
    elif kind % 10 == 8:
        path.symlink_to("nowhere.jpg")
    else:
        path.symlink_to(path.name)  # a link to itself: cannot be opened by anybody


def write_model(folder: Path, size: int = 64) -> Path:
    """A config with seeded random weights beside it; returns the config."""
    import torch

    from centernet.config_file import load_config
    from centernet.modeling.build import build_detector

    config, weights = folder / "model.yaml", folder / "model.pth"
    base = REPOSITORY / "configs" / "demo" / "Base-R18.yaml"
    config.write_text(CONFIG.format(base=base, weights=weights, size=size, most=2 * size))
    torch.manual_seed(0)
    torch.save({"model": build_detector(load_config(config)).state_dict()}, weights)
    return config


def command(config: Path, photos: Path, output: Path, *more: str) -> list[str]:
    """The command line under test."""
    words = ("--config-file", config, "--input", photos, "--output", output, "--threshold", "0.1", *more)
    return [sys.executable, str(TOOL), *map(str, words)]


def environment() -> dict[str, str]:
    """One thread a process."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


# ------------------------------------------------------------------------------------------------------------- kills


def run_whole(words: Sequence[str], log: Path) -> int:
    """Exit status of a run that nobody disturbs; RuntimeError if it crashes, whose exit status is 1, too."""
    with log.open("ab") as file:
        status = subprocess.run(words, stdout=file, stderr=file, env=environment()).returncode
    if "Traceback" in (text := log.read_text()):
        raise RuntimeError(text[-2000:])
    return status


def run_and_kill(words: Sequence[str], parts: Path, log: Path, more_parts: int, delay: float) -> bool:
    """Start a run in a process group of its own and kill the group ``delay`` seconds after ``more_parts`` more parts
    are there; returns whether it was still running."""
    there = len(list(parts.glob("part-*.parquet")))
    with log.open("ab") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, env=environment(), start_new_session=True)
    while process.poll() is None and len(list(parts.glob("part-*.parquet"))) < there + more_parts:
        time.sleep(0.01)
    time.sleep(delay)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def differences(whole: Path, killed: Path, bad: set[str], total: int) -> list[str]:
    """What is wrong with the killed run's ``.parquet`` result; nothing if all is well."""
    from pyarrow import parquet

    tables = [parquet.read_table(path).select(list(COLUMNS)).to_pydict() for path in (whole, killed)]
    keys = tables[1]["key"]
    lists = [Path(f"{path}.broken.jsonl").read_text() for path in (whole, killed)]
    listed = [json.loads(line)["key"] for line in lists[1].splitlines()]
    checks = {
        "a picture is there twice": len(set(keys)) == len(keys),
        "a good picture is missing": len(keys) == total - len(bad) and not set(keys) & bad,
        "the broken ones are not those listed": sorted(listed) == sorted(bad),
        "the results differ": tables[0] == tables[1],
        "the lists of broken ones differ": lists[0] == lists[1],
    }
    return [sentence for sentence, well in checks.items() if not well]


def kills(options: argparse.Namespace, folder: Path) -> int:
    """The whole comparison; returns the exit status."""
    draw = random.Random(options.seed)
    bad = write_pictures(folder / "photos", options.pictures - options.broken, options.broken)
    config = write_model(folder)
    size = str(options.shard_size)
    whole, killed = (
        command(config, folder / "photos", folder / f"{name}.parquet", "--shard-size", size)
        for name in ("whole", "killed")
    )
    start = time.perf_counter()
    status = run_whole(whole, folder / "whole.log")
    seconds = time.perf_counter() - start
    print(f"undisturbed: {seconds:.1f} s, exit status {status}, {options.pictures / seconds:.0f} pictures a second")
    parts, shards = folder / "killed.parquet.parts", -(-options.pictures // options.shard_size)
    for kill in range(options.kills):
        on_ray = kill >= options.kills - options.kills_on_ray
        words = [*killed, "--ray", "--workers", "2"] if on_ray else killed
        more = draw.randint(0, max(shards // (options.kills + 2), 1))
        delay = draw.uniform(0, 8 if on_ray else 4) if more == 0 else draw.uniform(0, 1)
        alive = run_and_kill(words, parts, folder / "killed.log", more, delay)
        there = len(list(parts.glob("part-*.parquet")))
        print(f"kill {kill + 1}{' on Ray' if on_ray else ''}: {there} of {shards} parts{'' if alive else ', too late'}")
    status = run_whole(killed, folder / "killed.log")
    wrong = differences(folder / "whole.parquet", folder / "killed.parquet", bad, options.pictures)
    print(f"to the end: exit status {status}; {'; '.join(wrong) or 'every good picture once, the broken ones listed,'}")
    print("NOT WELL" if wrong else f"{options.pictures - len(bad)} rows and {len(bad)} broken ones as undisturbed")
    return bool(wrong)


# --------------------------------------------------------------------------------------------------------------- Ray


def steady_rate(times: Sequence[float], shard_size: int) -> float:
    """Pictures a second between the first and the third quarter of the parts, by the times at which they came."""
    first, last = len(times) // 4, 3 * len(times) // 4
    return (last - first) * shard_size / (times[last] - times[first])


def measure(config: Path, photos: Path, folder: Path, workers: int, shard_size: int) -> tuple[float, float]:
    """Pictures a second of the model at work, and of the whole command with starting and ending."""
    output = Path(tempfile.mkdtemp(dir=folder)) / "found"
    words = command(config, photos, output, "--ray", "--workers", str(workers), "--shard-size", str(shard_size))
    start = time.perf_counter()
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    times = sorted(part.stat().st_mtime_ns / 1e9 for part in output.glob("part-*.parquet"))
    return steady_rate(times, shard_size), len(times) * shard_size / seconds


def ray(options: argparse.Namespace, folder: Path) -> int:
    """One worker and two, in turn."""
    write_pictures(folder / "photos", options.pictures, 0, (300, 640))
    config = write_model(folder, size=320)
    ratios = []
    print(
        "| round | 1 worker, pictures a second | 2 workers | ratio | ratio of whole commands |\n|---|---|---|---|---|"
    )
    for number in range(1, options.rounds + 1):
        one, two = (measure(config, folder / "photos", folder, workers, options.shard_size) for workers in (1, 2))
        ratios.append(two[0] / one[0])
        print(f"| {number} | {one[0]:.1f} | {two[0]:.1f} | {ratios[-1]:.2f} | {two[1] / one[1]:.2f} |", flush=True)
    print(f"\nmedian ratio {statistics.median(ratios):.2f}, load before it: {os.getloadavg()[0]:.1f}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "ray"))
    parser.add_argument("--pictures", type=int, help="default 5000, of ray 640")
    parser.add_argument("--broken", type=int, default=100)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kills-on-ray", type=int, default=2, help="the last ones")
    parser.add_argument("--shard-size", type=int, help="default 64, of ray 16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--folder", type=Path, help="to work in and leave everything (default: a temporary one)")
    options = parser.parse_args(arguments)
    options.pictures = options.pictures or (5000 if options.what == "kills" else 640)
    options.shard_size = options.shard_size or (64 if options.what == "kills" else 16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return kills(options, folder) if options.what == "kills" else ray(options, folder)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    sys.exit(main())
