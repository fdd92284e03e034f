"""A row of the model zoo."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Family", "Row", "drive_page"]

Family = Literal[
    "one stage", "two stages", "LVIS v1", "Objects365", "no published row", "timm", "demo", "3D tracking", "motion"
]
BOX_AP = "box AP, val2017"  # of COCO


@dataclass(frozen=True)
class Row:
    """A model of the zoo.

    Attributes:
        name: also the name of its checkpoint, ``NAME.pth``.
        family: the table it stands in.
        dataset: what it is trained and scored on.
        metric: of ``ap``; test at one scale.
        ap: published, percent; None: nothing was published.
        fps: published images a second on a Titan Xp and a Titan RTX.
        parameters: trained or not, without buffers.
        drive_ids: Google Drive files of the trained weights, the newest link first.
        pseudo_labels: Google Drive files that training needs besides the dataset.
        compared: features, detections, losses and gradients are those of the published code, given the same weights.
        published: other published scores, in words.
        withheld: why the authors publish no weights, where they say so; the sentence goes on after "because".
        motion: a motion model of the 3D tracker, not a detector: its network's name. It has no config file.
        notes: what one has to know.
        aliases: other names in use.
        folder: of the config, inside ``configs``.
    """

    name: str
    family: Family
    dataset: str = "COCO"
    metric: str = BOX_AP
    ap: float | None = None
    fps: tuple[int, int] | None = None
    parameters: int = 0
    drive_ids: tuple[str, ...] = ()
    pseudo_labels: tuple[str, ...] = ()
    compared: bool = False
    published: str = ""
    withheld: str = ""
    motion: str = ""
    notes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    folder: str = ""

    @property
    def config(self) -> str:
        """The config file, relative to the ``configs`` folder; ``''`` for a motion model."""
        if self.motion:
            return ""
        return f"{self.folder}/{self.name}.yaml" if self.folder else f"{self.name}.yaml"


def drive_page(drive_id: str) -> str:
    """The page of a Google Drive file, for a browser."""
    return f"https://drive.google.com/file/d/{drive_id}/view"
