#!/usr/bin/env python3
"""The table of everything in tracking3d that is compared with reference numbers.

    python tests/tracking3d/golden_table.py            # two minutes
    python tests/tracking3d/golden_table.py --slow     # with the tests marked slow

It runs the tests themselves and notes what they compare: differences are relative to the largest number where the
tolerance is (networks, codecs), else absolute. Exit status 1 if a test fails or a reference file is read by none.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
GOLDEN3D = Path(os.environ.get("CENTERNET_GOLDEN3D", TESTS.parents[1] / "shared" / "golden3d"))
FILES = (
    "modeling/test_network_golden.py", "modeling/test_anchors.py", "modeling/test_detector3d.py",
    "ops/test_codecs.py", "ops/test_geometry.py", "ops/test_box3d_losses.py", "ops/test_quasi_dense.py",
    "motion/test_motion_networks.py", "motion/test_motion_losses.py", "motion/test_without_weights.py",
    "tracker/test_tracker_golden.py", "evaluation/test_results_golden.py",
)  # fmt: skip


def array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)


class Arrays(dict):
    """A reference file that knows which of its arrays was asked for last."""

    def __init__(self, arrays: dict[str, Any], name: str, notes: "Notes") -> None:
        super().__init__(arrays)
        self.name, self.notes = name, notes

    def __getitem__(self, key: str) -> Any:
        self.notes.read(self.name, key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.notes.read(self.name, key)
        return super().get(key, default)


class Notes:
    """A pytest plugin: largest difference by file, test and tolerance."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], list[Any]] = {}
        self.failed: set[str] = set()
        self.file, self.key, self.test = "", "", ""

    def read(self, file: str, key: str) -> None:
        self.file, self.key = file, key
        self._row()

    def _row(self) -> list[Any]:
        return self.rows.setdefault((self.file, self.test), [set(), 0.0, 0.0, 0])

    def compared(self, ours: Any, theirs: Any, tolerance: float, relative: bool) -> None:
        if not self.file:
            return
        ours, theirs = array(ours), array(theirs)
        if ours.shape != theirs.shape or not ours.size or ours.dtype.kind not in "bifu":
            return
        apart = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())
        self.note(apart / max(float(np.abs(theirs).max()), 1e-12) if relative else apart, tolerance)

    def note(self, apart: float, tolerance: float) -> None:
        row = self._row()
        row[0].add(self.key)
        row[1], row[2], row[3] = max(row[1], tolerance), max(row[2], apart), row[3] + 1

    def noted(self, function: Callable[..., Any], default: float, relative: bool) -> Callable[..., Any]:
        @wraps(function)
        def compare(ours: Any, theirs: Any, *args: Any, **kwargs: Any) -> Any:
            named = max(kwargs.get("atol", 0), kwargs.get("rtol", 0))
            tolerance = next((value for value in args if isinstance(value, float)), named)
            self.compared(ours, theirs, tolerance or default, relative)
            return function(ours, theirs, *args, **kwargs)

        return compare

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        made = yield
        if fixturedef.argname in ("golden3d", "tracking3d_data"):
            made = self._loader(made)
        elif fixturedef.argname in ("golden3d_json", "tracking3d_json"):
            made = self._json(made)
        elif fixturedef.argname == "assert_close":
            made = self.noted(made, 0.0, relative=True)
        fixturedef.cached_result = (made, *fixturedef.cached_result[1:])
        return made

    def _loader(self, load: Callable[[str], dict[str, Any]]) -> Callable[[str], Arrays]:
        return lambda name: Arrays(load(name), name, self)

    def _json(self, load: Callable[[str], Any]) -> Callable[[str], Any]:
        def read(name: str) -> Any:
            self.read(name, "records")
            return load(name)

        return read

    def pytest_collection_finish(self, session: Any) -> None:
        network = sys.modules.get("test_network_golden")
        if network is not None:
            network.close = self.noted(network.close, 1e-4, relative=True)
        tracker = sys.modules.get("test_tracker_golden")
        if tracker is not None:
            tracker.compared = self._tracked(tracker.compared)

    def _tracked(self, compared: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            outcome = compared(*args, **kwargs)
            self.key = f"{outcome.arrays} arrays"
            self.note(max(outcome.worst.values(), default=0.0), 1e-3)
            return outcome

        return run

    def pytest_runtest_setup(self, item: Any) -> None:
        self.file, self.key, self.test = "", "", item.nodeid.rpartition("/")[2]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.add(report.nodeid.rpartition("/")[2])


def main() -> int:
    """Run, print."""
    notes = Notes()
    np.testing.assert_allclose = notes.noted(np.testing.assert_allclose, 0.0, relative=False)
    np.array_equal = notes.noted(np.array_equal, 0.0, relative=False)
    marks = [] if "--slow" in sys.argv[1:] else ["-m", "not slow"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        options = ["-q", "-p", "no:cacheprovider", *marks, *(str(HERE / name) for name in FILES)]
        status = pytest.main(options, plugins=[notes])
    print("| file | test | arrays | tolerance | largest difference | verdict |\n| --- | --- | --- | --- | --- | --- |")
    for (file, test), (keys, tolerance, apart, count) in sorted(notes.rows.items()):
        shown = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        told = ("exact" if not tolerance else f"{tolerance:.0e}", f"{apart:.1e}") if count else ("by the test", "")
        verdict = "FAILED" if test in notes.failed else "holds"
        print(f"| {file} | {test} | {shown or 'see the test'} | {told[0]} | {told[1]} | {verdict} |")
    unread = {path.name for path in GOLDEN3D.glob("*.*") if path.suffix in (".npz", ".json")}
    unread -= {file for file, _ in notes.rows}
    print(f"\n{said.getvalue().splitlines()[-1] if said.getvalue() else ''}")
    print(f"reference files that no test reads: {', '.join(sorted(unread)) or 'none'}")
    return int(status) or int(bool(unread))


if __name__ == "__main__":
    sys.exit(main())
