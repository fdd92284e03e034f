#!/usr/bin/env python3
"""Make a working detectron2 importable where only the package index can be reached.

detectron2 itself is not on the index, but the source distribution of its release v0.6 is, under another name. This
tool takes that sdist from whatever index pip is configured for, checks its SHA-256, applies the mechanical mends
below (the release predates today's numpy, Pillow and setuptools), leaves out the compiled operators and installs the
result as a pure-Python wheel. No mend changes a number that detectron2 computes. A working detectron2, of any version
and however installed, is left alone.

    python tools/install_detectron2.py [--sdist FILE] [--log FILE]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SDIST = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
# What the sdist asks for, less its formatter, Python 2 and Caffe2 leftovers and less the upper bounds of its day.
REQUIRES = (
    "Pillow>=7.1 matplotlib pycocotools>=2.0.2 termcolor>=1.1 yacs>=0.1.8 tabulate cloudpickle tqdm>4.29.0 "
    "tensorboard fvcore>=0.1.5,<0.1.6 iopath>=0.1.7 omegaconf>=2.1 hydra-core>=1.1"
).split()
# Folders of the sdist that become packages of the wheel (the sdist's own `package_dir`, and detectron2 itself).
PACKAGES = {
    "detectron2": "detectron2",
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "detectron2/projects/panoptic_deeplab",
}
CHECK = """
import detectron2.evaluation, detectron2.modeling, detectron2.model_zoo
cfg = detectron2.model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = "cpu", 18, 64
detectron2.modeling.build_model(cfg)
print(detectron2.__version__, detectron2.__path__[0])
"""
NO_C = '''"""Stands in for the compiled `detectron2._C`, which this pure-Python build of detectron2 does not have."""


class _NoCompiledOperators:
    def __getattr__(self, name):
        raise NotImplementedError(
            f"The compiled operator {name} is not in this pure-Python build of detectron2; "
            "install detectron2 from its own repository to have it."
        )


_C = _NoCompiledOperators()
'''


class InstallError(RuntimeError):
    """A reason, in one sentence, why detectron2 could not be installed."""


class Mend(NamedTuple):
    """Replace `pattern` (a regular expression) by `new` in the file `path`, exactly `count` times."""

    path: str
    pattern: str
    new: str
    count: int


_ALIAS = r"\bnp\.(bool|int|float|object|str)\b"
_ALIAS_COUNTS = {
    "data/build.py": 2,
    "data/datasets/pascal_voc.py": 1,
    "evaluation/pascal_voc_evaluation.py": 2,
    "evaluation/sem_seg_evaluation.py": 7,
    "structures/masks.py": 3,
    "utils/video_visualizer.py": 1,
    "utils/visualizer.py": 3,
}
_OPTIONAL_C = (
    "try:\n    from detectron2 import _C\nexcept ImportError:  # pure-Python build\n    from detectron2._no_c import _C\n"
)
_OPTIONAL_FAST_EVAL = (
    "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
    "except ImportError:  # pure-Python build: the official implementation gives the same figures\n"
    "    COCOeval_opt = COCOeval\n"
)
_MODULES_OF_C = ("layers/deform_conv.py", "layers/roi_align_rotated.py", "layers/rotated_boxes.py")
MENDS = (
    # The compiled operators are optional.
    *(Mend(f"detectron2/{path}", r"(?m)^from detectron2 import _C\n", _OPTIONAL_C, 1) for path in _MODULES_OF_C),
    Mend(
        "detectron2/evaluation/coco_evaluation.py",
        r"(?m)^from detectron2\.evaluation\.fast_eval_api import COCOeval_opt\n",
        _OPTIONAL_FAST_EVAL,
        1,
    ),
    # numpy 1.24 removed its aliases of built-in types; numpy 2 raises where `copy=False` has to copy.
    *(Mend(f"detectron2/{path}", _ALIAS, r"\1", count) for path, count in _ALIAS_COUNTS.items()),
    Mend("detectron2/layers/mask_ops.py", r"np\.array\(mask, copy=False\)", "np.asarray(mask)", 1),
    # Pillow 10 removed the old name of BILINEAR.
    Mend("detectron2/data/transforms/transform.py", r"\bImage\.LINEAR\b", "Image.BILINEAR", 1),
    # setuptools 82 removed pkg_resources.
    Mend("detectron2/model_zoo/model_zoo.py", r"(?m)^import pkg_resources\n", "", 1),
    Mend(
        "detectron2/model_zoo/model_zoo.py",
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", (os\.path\.join\("configs", config_path\))\s*\)',
        r"os.path.join(os.path.dirname(os.path.abspath(__file__)), \1)",
        1,
    ),
    # Caffe2 is gone, the rest of the export package needs none of it.
    Mend(
        "detectron2/export/__init__.py",
        r"(?m)^from \.api import \*\n",
        "try:\n    from .api import *\nexcept ImportError:  # no Caffe2\n    pass\n",
        1,
    ),
    # torch warns at every model without `indexing`; "ij" is what it does by default.
    Mend(
        "detectron2/modeling/anchor_generator.py",
        r"torch\.meshgrid\(shifts_y, shifts_x\)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        1,
    ),
)


def apply_mends(root: Path, mends: Sequence[Mend] = MENDS) -> list[str]:
    """Mend the sources under `root` in place and return one line a mend; raise if a file is not as expected."""
    report = []
    for mend in mends:
        path = root / mend.path
        if not path.is_file():
            raise InstallError(f"The detectron2 sources have no {mend.path}, which is to be mended.")
        text, count = re.subn(mend.pattern, mend.new, path.read_text(encoding="utf-8"))
        if count != mend.count:
            raise InstallError(
                f"{mend.path} is not as expected: {mend.pattern!r} found {count} times, not {mend.count}."
            )
        compile(text, mend.path, "exec")
        path.write_text(text, encoding="utf-8")
        report.append(f"{mend.path}: {count} x {mend.pattern}")
    return report


def why_not_working() -> str | None:
    """None if this interpreter has a detectron2 that imports and builds a model, else the reason that it has not."""
    if importlib.util.find_spec("detectron2") is None:
        return "not installed"
    # A new process sees what was installed a moment ago and survives a crash of compiled code. `-P` is not in 3.10;
    # `-I` keeps a folder named detectron2 in the working directory from passing for the package.
    done = subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", CHECK], capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it crashed"])[-1]


def run_pip(arguments: Sequence[str], log: Path) -> str:
    """Run pip of this interpreter and return its output, also appended to `log`; raise if it fails."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    output = done.stdout + done.stderr
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ pip {' '.join(arguments)}\n{output}\n")
    if done.returncode != 0:
        raise InstallError(output)
    return output


