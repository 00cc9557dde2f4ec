"""FlexAttention sees what the mask in memory lets see, with whatever a transformer may be."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask

from tokenizers_mm.lm import flex
from tokenizers_mm.lm.transformer import Transformer

OPTIONS = {
    "plain": {},
    "window": {"window": 3},
    "bidirectional": {"causal": False},
    "shared": {"kv_heads": 2, "qk_norm": True},
}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("grouped", [False, True])
@torch.no_grad()
def test_packed_documents_are_those_of_the_mask(name: str, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    options = {"dim": 64, "layers": 2, "heads": 4, **OPTIONS[name]}
    ours, plain = Transformer(**options, attention="flex").eval(), Transformer(**options).eval()
    plain.load_state_dict(ours.state_dict())
    seen: list[BlockMask] = []
    monkeypatch.setattr(flex, "usable", lambda x: True)
    monkeypatch.setattr(flex, "attend", lambda *args, attend=flex.attend: seen.append(args[-1]) or attend(*args))
    x, positions = torch.randn(2, 21, 64), torch.arange(21).expand(2, -1)
    documents = torch.randint(3, (2, 21)).sort(dim=1).values
    groups = (torch.arange(21) // 4).expand(2, -1) if grouped and name == "plain" else None
    found, wanted = (each.packed(x, positions, documents, groups=groups) for each in (ours, plain))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert len(seen) == 2


def test_on_a_cpu_it_is_the_mask_in_memory() -> None:
    network = Transformer(32, layers=1, heads=2, attention="flex")
    x = torch.randn(1, 5, 32, requires_grad=True)
    network.packed(x, torch.arange(5)[None], torch.zeros(1, 5)).sum().backward()
    assert x.grad is not None


def test_other_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="attention must be one of"):
        Transformer(32, layers=1, heads=2, attention="none")  # type: ignore[arg-type]
