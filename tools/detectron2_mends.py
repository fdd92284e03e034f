"""The mechanical mends that detectron2 v0.6 needs with today's numpy, Pillow, setuptools and torch.

tools/install_detectron2.py applies them. No mend changes a number that detectron2 computes: names that
other packages removed are replaced by what they stood for, and what was compiled becomes optional.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class MendError(RuntimeError):
    """The sources are not those that the mends were written for; the message is one sentence."""


class Mend(NamedTuple):
    """Replace `pattern` (a regular expression) by `new` in the file `path`, exactly `times` times."""

    path: str
    pattern: str
    new: str
    times: int = 1


# A file added to the package.
NO_C = '''"""Stands in for the compiled `detectron2._C`, which this pure-Python build does not have."""


class _NoCompiledOperators:
    def __getattr__(self, name):
        raise NotImplementedError(
            f"The compiled operator {name} is not in this pure-Python build of detectron2; "
            "install detectron2 from its own repository to have it."
        )


_C = _NoCompiledOperators()
'''

_OPTIONAL_C = r"""try:
    from detectron2 import _C
except ImportError:  # pure-Python build
    from detectron2._no_c import _C
"""
_OPTIONAL_FAST_EVALUATION = r"""try:
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
except ImportError:  # pure-Python build: the official implementation gives the same figures
    COCOeval_opt = COCOeval
"""
_OPTIONAL_CAFFE2 = r"""try:
    from .api import *
except ImportError:  # no Caffe2
    pass
"""
_IMPORT_C = r"(?m)^from detectron2 import _C\n"
_ALIAS = r"\bnp\.(bool|int|float|object|str)\b"

MENDS = (
    # The compiled operators are optional.
    Mend("detectron2/layers/deform_conv.py", _IMPORT_C, _OPTIONAL_C),
    Mend("detectron2/layers/roi_align_rotated.py", _IMPORT_C, _OPTIONAL_C),
    Mend("detectron2/layers/rotated_boxes.py", _IMPORT_C, _OPTIONAL_C),
    Mend(
        "detectron2/evaluation/coco_evaluation.py",
        r"(?m)^from detectron2\.evaluation\.fast_eval_api import COCOeval_opt\n",
        _OPTIONAL_FAST_EVALUATION,
    ),
    # Caffe2 is gone, and the rest of the export package needs none of it.
    Mend("detectron2/export/__init__.py", r"(?m)^from \.api import \*\n", _OPTIONAL_CAFFE2),
    # numpy 1.24 removed its aliases of built-in types.
    Mend("detectron2/data/build.py", _ALIAS, r"\1", 2),
    Mend("detectron2/data/datasets/pascal_voc.py", _ALIAS, r"\1"),
    Mend("detectron2/evaluation/pascal_voc_evaluation.py", _ALIAS, r"\1", 2),
    Mend("detectron2/evaluation/sem_seg_evaluation.py", _ALIAS, r"\1", 7),
    Mend("detectron2/structures/masks.py", _ALIAS, r"\1", 3),
    Mend("detectron2/utils/video_visualizer.py", _ALIAS, r"\1"),
    Mend("detectron2/utils/visualizer.py", _ALIAS, r"\1", 3),
    # numpy 2 raises where `copy=False` has to copy.
    Mend("detectron2/layers/mask_ops.py", r"np\.array\(mask, copy=False\)", "np.asarray(mask)"),
    # Pillow 10 removed the old name of BILINEAR.
    Mend("detectron2/data/transforms/transform.py", r"\bImage\.LINEAR\b", "Image.BILINEAR"),
    # setuptools 82 removed pkg_resources.
    Mend("detectron2/model_zoo/model_zoo.py", r"(?m)^import pkg_resources\n", ""),
    Mend(
        "detectron2/model_zoo/model_zoo.py",
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", (os\.path\.join\([^()]*\))\s*\)',
        r"os.path.join(os.path.dirname(os.path.abspath(__file__)), \1)",
    ),
    # torch 1.12 refuses a group normalisation of one channel; only the type of the layer is looked at here.
    Mend("detectron2/modeling/meta_arch/retinanet.py", r"get_norm\(norm, 1\)", "get_norm(norm, 32)"),
    # torch warns at every model without `indexing`; "ij" is what it does by default.
    Mend(
        "detectron2/modeling/anchor_generator.py",
        r"torch\.meshgrid\(shifts_y, shifts_x\)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
    ),
)


def apply_mends(root: Path, mends: Sequence[Mend] = MENDS) -> int:
    """Mend the sources under `root` in place and return the number of replacements.

    Raises MendError, naming the file, if one is missing or does not hold a mend's text as often as expected.
    """
    for mend in mends:
        path = root / mend.path
        if not path.is_file():
            raise MendError(f"The detectron2 sources have no {mend.path}, which is to be mended.")
        text, times = re.subn(mend.pattern, mend.new, path.read_text(encoding="utf-8"))
        if times != mend.times:
            raise MendError(
                f"{mend.path} is not as expected: {mend.pattern!r} found {times} times, not {mend.times}."
            )
        compile(text, mend.path, "exec")
        path.write_text(text, encoding="utf-8")
    (root / "detectron2" / "_no_c.py").write_text(NO_C, encoding="utf-8")
    return sum(mend.times for mend in mends)