def fetch_sdist(folder: Path, log: Path) -> Path:
    """Download the sdist from the configured index into `folder`; pip checks the hash before it runs anything."""
    for module in ("torch", "setuptools"):  # pip asks the sdist for its metadata, and its setup.py imports torch
        if importlib.util.find_spec(module) is None:
            raise InstallError(f"{module} is not installed in {sys.prefix}: install the lock file first.")
    wanted = folder / "sdist.txt"
    wanted.write_text(f"{SDIST} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes")
    try:
        run_pip(["download", *options, "-r", str(wanted), "-d", str(folder)], log)
    except InstallError as error:
        if "DO NOT MATCH THE HASHES" in str(error):
            raise InstallError(f"The index's {SDIST} has another hash than {SHA256}; refused.") from None
        raise InstallError(
            f"pip could not fetch {SDIST}: no network, or the package index lacks it (pip's words: {log})."
        ) from None
    return next(folder.glob("*.tar.gz"))


def check_hash(sdist: Path) -> None:
    """Raise unless `sdist` is the very file that the mends were written for."""
    if not sdist.is_file():
        raise InstallError(f"There is no file {sdist}.")
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SHA256:
        raise InstallError(f"{sdist} has SHA-256 {found}, not {SHA256}; refused.")


def build_wheel(source: Path, folder: Path) -> Path:
    """Pack the mended sources under `source` as a pure-Python wheel in `folder`."""
    info = "detectron2-0.6.dist-info"
    files = {"detectron2/_no_c.py": NO_C.encode()}
    for origin, package in PACKAGES.items():
        for path in sorted((source / origin).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".yaml"):
                files[f"{package}/{path.relative_to(source / origin).as_posix()}"] = path.read_bytes()
    files[f"{info}/licenses/LICENSE"] = (source / "LICENSE").read_bytes()
    requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIRES)
    files[f"{info}/METADATA"] = (
        "Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6\nSummary: detectron2 v0.6, pure Python, mended\n"
        f"License: Apache-2.0\nLicense-File: LICENSE\n{requires}"
    ).encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: install_detectron2\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / "detectron2-0.6-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel


def install(sdist: Path | None, log: Path) -> None:
    """Fetch (unless `sdist` is given), check, mend, pack and install; on failure nothing of ours stays behind."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        sdist = sdist or fetch_sdist(folder, log)
        check_hash(sdist)
        with tarfile.open(sdist) as archive:  # the hash is known, so is the content
            archive.extractall(folder / "source", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        source = next((folder / "source").iterdir())
        print(f"mended {len(apply_mends(source))} places")
        wheel = build_wheel(source, folder)
        try:
            run_pip(["install", "--no-deps", "--force-reinstall", "--no-index", str(wheel)], log)
        except InstallError:
            raise InstallError(f"pip could not install the detectron2 wheel (pip's words: {log}).") from None
    importlib.invalidate_caches()
    reason = why_not_working()
    if reason is not None:
        run_pip(["uninstall", "--yes", "detectron2"], log)
        raise InstallError(f"detectron2 was installed, did not work and was removed again: {reason}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Install detectron2 v0.6 as a pure-Python wheel, if there is none.")
    parser.add_argument("--sdist", type=Path, help="a copy of the source distribution, instead of the package index")
    parser.add_argument("--log", type=Path, default=Path(sys.prefix) / "install_detectron2.log", help="pip's words")
    options = parser.parse_args(arguments)
    reason = why_not_working()
    if reason is None:
        print("detectron2 is there and works: nothing to do.")
        return 0
    print(f"detectron2: {reason}; installing v0.6 as a pure-Python wheel.")
    try:
        install(options.sdist, options.log)
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    print("detectron2 v0.6 is installed and works.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
