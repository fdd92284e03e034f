#!/usr/bin/env python3
"""Train or evaluate a detector that a YAML config describes."""

import argparse
import os
import re
import sys
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode

if __package__:  # imported as part of a tree (CenterNet2.train_net): the package lies beside this file
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))

import centernet  # noqa: F401  registers models, backbones and datasets
from centernet.config_file import load_config, resolve_device, resolve_output_dir
from centernet.data.own_data import BAD_DATA, use_data_of_run, use_own_data
from centernet.engine import one_voice, run, taking_turns
from centernet.errors import UserError, command_line
from centernet.model_zoo import resolve_config_file

EXAMPLES = """
examples:
  train on this machine's GPU, or on the CPU if it has none
      python train_net.py configs/CenterNet2_R50_1x.yaml
  train on your own pictures: COCO, Pascal VOC and YOLO folders or files; classes and a held-out part are found
      python train_net.py configs/demo/CenterNet2_R18_bccd.yaml --data my/pictures
  go on with a run that was stopped or killed, exactly where its last checkpoint left it
      python train_net.py configs/CenterNet2_R50_1x.yaml --resume
  change settings: any number of KEY VALUE pairs, last
      python train_net.py configs/CenterNet2_R50_1x.yaml SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.005
  score trained weights
      python train_net.py configs/CenterNet2_R50_1x.yaml --eval-only MODEL.WEIGHTS model_final.pth
  8 GPUs; 2 machines with 8 GPUs each (the same command on both); SLURM: docs/TRAINING.md
      python train_net.py configs/CenterNet2_R50_1x.yaml --num-gpus 8
      torchrun --nnodes=2 --nproc-per-node=8 --max-restarts=3 --rdzv-backend=c10d \\
          --rdzv-endpoint=first-machine:29500 train_net.py configs/CenterNet2_R50_1x.yaml

options, all of them settings (docs/TRAINING.md has every one, with its default):
  faster, or less memory    SOLVER.AMP.ENABLED True (mixed precision), MODEL.CHANNELS_LAST True,
                            MODEL.COMPILE.ENABLED True, SOLVER.GRADIENT_ACCUMULATION 2 (batch in parts),
                            MODEL.ACTIVATION_CHECKPOINTING True
  better                    SOLVER.EMA.ENABLED True (average of the weights), SOLVER.OPTIMIZER ADAMW,
                            SOLVER.LAYER_DECAY 0.8, SOLVER.CLIP_GRADIENTS.ENABLED True, MODEL.FREEZE "['backbone']"
  the config on other GPUs  SOLVER.REFERENCE_WORLD_SIZE 8 (processes it is meant for: batch and rate follow)
  watch                     VIS_PERIOD 500 (pictures), TEST.EVAL_PERIOD 5000, TEST.VALIDATION_LOSS True,
                            WRITERS "['tensorboard', 'wandb', 'mlflow']"; tools/plot_metrics.py OUTPUT_DIR
  keep and stop at the best TEST.BEST_METRIC bbox/AP (model_best.pth), TEST.EARLY_STOPPING 5 (evaluations)
  survive                   SOLVER.CHECKPOINT_PERIOD 1000, SOLVER.CHECKPOINTS_KEPT 3, SOLVER.NON_FINITE skip,
                            DATALOADER.BAD_IMAGE_LIMIT 10

SIGTERM and Ctrl-C save a checkpoint after the current iteration and stop. Results are in OUTPUT_DIR: summary.md,
config.yaml, log.txt, metrics.json (one row of losses every 20 iterations), TensorBoard events, checkpoints.
Exit status: 0 done, 2 something to mend (one line says what), 130 or 143 stopped by Ctrl-C or SIGTERM.
"""

