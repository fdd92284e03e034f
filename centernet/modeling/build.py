"""From a config to a model, with one sentence for what the config has wrong."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ..errors import UserError


def build_detector(cfg: CfgNode) -> nn.Module:
    """detectron2's ``build_model``: the meta-architecture of ``cfg``, on ``MODEL.DEVICE``, with random weights.

    Raises:
        UserError: the config names a part that no registry has, or values that contradict each other.
    """
    try:
        return build_model(cfg)
    except KeyError as error:
        if "registry" not in str(error):
            raise
        # "No object named 'X' found in 'Y' registry!": a misspelt NAME or META_ARCHITECTURE of the config
        raise UserError(f"the config names a part that does not exist: {error.args[0]}") from error
    except (AssertionError, ValueError) as error:
        # how detectron2's and our constructors refuse a value; without words it would be a defect, not a refusal
        if not str(error):
            raise
        raise UserError(f"the model cannot be built from this config: {error}") from error
