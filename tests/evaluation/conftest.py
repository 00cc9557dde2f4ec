"""Makes the toy codecs importable by name, as child processes need them, and clips to run them on."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_codecs import write_clips


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "clips")
