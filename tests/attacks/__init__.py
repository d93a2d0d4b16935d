"""Attacks on everything that reads; see ``python -m tests.attacks --help``."""

import sys
from pathlib import Path

READER = Path(__file__).parents[2] / "reader" / "python"  # a distribution of its own, which need not be installed here
if str(READER) not in sys.path:
    sys.path.append(str(READER))