# what --data sets
DATA_KEYS = {"DATASETS.TRAIN", "DATASETS.TEST", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.CENTERNET.NUM_CLASSES"}


def argument_parser() -> argparse.ArgumentParser:
    """The command line, with the names that detectron2's users know."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="the config; may also be given without the flag")
    add(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in OUTPUT_DIR (if there is none: start)",
    )
    add("--eval-only", action="store_true", help="no training: score MODEL.WEIGHTS on DATASETS.TEST")
    add(
        "--num-gpus",
        type=int,
        metavar="N",
        help="GPUs on this machine, 0 for the CPU (default: 1 if there is one)",
    )
    add(
        "--num-processes",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the CPU, each with a part of the batch (default 1)",
    )
    add("--num-machines", type=int, default=1, metavar="N", help="machines that train together (default 1)")
    add("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    add("--dist-url", default="auto", metavar="URL", help="where processes meet (default: a free port here)")
    add(
        "--manual_device",
        default="",
        metavar="IDS",
        help="GPUs to use, such as 0,2 (sets CUDA_VISIBLE_DEVICES)",
    )
    add(
        "--data",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="your own data instead of DATASETS: COCO JSON files, COCO, Pascal VOC or YOLO folders, or a .txt that "
        "lists them; sets the classes and DATASETS, writes OUTPUT_DIR/data (--resume without --data goes on with that)",
    )
    add(
        "--val-fraction",
        type=float,
        default=0.1,
        metavar="F",
        help="part of the images of --data to hold out if it has no validation part (default 0.1)",
    )
    add(
        "--bad-data",
        choices=BAD_DATA,
        default="refuse",
        help="broken images or boxes in --data: refuse the data (default), or leave these out and list them",
    )
    add("opts", nargs="*", metavar="KEY VALUE", help="config settings that replace those of the file")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; flags may stand before or after the settings, and the config with or without its flag."""
    words = sys.argv[1:] if argv is None else list(argv)
    # argparse takes '-1e-3' for a flag; a word with a space in it never is one
    words = [f" {word}" if re.fullmatch(r"-[\d.].*", word) else word for word in words]
    args = argument_parser().parse_intermixed_args(words)
    args.opts = [word.strip() for word in args.opts]
    _split_settings_from_data(args)
    if not args.config_file and args.opts and args.opts[0].endswith((".yaml", ".yml")):
        args.config_file = args.opts.pop(0)
    return args


def _split_settings_from_data(args: argparse.Namespace) -> None:
    """``--data a b SEED 1``: argparse takes all four words for data; settings begin at the first config key."""
    words = [word.strip() for word in args.data or ()]
    keys = (k for k, word in enumerate(words) if k and re.fullmatch(r"[A-Z][A-Z0-9_.]*", word))
    first = next((k for k in keys if not os.path.exists(words[k])), len(words))
    args.data, args.opts = words[:first], args.opts + words[first:]


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of ``args.config_file`` and ``args.opts``, with output folder and device settled.

    Writes nothing, except, with ``args.data``, the data in COCO format to OUTPUT_DIR/data.
    """
    cfg = load_config(resolve_config_file(args.config_file), args.opts or ())
    resolve_output_dir(cfg, args.config_file)
    if getattr(args, "num_gpus", None) == 0 or getattr(args, "num_processes", 1) > 1:
        cfg.MODEL.DEVICE = "cpu"
    resolve_device(cfg)
    if getattr(args, "data", None):
        _use_data(cfg, args)
    elif getattr(args, "resume", False) and not DATA_KEYS & set(args.opts or ()):
        data = use_data_of_run(cfg)
        if data:
            print("\n".join(data.summary))
    cfg.freeze()
    return cfg


def _use_data(cfg: CfgNode, args: argparse.Namespace) -> None:
    for key in (args.opts or ())[::2]:
        if key in DATA_KEYS:
            raise UserError(f"--data sets {key}: give either --data or {key}, not both")
    # a job that torchrun started again goes on with what it had, even if the source has changed
    resume = args.resume or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    with taking_turns(cfg.OUTPUT_DIR):
        data = use_own_data(cfg, args.data, val_fraction=args.val_fraction, bad_data=args.bad_data, resume=resume)
    print("\n".join(data.summary))


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    with one_voice():
        args = parse_args(argv)
        if not args.config_file:
            raise UserError("name a config, such as: python train_net.py configs/CenterNet2_R50_1x.yaml")
        if args.manual_device:
            os.environ["CUDA_VISIBLE_DEVICES"] = args.manual_device
        cfg = setup(args)
        if cfg.MODEL.DEVICE == "cpu":
            print("Running on the CPU.")
    return run(
        cfg,
        resume=args.resume,
        eval_only=args.eval_only,
        num_gpus=min(torch.cuda.device_count(), 1) if args.num_gpus is None else args.num_gpus,
        num_processes=args.num_processes,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
    )


if __name__ == "__main__":
    sys.exit(main())
