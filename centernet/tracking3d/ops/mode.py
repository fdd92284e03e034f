"""Published behaviour or mended: every component of the wing knows both."""

from typing import Literal, get_args

from ...errors import UserError

Mode = Literal["parity", "modern"]
"""``"parity"``: what the published program computes, with its defects; ``"modern"``: these mended."""


def checked_mode(value: str, where: str = "MODEL.TRACKING3D.MODE") -> Mode:
    """``value`` as a :data:`Mode`.

    Args:
        value: what somebody wrote.
        where: the key or option that held it, for the message.

    Raises:
        UserError: neither ``"parity"`` nor ``"modern"``.
    """
    for mode in get_args(Mode):
        if value == mode:
            return mode
    raise UserError(
        f"{where} is '{value}': set it to 'parity' (as published, for converted weights) or 'modern' (mended)"
    )
