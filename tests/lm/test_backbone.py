"""The decoder: causal, alike with and without cache and padding, equal to an independent LLaMA, and it draws what it should."""

from __future__ import annotations

import pytest
import torch

from tokenizers_mm.lm.backbone import DecoderLM, Transformer, draw

SIZES = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 48}


@pytest.fixture
def lm() -> DecoderLM:
    torch.manual_seed(0)
    lm = DecoderLM(50, **SIZES).eval()
    for p in lm.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return lm


def test_the_future_changes_nothing(lm: DecoderLM) -> None:
    a = torch.randint(50, (2, 9))
    b = a.clone()
    b[:, 5:] = torch.randint(50, (2, 4))
    torch.testing.assert_close(lm(a).logits[:, :5], lm(b).logits[:, :5])
    assert not torch.allclose(lm(a).logits[:, 5:], lm(b).logits[:, 5:])


@pytest.mark.parametrize("cuts", [(9,), (1,) * 9, (4, 3, 2)])
def test_pieces_through_the_cache_equal_the_whole(lm: DecoderLM, cuts: tuple[int, ...]) -> None:
    ids = torch.randint(50, (3, 9))
    cache = lm.transformer.cache(3, 12)
    pieces = [lm(part, None, cache).logits for part in ids.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), lm(ids).logits, atol=1e-5, rtol=1e-4)
    assert cache.length == 9


def test_rows_of_a_ragged_batch_equal_themselves_alone(lm: DecoderLM) -> None:
    rows = [torch.randint(50, (n,)) for n in (7, 3, 5)]
    ids, valid = torch.zeros(3, 7).long(), torch.zeros(3, 7, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, 7 - len(row) :], valid[i, 7 - len(row) :] = row, True
    together = lm(ids, valid).logits
    assert together.isfinite().all()
    generated = lm.generate(ids, 6, valid=valid, temperature=0)
    for i, row in enumerate(rows):
        torch.testing.assert_close(together[i, 7 - len(row) :], lm(row[None]).logits[0], atol=1e-5, rtol=1e-4)
        assert torch.equal(generated[i], lm.generate(row[None], 6, temperature=0)[0])


def test_greedy_generation_equals_running_the_whole_each_time(lm: DecoderLM) -> None:
    ids = torch.randint(50, (2, 4))
    whole = ids
    for _ in range(5):
        whole = torch.cat([whole, lm(whole).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(lm.generate(ids, 5, temperature=0)[:, 0], whole[:, 4:])


def test_sampled_ids_are_allowed_and_reproducible(lm: DecoderLM) -> None:
    ids, allowed = torch.randint(50, (2, 4)), torch.arange(50) % 3 == 0
    one, two = (
        lm.generate(ids, 8, samples=5, allowed=allowed, top_k=4, generator=torch.Generator().manual_seed(3))
        for _ in "ab"
    )
    assert one.shape == (2, 5, 8)
    assert torch.equal(one, two)
    assert allowed[one].all()
    assert len(one[0].unique(dim=0)) > 1


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(40000, 4)
    generator = torch.Generator().manual_seed(0)
    share = draw(logits, generator=generator).bincount(minlength=4) / 40000
    torch.testing.assert_close(share, torch.tensor([0.4, 0.3, 0.2, 0.1]), atol=0.01, rtol=0)
    assert set(draw(logits, top_k=2, generator=generator).unique().tolist()) == {0, 1}
    assert set(draw(logits, top_p=0.65, generator=generator).unique().tolist()) == {0, 1}
    assert set(draw(logits, top_p=0.05, generator=generator).unique().tolist()) == {0}


def test_features_equal_those_of_transformers_llama() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    ours = Transformer(**SIZES).eval()
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    theirs = transformers.LlamaModel(config).eval()
    names = {
        "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj", "attention.value": "self_attn.v_proj", "attention.out": "self_attn.o_proj",
        "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj",
    }  # fmt: skip
    state = {"norm.weight": theirs.state_dict()["norm.weight"]}
    for i in range(2):
        state |= {f"blocks.{i}.{a}.weight": theirs.state_dict()[f"layers.{i}.{b}.weight"] for a, b in names.items()}
    ours.load_state_dict(state)
    x = torch.randn(2, 11, 32)
    with torch.no_grad():
        expected = theirs(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-4)


def test_wrong_sizes_are_refused_in_words(lm: DecoderLM) -> None:
    with pytest.raises(ValueError, match="even width"):
        Transformer(dim=30, heads=4)
    with pytest.raises(ValueError, match="cache holds 2 rows of 3 steps"):
        lm(torch.zeros(2, 4).long(), None, lm.transformer.cache(2, 3))
