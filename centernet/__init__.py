"""CenterNet2 as a detectron2 extension. Importing this package registers its models, backbones and datasets."""

__version__ = "0.1.0"
