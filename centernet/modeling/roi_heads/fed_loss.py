"""Class frequencies for the federated loss."""

import json
from pathlib import Path

import torch
from torch import Tensor

from ...errors import UserError


def load_class_freq(path: str = "datasets/lvis/lvis_v1_train_cat_info.json", freq_weight: float = 0.5) -> Tensor:
    """Sampling weight of each class, float32 ``[C]``: ``image_count ** freq_weight``, by ascending category id.

    Args:
        path: JSON list of objects with ``id`` and ``image_count``.

    Raises:
        UserError: the file is missing or not of that form.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"the class frequencies of the federated loss are missing: {path} (MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH) "
            "does not exist; put a JSON list of {id, image_count} there or point the key at one"
        )
    try:
        categories = sorted(json.loads(file.read_text()), key=lambda c: c["id"])
        counts = torch.tensor([float(c["image_count"]) for c in categories])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a JSON list of objects with 'id' and 'image_count' ({error!r})") from error
    return counts**freq_weight
