"""Compiled steps are the usual ones: alone and in batches, with and without padding, whatever is in the cache."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch
from torch._inductor import cpp_builder

from tokenizers_mm.lm.transformer import Transformer

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="compiling for the CPU needs a C++ compiler"
)


def _network() -> Transformer:
    torch.manual_seed(0)
    return Transformer(32, layers=1, heads=4, kv_heads=2, hidden=48, qk_norm=True).eval()


@pytest.mark.parametrize(
    ("batch", "padded"),
    [(1, False), pytest.param(3, False, marks=pytest.mark.slow), pytest.param(3, True, marks=pytest.mark.slow)],
)
@torch.no_grad()
def test_compiled_steps_are_the_usual_ones(batch: int, padded: bool) -> None:
    network, twin = _network(), _network().compile_steps()
    prompt, new = torch.randn(batch, 5, 32), torch.randn(batch, 4, 32)
    valid = torch.arange(5)[None] >= torch.arange(batch)[:, None] if padded else None
    ours, theirs = network.cache(batch, 9), twin.cache(batch, 9)
    assert torch.allclose(network(prompt, valid, ours), twin(prompt, valid, theirs), atol=1e-5)
    for step in (0, 1, 2, 3, 2, 3):
        if step == 2:  # the second time in another's place
            for cache in (ours, theirs):
                cache.rollback(cache.length - 7)
        x = new[:, step : step + 1]
        assert torch.allclose(network(x, None, ours), twin(x, None, theirs), atol=1e-5)
    assert torch.allclose(ours.keys[0], theirs.keys[0], atol=1e-5)


def test_copies_and_pickles_do_without() -> None:
    network = _network().compile_steps()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        x = torch.randn(1, 3, 32)
        with torch.no_grad():
            assert torch.equal(other(x), network(x))


def test_without_a_compiler_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/none/g++",))
    cpp_builder.cpp_compiler_search.cache_clear()
    with pytest.raises(FileNotFoundError, match="needs a C\\+\\+ compiler"):
        _network().compile_steps()
