"""Where a training writes its figures and pictures: log, metrics.json and what ``WRITERS`` names."""

from .build import build_writers, check_writers
from .remote import RemoteWriter

__all__ = ["RemoteWriter", "build_writers", "check_writers"]
