"""``train_net.py`` that kills itself where ``KILL`` says: items ``start:rank:iteration``, -1 is before they meet.

Writes the images of each iteration to ``IMAGES``, one file a start and rank.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from detectron2.utils import comm

import train_net
from centernet.engine.trainer import Trainer

KILLS = {tuple(map(int, item.split(":"))) for item in os.environ.get("KILL", "").split()}
START = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
run_step, open_data = Trainer.run_step, Trainer.open_data


def die_at(iteration, rank):
    if (START, rank, iteration) in KILLS:
        os.kill(os.getpid(), signal.SIGKILL)


def step(trainer):
    die_at(trainer.iter, comm.get_rank())
    run_step(trainer)


def opened(trainer, loader):
    def noted():
        for batch in loader:
            with open(Path(os.environ["IMAGES"]) / f"{START}-{comm.get_rank()}", "a") as file:
                file.write(f"{[Path(item['file_name']).name for item in batch]}\n")
            yield batch

    open_data(trainer, noted())


Trainer.run_step, Trainer.open_data = step, opened

if __name__ == "__main__":
    die_at(-1, int(os.environ.get("RANK", "-1")))
    sys.exit(train_net.main())
