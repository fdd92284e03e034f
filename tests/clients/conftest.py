"""The small pictures and objects of the model tests serve here as well."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "modeling"))
