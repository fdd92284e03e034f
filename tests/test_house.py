"""Rules of this house: no copied code, short files and functions, floors of the architecture, nothing local."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in sorted((ROOT / "centernet").rglob("*.py"))}
STATED: set[tuple[str, str]] = set()  # upward imports that are meant: (room, room above it)
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_COPY = 400, 60, 9


@cache
def tree(name):
    return ast.parse(SOURCES[name])


@pytest.fixture(scope="module")
def check_duplicates(load_tool):
    return load_tool("check_duplicates")


def test_no_code_is_copied(check_duplicates):
    assert check_duplicates.shared_blocks(SOURCES, LONGEST_COPY + 1) == []


def test_copies_are_found(check_duplicates):
    body = [f"total = total + {i} * step({i})" for i in range(12)]
    first = "\n".join(["import os", '"""Words."""', *body, "print(total)"])
    second = "\n".join(
        ["def f(total):", *(f"    {line}  # {i}\n\n    import re{i}" for i, line in enumerate(body)), "    return 1"]
    )
    assert check_duplicates.shared_blocks({"a.py": first, "b.py": second}, 10) == [("a.py", 3, "b.py", 2, 12)]
    assert check_duplicates.shared_blocks({"a.py": first, "b.py": second}, 13) == []
    assert check_duplicates.shared_blocks({"a.py": first, "b.py": second.replace("+ 5", "- 5")}, 10) == []
    assert check_duplicates.shared_blocks({"a.py": first + "\n" + first}, 10) == []


def test_files_are_short_or_say_why():
    long = {name for name, text in SOURCES.items() if text.count("\n") > LONGEST_FILE}
    reason = re.compile(r"^Over 400 lines because \w", re.MULTILINE)
    assert {name for name in long if not reason.search(ast.get_docstring(tree(name)) or "")} == set()


def test_functions_are_short_or_say_why():
    found = []
    for name in SOURCES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST_FUNCTION and "Long only because" not in (ast.get_docstring(node) or ""):
                    found.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
    assert found == []


def rooms():
    """Floor of each room, from the table of the architecture; 0 for side rooms."""
    floors = {}
    for row in re.findall(
        r"^\| *(\d|side) *\|([^|]*)\|", (ROOT / "docs/ARCHITECTURE.md").read_text("utf-8"), re.MULTILINE
    ):
        for room in re.findall(r"`(?:centernet/)?(\w+)(?:/|\.py)`", row[1]):
            floors[room] = 0 if row[0] == "side" else int(row[0])
    return floors


def imports(name):
    """``(line, module)`` of every import of this package in one of its files, as ``"room.module"``."""
    package = name.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            for alias in node.names:
                yield node.lineno, ".".join([part for part in base if part][1:] + [alias.name])


def room_of(name):
    return name.removesuffix(".py").split("/")[1]


def test_a_room_imports_rooms_below_it_and_side_rooms():
    floors, found = rooms(), []
    for name in SOURCES:
        room = room_of(name)
        if room == "__init__":  # of the package: all rooms together
            continue
        assert room in floors, f"the table of docs/ARCHITECTURE.md has no row for centernet/{room}"
        for line, module in imports(name):
            other = module.partition(".")[0]
            below = floors.get(other, 0) == 0 or floors[other] < floors[room]
            if other != room and not below and (room, other) not in STATED:
                found.append(f"{name}:{line}: {room} (floor {floors[room]}) imports {other} (floor {floors[other]})")
    assert found == []


def test_imports_of_this_package_are_relative():
    """It is vendored under other parents."""
    found = []
    for name in SOURCES:
        for node in ast.walk(tree(name)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found += [f"{name}:{node.lineno}" for n in names if n.partition(".")[0] == "centernet"]
    assert found == []


# registries of packages, and folders that exist on somebody's machine only
FOREIGN = re.compile(
    r"pypi\.org|pythonhosted\.org|anaconda\.org|npmjs\.(?:org|com)|crates\.io|golang\.org|rubygems\.org"
    r"|(?<![\w.}>/-])/(?:work|root|home|Users|mnt)/|(?<![\w.}>/-])/tmp/e[n]v\b"
)


def test_tracked_files_name_no_registry_and_no_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
                found += [f"{name}:{number}: {hit}" for hit in FOREIGN.findall(line)]
    assert found == []
