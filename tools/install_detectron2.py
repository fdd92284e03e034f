#!/usr/bin/env python3
"""Make detectron2 importable where only the package index can be reached.

detectron2 itself is not on the index, but the source distribution of its release v0.6 is, under another
name. This tool takes it from whatever index pip is configured for, checks its SHA-256, mends it (see
detectron2_mends.py) and installs it without its compiled operators, as a pure-Python wheel. A working
detectron2 is left alone.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import os
import re
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

from detectron2_mends import MendError, apply_mends

SDIST = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
# The sdist's requirements, less the upper bounds of its day, its code formatter, Python 2 and Caffe2.
REQUIRES = """Pillow>=7.1 matplotlib pycocotools>=2.0.2 termcolor>=1.1 yacs>=0.1.8 tabulate cloudpickle
    tqdm>4.29 tensorboard fvcore>=0.1.5,<0.1.6 iopath>=0.1.7 omegaconf>=2.1 hydra-core>=1.1"""
# Folders of the sdist and the packages they become, as in its own setup.py.
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
"""


class InstallError(RuntimeError):
    """The reason, in one sentence, why detectron2 could not be installed."""


def why_not_working() -> str | None:
    """None if this interpreter has a detectron2 that imports and builds a model, else why it has not."""
    if importlib.util.find_spec("detectron2") is None:
        return "not installed"
    # A new process sees what was installed a moment ago, and survives a crash of compiled code.
    # -I: a folder named detectron2 in the working directory does not pass for the package.
    done = subprocess.run([sys.executable, "-I", "-c", CHECK], capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it crashed"])[-1]


def run_pip(arguments: Sequence[str], log: Path) -> None:
    """Run this interpreter's pip with its output appended to `log`; raise with the output if it fails."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ pip {' '.join(arguments)}\n{done.stdout}{done.stderr}\n")
    if done.returncode != 0:
        raise InstallError(done.stdout + done.stderr)


def fetch_sdist(folder: Path, log: Path) -> Path:
    """Download the sdist into `folder`; pip refuses another hash before it runs any of the sdist's code."""
    for module in ("torch", "setuptools"):  # pip asks the sdist's setup.py for metadata, which imports them
        if importlib.util.find_spec(module) is None:
            raise InstallError(f"{module} is not installed in {sys.prefix}: install requirements.lock first.")
    wanted = folder / "sdist.txt"
    wanted.write_text(f"{SDIST} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ("-vv", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes")
    try:
        run_pip(["download", *options, "-r", str(wanted), "-d", str(folder)], log)
    except InstallError as error:
        reason = "no network, or the package index lacks it"
        if "DO NOT MATCH THE HASHES" in str(error):
            reason = f"the package index has another file than the one with SHA-256 {SHA256}"
        elif link := re.search(r"Found link (\S+/pb1-detectron2-0\.6\.tar\.gz)", str(error)):
            # pip 26.3 finds the sdist but refuses it, because one of its extras names a URL.
            return fetch_link(link[1], folder, log)
        raise InstallError(f"pip could not fetch {SDIST}: {reason} (pip's words: {log}).") from None
    return next(folder.glob("*.tar.gz"))


def fetch_link(link: str, folder: Path, log: Path) -> Path:
    """Download the file that pip found into `folder`, without pip; its hash is checked afterwards."""
    # pip's option for the certificates of the machine holds here too.
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    try:
        with urllib.request.urlopen(link, timeout=60, context=context) as answer:
            content = answer.read()
    except OSError as error:
        raise InstallError(f"{SDIST} could not be downloaded: {error} (pip's words: {log}).") from None
    path = folder / "sdist.tar.gz"
    path.write_bytes(content)
    return path


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
    files = {f"{info}/licenses/LICENSE": (source / "LICENSE").read_bytes()}
    for origin, package in PACKAGES.items():
        for path in sorted((source / origin).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                files[f"{package}/{path.relative_to(source / origin).as_posix()}"] = path.read_bytes()
    about = ["Metadata-Version: 2.1", "Name: detectron2", "Version: 0.6", "License: Apache-2.0"]
    about += [f"Requires-Dist: {requirement}" for requirement in REQUIRES.split()]
    tags = [
        "Wheel-Version: 1.0",
        "Generator: install_detectron2",
        "Root-Is-Purelib: true",
        "Tag: py3-none-any",
    ]
    files[f"{info}/METADATA"] = "\n".join([*about, ""]).encode()
    files[f"{info}/WHEEL"] = "\n".join([*tags, ""]).encode()
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
    """Fetch (unless `sdist` is given), check, mend, pack and install; leave nothing half-installed."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        sdist = sdist or fetch_sdist(folder, log)
        check_hash(sdist)
        with tarfile.open(sdist) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.10.12 and later have it
            archive.extractall(folder / "source")
        source = next((folder / "source").iterdir())
        apply_mends(source)
        wheel = build_wheel(source, folder)
        try:
            run_pip(["install", "--no-deps", "--force-reinstall", "--no-index", str(wheel)], log)
        except InstallError:
            raise InstallError(f"pip could not install the wheel of detectron2 (see {log}).") from None
    importlib.invalidate_caches()
    reason = why_not_working()
    if reason is not None:
        run_pip(["uninstall", "--yes", "detectron2"], log)
        raise InstallError(f"detectron2 was installed, does not work and was removed again: {reason}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Install detectron2 v0.6 if there is none.")
    parser.add_argument("--sdist", type=Path, help="a copy of the source distribution; nothing is downloaded")
    parser.add_argument(
        "--log", type=Path, default=Path(sys.prefix, "install_detectron2.log"), help="pip's words"
    )
    options = parser.parse_args(arguments)
    reason = why_not_working()
    if reason is None:
        print("detectron2 is there and works: nothing to do.")
        return 0
    print(f"detectron2: {reason}; installing v0.6 as a pure-Python wheel ...")
    try:
        install(options.sdist, options.log)
    except (InstallError, MendError) as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    print("detectron2 v0.6 is installed and works.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
