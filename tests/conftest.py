"""What every test shares: a fixed seed, no network, a registry that tests cannot leave marks on."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("COLUMNS", "160")

import pytest
import torch

from tokenizers_mm import registry


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cards and classes that a test registers are forgotten after it."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    yield
    registry._installed.cache_clear()
