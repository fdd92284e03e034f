"""A model over many pictures, on this machine or on Ray; goes on where a run that was killed was."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2.config import CfgNode

from ...errors import UserError
from ...progress import progress
from ..predictor import Predictor
from ..results import Categories
from ..thresholds import set_score_threshold
from .arrow import pyarrow
from .identity import config_digest, weights_digest
from .job import Job, held
from .lists import Listed
from .parts import Label
from .ray_workers import RayOptions, run_on_ray
from .results import write_broken, write_coco, write_parquet
from .shards import Settings, ShardPredictor

__all__ = ["FORMATS", "Summary", "predict_many"]

logger = logging.getLogger(__name__)

FORMATS = ("folder", "parquet", "coco", "coco-results")


class Summary(NamedTuple):
    """What a finished run has in its result.

    Attributes:
        pictures: that were read.
        detections: on them.
        broken: sentences about those that could not be read.
        broken_list: the file that lists these.
    """

    pictures: int
    detections: int
    broken: tuple[str, ...]
    broken_list: Path


def predict_many(
    cfg: CfgNode,
    listed: Sequence[Listed],
    output: str | Path,
    *,
    form: str = "",
    threshold: float = 0.05,
    batch_size: int = 8,
    shard_size: int = 256,
    loaders: int | None = None,
    ray: RayOptions | None = None,
    retry_broken: bool = False,
    precision: str = "float32",
    optimize: bool = False,
) -> Summary:
    """Run a model over pictures; give the same arguments again to go on after a kill.

    Args:
        cfg: of the model; is not changed.
        listed: the pictures, see :func:`~.inputs.list_pictures`.
        output: a folder of Parquet files (see :mod:`.parts`), or one file.
        form: one of :data:`FORMATS`; '' goes by the extension of ``output``: .parquet, .json (coco), else a folder.
        threshold: smallest score that is kept.
        batch_size: most pictures at a time; only pictures of one size share a batch, so a result is that of the
            picture alone, up to rounding.
        shard_size: pictures of a part; what a kill can lose at most.
        loaders: threads that decode beside the model on this machine; None for one a core, at most 8.
        ray: where the models run; None for this process.
        retry_broken: read pictures again that were broken in an earlier run.
        precision, optimize: of the model, see :class:`~..predictor.Predictor`.

    Raises:
        UserError: another process or another run has the output; a model or place that cannot be used.
    """
    pyarrow()
    output = Path(output)
    form = form or {".parquet": "parquet", ".json": "coco"}.get(output.suffix.lower(), "folder")
    _check(output, form, listed)
    cfg = cfg.clone()
    digests = {"config": config_digest(cfg)}
    set_score_threshold(cfg, threshold)
    with held(output if form == "folder" else output.with_name(output.name + ".parts")) as folder:
        # with Ray this process hands out work and only has to know what the model is
        if ray is not None:
            predictor = Predictor(cfg, device="cpu")
        else:
            predictor = Predictor(cfg, precision=precision, optimize=optimize)
        digests |= {"weights": weights_digest(predictor.model)}
        header = {**digests, "threshold": threshold, "precision": precision, "optimize": optimize}
        job = Job(folder, header, listed, shard_size)
        todo = job.open(retry_broken=retry_broken)
        broken_list = output.with_name(output.name + ".broken.jsonl")
        _remove_leftovers(output, broken_list)
        loaders = min(os.cpu_count() or 1, 8) if loaders is None else loaders
        text_ids = any(isinstance(entry.image_id, str) for entry in listed)
        names = predictor.categories.names
        settings = Settings(job.digest, threshold, batch_size, loaders, names, text_ids, precision, optimize)
        _run(job, todo, predictor, cfg, settings, ray)
        return _write_results(output, form, broken_list, job, predictor.categories)


def _write_results(output: Path, form: str, broken_list: Path, job: Job, categories: Categories) -> Summary:
    write_broken(broken_list, job)
    if form == "parquet":
        write_parquet(output, job)
    elif form != "folder":
        write_coco(output, job, categories, results_only=form == "coco-results")
    labels = [label for _, label in job.parts()]
    broken = tuple(entry["reason"] for label in labels for entry in label.broken)
    return Summary(len(job.listed) - len(broken), sum(label.detections for label in labels), broken, broken_list)


def _check(output: Path, form: str, listed: Sequence[Listed]) -> None:
    if form not in FORMATS:
        raise UserError(f"the format is '{form}', but must be one of {', '.join(FORMATS)}")
    if form != "folder" and output.is_dir():
        raise UserError(f"--output {output} is a folder, but the format {form} is one file: give a file name")
    if form == "folder" and output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file: give a folder, or a name in .parquet or .json")
    here = output.absolute()
    taken = next((entry.file for entry in listed if Path(entry.file).absolute() == here), None)
    if taken:
        raise UserError(f"{output} would be overwritten, and it is one of the inputs: give another --output")


def _remove_leftovers(*files: Path) -> None:
    """What a kill left of files that were being written, see :func:`~..outputs.atomic_path`."""
    for file in files:
        name = re.compile(rf"\.{re.escape(file.stem)}\.\d+\.part{re.escape(file.suffix)}")
        for other in file.parent.iterdir():
            if name.fullmatch(other.name):
                other.unlink(missing_ok=True)


def _run(
    job: Job, todo: Sequence[int], predictor: Predictor, cfg: CfgNode, settings: Settings, ray: RayOptions | None
) -> None:
    left = sum(len(job.shard(number)) for number in todo)
    done = len(job.listed) - left
    if done:
        logger.info("%s: %d of %d pictures are done already", job.folder, done, len(job.listed))
    if not todo:
        return
    with progress("pictures", len(job.listed), unit="picture", done=done) as bar:
        results: Iterator[tuple[Label, bytes]]
        if ray is None:
            shards = ((number, job.shard(number)) for number in todo)
            results = ShardPredictor(predictor, settings).run(shards, bar.advance)
        else:
            results = run_on_ray(cfg, settings, ((number, job.shard(number)) for number in todo), len(todo), ray)
        for label, content in results:
            job.write(label.shard, content)
            for entry in label.broken:
                logger.error("error: %s", entry["reason"])
            if ray is not None:
                bar.advance(label.pictures)
