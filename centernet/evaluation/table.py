"""Scores as text."""

import logging

from tabulate import tabulate

__all__ = ["log_table", "score_table"]

logger = logging.getLogger(__name__)


def score_table(task: str, metrics: dict[str, float]) -> str:
    """The figures over all classes as a list, then AP of each class, six columns wide; percent.

    Args:
        task: 'bbox', 'segm' or 'keypoints'.
        metrics: of ``Scores.metrics``.
    """
    prefix = "AP-"
    classes = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    figures = [(name, value) for name, value in metrics.items() if not name.startswith(prefix)]
    text = f"{task}, percent (nan: no such object):\n"
    text += tabulate(figures, headers=["figure", task], tablefmt="pipe", floatfmt=".3f")
    if classes:
        rows = list(classes.items())
        height = -(-len(rows) // 3)
        blocks = [rows[start : start + height] for start in range(0, len(rows), height)]
        lines = [
            [cell for block in blocks for cell in (block[line] if line < len(block) else ("", None))]
            for line in range(height)
        ]
        headers = ["class", "AP"] * len(blocks)
        text += f"\n\n{task} AP of each class:\n" + tabulate(lines, headers=headers, tablefmt="pipe", floatfmt=".3f")
    return text


def log_table(task: str, metrics: dict[str, float]) -> None:
    """Log :func:`score_table`."""
    logger.info("Evaluation results for %s", score_table(task, metrics))
