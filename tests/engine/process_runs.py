"""What several processes of a test do: each function here runs in all of them, over gloo on the CPU."""

from pathlib import Path
from typing import Any

import torch
from children import CONTEXT

SIZE = (64, 64)
RATE = 1e-4  # as in a warm-up: a larger one lets rounding grow tenfold every few iterations
TINY_MODELS = str(Path(__file__).resolve().parents[1] / "modeling")


def in_processes(count: int, work: Any, folder: Path, *args: Any) -> list[Any]:
    """Call ``work(*args)`` in ``count`` processes that have met; what each returned, by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = [CONTEXT.Process(target=_process, args=(rank, count, work, folder, args)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(900)  # a busy machine
        process.kill()  # nothing to do for one that has ended
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    return [torch.load(folder / f"result{rank}", weights_only=False) for rank in range(count)]


def _process(rank: int, count: int, work: Any, folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=count)
    torch.save(work(*args), folder / f"result{rank}")
    torch.distributed.destroy_process_group()


def batch_of(iteration: int, images: int, *, masks: bool = False) -> list[dict[str, Any]]:
    """A batch with objects in the first half of the images only, in the second only, or in all, in turn."""
    from detectron2.structures import BitMasks
    from tiny import image, with_objects

    batch = []
    for number in range(images):
        without = iteration % 3 < 2 and (number < images // 2) == bool(iteration % 3)
        seed = iteration * images + number
        item = with_objects(image(*SIZE, seed=seed), 0 if without else 1 + 2 * (number % 2), seed=seed)
        if masks:
            count = len(item["instances"])
            item["instances"].gt_masks = BitMasks(torch.ones(count, *SIZE, dtype=torch.bool))
        batch.append(item)
    return batch


def train(name: str, options: tuple[Any, ...], iterations: int, images: int, double: bool = False) -> dict[str, Any]:
    """Losses of each iteration and final weights of a tiny model, trained on this process's share of the batches."""
    import sys

    sys.path.insert(0, TINY_MODELS)
    from detectron2.engine import HookBase
    from detectron2.modeling import build_model
    from detectron2.utils import comm
    from tiny import tiny_cfg

    from centernet.engine import Trainer
    from centernet.engine.processes import parallel

    class Recorder(HookBase):
        rows: list[dict[str, float]] = []

        def after_step(self) -> None:
            latest = self.trainer.storage.latest()
            self.rows.append({key: value for key, (value, _) in latest.items() if "loss" in key})

    cfg = tiny_cfg(name, *options)
    torch.manual_seed(0)
    model = build_model(cfg).to(torch.float64 if double else torch.float32)
    share = images // comm.get_world_size()
    first = comm.get_rank() * share
    masks = cfg.MODEL.MASK_ON
    batches = (batch_of(number, images, masks=masks)[first : first + share] for number in range(iterations + 1))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE, momentum=0.9)
    trainer = Trainer(parallel(model), optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), seed=0)
    recorder = Recorder()
    recorder.rows = []
    trainer.register_hooks([recorder])
    trainer.open_data(batches)
    trainer.train(0, iterations)
    without = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    return {"losses": recorder.rows, "weights": model.state_dict(), "without gradient": without}


def train_all(
    runs: list[tuple[str, tuple[Any, ...]]], iterations: int, images: int, double: bool = False
) -> list[dict[str, Any]]:
    """:func:`train` of each."""
    return [train(name, options, iterations, images, double) for name, options in runs]


def evaluate_oracle(names: list[str]) -> tuple[dict[str, Any], list[list[Any]]]:
    """Scores on each dataset of a model that is right about the first object of each image, and what is on the disk."""
    import json
    import tempfile

    from detectron2.config import get_cfg
    from detectron2.utils import comm

    from centernet.config import add_centernet_config
    from centernet.evaluation import evaluate, output_folder

    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = comm.all_gather(tempfile.mkdtemp())[0]
    scores, files = {}, []
    for number, name in enumerate(names):
        cfg.DATASETS.TEST = (name,)
        scores[number] = evaluate(cfg, _Oracle(name.split(":")[1]))[name]
        rows = json.loads((Path(output_folder(cfg, name)) / "coco_instances_results.json").read_text())
        files.append(sorted(str(row) for row in rows))
    return scores, files


class _Oracle(torch.nn.Module):
    def __init__(self, labels: str) -> None:
        import json

        super().__init__()
        self.objects = {a["image_id"]: a for a in reversed(json.loads(Path(labels).read_text())["annotations"])}

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        from detectron2.structures import Boxes, Instances

        answers = []
        for item in batch:
            found = self.objects[item["image_id"]]
            x, y, width, height = found["bbox"]
            instances = Instances((item["height"], item["width"]))
            instances.pred_boxes = Boxes(torch.tensor([[x, y, x + width, y + 0.9 * height]]))
            instances.scores = torch.tensor([1 / item["image_id"]])
            instances.pred_classes = torch.tensor([found["category_id"] - 1])
            answers.append({"instances": instances})
        return answers
