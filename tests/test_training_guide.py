"""docs/TRAINING.md and --help say what there is: every key with its default, in the user's words."""

import ast
import re
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg

from centernet.config import add_centernet_config

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "TRAINING.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| `([A-Z_.]+)` \| `([^|]*)` \| \S.*\|$", GUIDE, re.MULTILINE))
# of the model, of the input, for debugging, or without effect
ELSEWHERE = re.compile(
    r"MODEL\.(CENTERNET|BIFPN|DLA|TIMM|TRACKING3D|ROI_BOX_HEAD)\.|INPUT\.|DEBUG|SAVE_DEBUG|SAVE_PTH|DATALOADER\.SOURCE_AWARE"
)


def flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def configs():
    before = get_cfg()
    after = before.clone()
    add_centernet_config(after)
    return dict(flat(before)), dict(flat(after))


def test_every_training_key_is_in_the_table_with_its_default():
    before, after = configs()
    added = {key for key in after if key not in before and not ELSEWHERE.match(key)}
    assert len(added) > 20
    assert added - set(ROWS) == set()
    assert {key: ast.literal_eval(default) for key, default in ROWS.items()} == {key: after[key] for key in ROWS}


def test_keys_that_are_named_exist():
    _, after = configs()
    named = set(re.findall(r"\b(?:SOLVER|MODEL|TEST|DATALOADER|INPUT|DATASETS)\.[A-Z_][A-Z0-9_.]*[A-Z0-9_]", GUIDE))
    assert {key for key in named if not any(key in (known, known.rpartition(".")[0]) for known in after)} == set()


def test_links_of_the_guide():
    for name, place in re.findall(r"\]\(([\w./]*)#?([\w-]*)\)", GUIDE):
        text = (ROOT / "docs" / name).read_text("utf-8") if name else GUIDE
        headings = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        assert not place or place in headings, place


def test_commands_name_what_there_is():
    for path in re.findall(r"(?:python|torchrun)[^\n]*?((?:tools/)?\w+\.py)", GUIDE):
        assert (ROOT / path).is_file(), path
    for config in re.findall(r"configs/[\w/.-]+\.yaml", GUIDE):
        assert (ROOT / config).is_file(), config


@pytest.mark.parametrize(
    "words",
    [
        "torchrun", "SLURM", "--resume", "mixed precision", "average of the weights", "SOLVER.GRADIENT_ACCUMULATION",
        "SOLVER.OPTIMIZER ADAMW", "MODEL.FREEZE", "TEST.BEST_METRIC", "TEST.EARLY_STOPPING", "docs/TRAINING.md",
        "TEST.VALIDATION_LOSS", "VIS_PERIOD", "wandb", "SOLVER.NON_FINITE", "MODEL.COMPILE.ENABLED",
        "MODEL.CHANNELS_LAST", "MODEL.ACTIVATION_CHECKPOINTING", "SOLVER.CLIP_GRADIENTS", "SOLVER.REFERENCE_WORLD_SIZE",
    ],
)  # fmt: skip
def test_help_covers_the_options(words):
    import sys

    sys.path.insert(0, str(ROOT))
    import train_net

    assert words in train_net.argument_parser().format_help()
