"""A page about a detector's results: scores, kinds of errors, calibration, confusion, the worst pictures.

:func:`read_inputs` reads a run folder, :func:`write_report` judges it and writes one HTML file.
"""

from .inputs import ReportInputs, read_inputs
from .page import write_report

__all__ = ["ReportInputs", "read_inputs", "write_report"]
