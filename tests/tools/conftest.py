"""The command lines of ``tools/`` import each other as if started from there."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
