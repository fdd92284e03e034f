"""Detectors as files: ONNX, TorchScript, torch.export. See ``docs/EXPORT.md``."""

from .build import ExportedDetector, export_model, load_exported

__all__ = ["ExportedDetector", "export_model", "load_exported"]
