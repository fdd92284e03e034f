#!/usr/bin/env python3
"""Convert a file of weights of any published kind (.pth, .pkl, ...) into safetensors, which cannot hold code.

    python tools/convert_weights.py R-50.pkl R-50.safetensors --model R-50 --source https://example.org/R-50.pkl

Tensors keep their names. What is known of their origin is written beside them: model, source, the SHA-256 of the file,
its format, the iteration. Converting a converted file keeps that. A solver's state is left out.
"""

import argparse
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet import __version__
from centernet.engine.atomic_file import write_atomically
from centernet.errors import UserError, command_line
from centernet.weights import WeightsFile, fetch, read_weights


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("input", help="file or address of weights")
    parser.add_argument("output", type=Path, help="file to write, ending in .safetensors")
    parser.add_argument("--model", help="name of the model, such as CenterNet2_R50_1x")
    parser.add_argument("--source", help="where the file is published")
    return parser.parse_args(arguments)


def sha256(path: str) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def origin(file: WeightsFile, path: str, model: str | None, source: str | None) -> dict[str, str]:
    """The metadata to write; what a converted file says of its origin stays, unless an option says otherwise."""
    metadata = dict(file.metadata)
    if "sha256" not in metadata:
        metadata |= {"sha256": sha256(path), "format": file.format}
        if "iteration" in file.training:
            metadata["iteration"] = str(file.training["iteration"])
    metadata |= {key: value for key, value in (("model", model), ("source", source)) if value}
    return metadata | {"converter": f"centernet {__version__}"}


def convert(path: str, output: Path, *, model: str | None = None, source: str | None = None) -> dict[str, str]:
    """Write ``output``; returns its metadata.

    Raises:
        UserError: the input cannot be read, the output cannot be written or has another ending.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise UserError("converting needs the package safetensors; install it") from None
    if output.suffix != ".safetensors":
        raise UserError(f"{output} must end in .safetensors")
    local = fetch(path)
    file = read_weights(local)
    metadata = origin(file, local, model, source if source or "://" not in path else path)
    # tensors of a file may share memory, which safetensors does not store
    data = save({name: value.contiguous().clone() for name, value in file.tensors.items()}, metadata)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, lambda stream: stream.write(data))
    count = sum(value.numel() for value in file.tensors.values())
    print(f"{output}: {len(file.tensors)} tensors, {count:,} values, {len(data) / 1e6:.1f} MB")
    for key, value in sorted(metadata.items()):
        print(f"  {key}: {value}")
    if left_out := sorted(set(file.training) - {"iteration"}):
        print(f"  left out: {', '.join(left_out)}")
    return metadata


@command_line
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    convert(options.input, options.output, model=options.model, source=options.source)


if __name__ == "__main__":
    sys.exit(main())
