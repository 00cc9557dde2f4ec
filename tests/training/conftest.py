"""Makes the toy codec importable by name, as recipes and child processes need it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
