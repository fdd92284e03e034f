"""The model zoo: every shipped config by name, with its published numbers and trained weights.

- ``rows``: the table
- ``lookup``: names and config files, in a checkout and in an installed package
- ``checkpoints``: trained weights, downloaded once; ``zoo://NAME`` wherever detectron2 takes a path
- ``models``: configs and models ready to run
"""

from .checkpoints import get_checkpoint, is_at_hand, register_zoo_addresses
from .lookup import get_config_file, info, motion_names, names, resolve_config_file
from .models import get, get_config
from .rows import PSEUDO_LABELS, Row, drive_page

__all__ = [
    "PSEUDO_LABELS",
    "Row",
    "drive_page",
    "get",
    "get_checkpoint",
    "get_config",
    "get_config_file",
    "info",
    "is_at_hand",
    "motion_names",
    "names",
    "register_zoo_addresses",
    "resolve_config_file",
]
