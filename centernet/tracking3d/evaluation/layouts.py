"""What a data set's result files call its classes."""

from dataclasses import dataclass

from ...errors import UserError
from ..data.constants import KITTI_CLASSES, NUSCENES_CLASSES, SYNTHETIC_CLASSES, WAYMO_CLASSES


@dataclass(frozen=True)
class ResultLayout:
    """Classes of a result file.

    Attributes:
        categories: names by label; written with ids from 1.
        reported: labels whose boxes are written; the others only take part in tracking.
        bottom_centre: the text files give the middle of a box's bottom, as KITTI does, not its centre.
    """

    categories: tuple[str, ...]
    reported: frozenset[int]
    bottom_centre: bool = False


LAYOUTS = {
    "kitti": ResultLayout((*KITTI_CLASSES, "dontcare"), frozenset(range(3)), bottom_centre=True),
    "nuscenes": ResultLayout(NUSCENES_CLASSES, frozenset(range(10))),
    "waymo": ResultLayout(WAYMO_CLASSES, frozenset(range(4))),
    "gta": ResultLayout((*KITTI_CLASSES, "dontcare"), frozenset(range(3))),
    "synthetic3d": ResultLayout(SYNTHETIC_CLASSES, frozenset(range(4))),
}


def layout(name: str) -> ResultLayout:
    """The layout of a data set.

    Raises:
        UserError: there is none of that name.
    """
    if name not in LAYOUTS:
        raise UserError(f"there is no result layout '{name}': take one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]
