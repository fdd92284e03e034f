"""The same shards on Ray Data: several processes or machines, each with the model loaded once."""

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode

from ...errors import UserError
from ..predictor import Predictor
from .lists import Listed
from .parts import Label
from .shards import Settings, ShardPredictor

__all__ = ["RayOptions", "run_on_ray"]

_STORE = 256 * 2**20  # bytes of shared memory: only names of pictures and parts of the result travel


class RayOptions(NamedTuple):
    """Where and how models run on Ray.

    Attributes:
        address: of a running cluster (``auto``, ``host:port``); '' starts Ray on this machine and ends it afterwards.
        workers: models; None for as many as the GPUs or else the cores allow.
        cpus: cores of each, the threads of a model on the CPU.
        gpus: of each; None for 1 if the config says ``cuda`` and Ray has a GPU, else 0.
    """

    address: str = ""
    workers: int | None = None
    cpus: int = 1
    gpus: float | None = None


def run_on_ray(
    cfg: CfgNode,
    settings: Settings,
    shards: Iterable[tuple[int, Sequence[Listed]]],
    count: int,
    options: RayOptions,
) -> Iterator[tuple[Label, bytes]]:
    """Each shard's label and the Parquet file of its part, in the order in which they are done.

    Args:
        cfg: of the model, with the threshold set.
        shards: numbers and pictures.
        count: of shards.

    Raises:
        UserError: Ray is not installed, cannot start or has too few resources; workers died; see
            :meth:`~.shards.ShardPredictor.run`.
    """
    ray = _import_ray()
    with _connected(ray, options):
        workers, gpus = _resources(ray.cluster_resources(), cfg.MODEL.DEVICE, options)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = "cuda" if gpus else "cpu"
        if cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS:
            cfg.MODEL.WEIGHTS = os.path.abspath(cfg.MODEL.WEIGHTS)  # workers may run in another folder
        # on one core the model and the decoder take turns
        settings = settings._replace(loaders=options.cpus if gpus or options.cpus > 1 else 0)
        rows = [{"shard": number, "listed": json.dumps(listed)} for number, listed in shards]
        results = ray.data.from_items(rows, override_num_blocks=count).map_batches(
            ShardWorker,
            fn_constructor_args=(cfg, settings, options.cpus),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, count)),
            num_cpus=options.cpus,
            num_gpus=gpus,
        )
        try:
            for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
                for label, part in zip(batch["label"], batch["part"], strict=True):
                    yield Label(**json.loads(label)), bytes(part)
        except Exception as error:
            raise _told(ray, error) from error


class ShardWorker:
    """What runs on Ray: shards to parts by a model of its own, loaded at the first one."""

    def __init__(self, cfg: CfgNode, settings: Settings, threads: int) -> None:
        self._cfg, self._settings, self._threads = cfg, settings, threads
        self._predictor: ShardPredictor | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """``shard`` and ``listed`` (JSON) to ``label`` (JSON) and ``part`` (bytes)."""
        if self._predictor is None:  # not in __init__, whose errors Ray wraps in an actor's death
            torch.set_num_threads(self._threads)
            predictor = Predictor(self._cfg, precision=self._settings.precision, optimize=self._settings.optimize)
            self._predictor = ShardPredictor(predictor, self._settings)
        numbers = [int(number) for number in batch["shard"]]
        found = self._predictor.run(
            (number, [_listed(entry) for entry in json.loads(text)])
            for number, text in zip(numbers, batch["listed"], strict=True)
        )
        labels, parts = zip(*found, strict=True)
        return {"label": [json.dumps(label._asdict()) for label in labels], "part": list(parts)}


def _listed(entry: list[Any]) -> Listed:
    listed = Listed(*entry)
    return listed._replace(place=(listed.place[0], listed.place[1]) if listed.place else None)


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray starts: nothing about a run leaves the machine
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its remarks on itself are no lines for the user
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("--ray needs Ray Data: pip install -e '.[ray]'") from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, options: RayOptions) -> Iterator[None]:
    """Ray, started here or joined; left at the end."""
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not options.address:
        # 'local': never a cluster that somebody else has started on this machine
        cores = max(os.cpu_count() or 1, (options.workers or 1) * options.cpus)
        common |= {"address": "local", "include_dashboard": False, "num_cpus": cores, "object_store_memory": _STORE}
    else:
        _check_address(options.address)
        common["address"] = options.address
    try:
        ray.init(**common)
    except Exception as error:  # Ray raises many kinds
        where = f"joined at {options.address}" if options.address else "started"
        raise UserError(f"Ray cannot be {where}: {' '.join(str(error).split())[:300]}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise :class:`UserError` if nobody answers at ``host:port``, which Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"Ray cannot be joined at {address}: nobody answers there ({error})") from error


def _resources(cluster: dict[str, float], device: str, options: RayOptions) -> tuple[int, float]:
    """Number of workers and GPUs of each.

    Raises:
        UserError: the cluster does not have as much.
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    each = options.gpus
    if each is None:
        each = 1.0 if device.startswith("cuda") and gpus else 0.0
    most = int(cpus // options.cpus)
    if each:
        most = min(most, int(gpus / each + 1e-6))
    workers = options.workers or max(most, 1)
    if workers > most:
        raise UserError(
            f"Ray has {cpus:g} CPUs and {gpus:g} GPUs, too few for {workers} workers with {options.cpus} CPUs and "
            f"{each:g} GPUs each: give smaller --workers, --cpus-per-worker or --gpus-per-worker"
        )
    return workers, each


def _told(ray: Any, error: BaseException) -> BaseException:
    """The sentence of a worker's :class:`UserError`, or one about Ray itself; a defect stays what it is."""
    chain: BaseException | None = error
    for _ in range(10):  # Ray wraps a few times
        if chain is None:
            break
        if isinstance(chain, UserError):
            return UserError(str(chain))
        if isinstance(chain, ray.exceptions.RayError) and not isinstance(chain, ray.exceptions.RayTaskError):
            reason = " ".join(str(chain).split())[:300]
            return UserError(f"Ray lost workers ({reason}); what is finished is kept: give the same command again")
        chain = getattr(chain, "cause", None) or chain.__cause__
    return error
