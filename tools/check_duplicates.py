#!/usr/bin/env python3
"""Find copied code: runs of equal lines that two files share.

    python tools/check_duplicates.py centernet               # exit status 1 and the places if there are any
    python tools/check_duplicates.py centernet --lines 8

Blank lines, comments, docstrings, imports and indentation do not count.
"""

import argparse
import ast
import io
import sys
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Block(NamedTuple):
    """Equal code of two files: ``length`` lines from these line numbers (from 1) on."""

    first: str
    first_line: int
    second: str
    second_line: int
    length: int


def code_lines(text: str) -> list[tuple[int, str]]:
    """``(line number, code)`` of every line that counts, without indentation and comment.

    Raises:
        SyntaxError: ``text`` is not Python.
    """
    ignored: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or is_text:
            ignored.update(range(node.lineno, node.end_lineno + 1))
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    stripped = ((number, line.strip()) for number, line in enumerate(lines, start=1) if number not in ignored)
    return [(number, line) for number, line in stripped if line]


def shared_blocks(files: dict[str, str], minimum: int) -> list[Block]:
    """Maximal runs of at least ``minimum`` equal lines between two different files.

    Args:
        files: name to text.
        minimum: lines of code.
    """
    code = {name: code_lines(text) for name, text in files.items()}
    starts: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, lines in code.items():
        for i in range(len(lines) - minimum + 1):
            starts[tuple(text for _, text in lines[i : i + minimum])].append((name, i))
    blocks, seen = [], set()
    for places in starts.values():
        for at, (first, i) in enumerate(places):
            for second, j in places[at + 1 :]:
                if first == second or (first, i, second, j) in seen:
                    continue
                a, b = code[first], code[second]
                length = 0
                while i + length < len(a) and j + length < len(b) and a[i + length][1] == b[j + length][1]:
                    seen.add((first, i + length, second, j + length))
                    length += 1
                blocks.append(Block(first, a[i][0], second, b[j][0], length))
    return blocks


def main() -> int:
    """Print the blocks; returns the exit status."""
    parser = argparse.ArgumentParser(description="Find runs of equal code lines that two files share.")
    parser.add_argument("folder", type=Path, help="searched with all folders in it")
    parser.add_argument("--lines", type=int, default=10, help="shortest run that counts (default 10)")
    args = parser.parse_args()
    files = {str(path): path.read_text("utf-8") for path in sorted(args.folder.rglob("*.py"))}
    if not files:
        parser.error(f"there is no Python file in {args.folder}")
    blocks = shared_blocks(files, args.lines)
    for block in blocks:
        print(f"{block.length} equal lines: {block.first}:{block.first_line} and {block.second}:{block.second_line}")
    return bool(blocks)


if __name__ == "__main__":
    sys.exit(main())
