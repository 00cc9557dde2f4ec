"""The decoder: causal, alike with and without cache and padding, equal to an independent LLaMA, and it draws what it should."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tokenizers_mm.evaluation.bench_lm import generation, llama_weights, make_twins, training
from tokenizers_mm.lm.backbone import DecoderLM, Transformer, draw
from tokenizers_mm.lm.output import token_nll

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


def test_logits_and_ids_equal_those_of_transformers_llama() -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(1)
    twins = make_twins(32, 2, 4, 48, 50)
    ours, theirs = twins.ours, twins.theirs
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.2)
    theirs.load_state_dict(llama_weights(ours))
    ids = torch.randint(50, (2, 11))
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True)
        found = ours(ids, output_hidden_states=True)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    for one, other in zip(found.hidden_states[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.transformer.norm(found.hidden_states[-1]), expected.hidden_states[-1])
    raced = generation(twins, batch=2, prompt=3, steps=6, rounds=1)
    assert raced["same_ids"] == {"transformers": 1.0}
    assert training(twins, batch=2, length=8, rounds=1)["loss_difference"]["transformers"] < 1e-5


@pytest.mark.parametrize("cached", [False, True])
def test_traces_are_what_the_layers_see(lm: DecoderLM, cached: bool) -> None:
    """Attention recomputed from a trace's hidden states gives the next hidden state's share of attention."""
    ids, valid = torch.randint(50, (2, 6)), torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
    cache = lm.transformer.cache(2, 6) if cached else None
    out = lm(ids, valid, cache, output_hidden_states=True, output_attentions=True)
    assert out.past is cache
    assert [h.shape for h in out.hidden_states] == [(2, 6, 32)] * 3
    assert [a.shape for a in out.attentions] == [(2, 4, 6, 6)] * 2
    torch.testing.assert_close(out.hidden_states[0], lm.embedding(ids))
    torch.testing.assert_close(lm.head(lm.transformer.norm(out.hidden_states[-1])), out.logits)
    block, x = lm.transformer.blocks[0], out.hidden_states[0]
    v = (F.linear(block.attention_norm(x), block.attention.qkv))[..., -16:].unflatten(-1, (2, 8)).transpose(1, 2)
    y = (out.attentions[0] @ v.repeat_interleave(2, dim=1)).transpose(1, 2).flatten(2)
    x = x + block.attention.out(y)
    torch.testing.assert_close(x + block.mlp(block.mlp_norm(x)), out.hidden_states[1], atol=1e-5, rtol=1e-4)
    for shares in out.attentions:
        torch.testing.assert_close(shares.sum(dim=-1), torch.ones(2, 4, 6))
        assert (shares[1, :, 2:, :2] == 0).all()
    assert lm(ids).hidden_states is None


def test_embeddings_may_be_given_and_layers_changed(lm: DecoderLM) -> None:
    ids = torch.randint(50, (2, 6))
    torch.testing.assert_close(lm(inputs_embeds=lm.embed(ids)).logits, lm(ids).logits)
    plain = lm(ids, output_hidden_states=True)
    handle = lm.transformer.blocks[0].register_forward_hook(lambda block, given, x: x + 1)
    steered = lm(ids, output_hidden_states=True)
    handle.remove()
    torch.testing.assert_close(steered.hidden_states[1], plain.hidden_states[1] + 1)
    assert not torch.allclose(steered.logits, plain.logits)
    with pytest.raises(ValueError, match="either ids or inputs_embeds"):
        lm()


def test_files_name_the_layers_that_are_one_product(lm: DecoderLM) -> None:
    state = lm.state_dict()
    attention = {key for key in state if key.startswith("transformer.blocks.0.attention.")}
    assert attention == {f"transformer.blocks.0.attention.{name}.weight" for name in ("query", "key", "value", "out")}
    assert state["transformer.blocks.0.attention.key.weight"].shape == (16, 32)
    assert state["transformer.blocks.1.mlp.up.weight"].shape == (48, 32)
    other = DecoderLM(50, **SIZES).eval()
    other.load_state_dict({key: tensor.clone() for key, tensor in state.items()})
    ids = torch.randint(50, (2, 5))
    assert torch.equal(other(ids).logits, lm(ids).logits)
    del state["transformer.blocks.0.attention.key.weight"]
    with pytest.raises(RuntimeError, match=r"attention\.qkv"):
        other.load_state_dict(state)


def test_documents_of_a_row_are_as_if_alone(lm: DecoderLM) -> None:
    x = torch.randn(1, 9, 32)
    positions, documents = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2]]), torch.tensor([[0] * 4 + [1] * 2 + [2] * 3])
    together = lm.transformer.packed(x, positions, documents)
    for begin, end in ((0, 4), (4, 6), (6, 9)):
        torch.testing.assert_close(together[:, begin:end], lm.transformer(x[:, begin:end]), atol=1e-5, rtol=1e-4)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        lm = DecoderLM(50, **SIZES, dropout=0.1, checkpointing=checkpointing)
        torch.manual_seed(2)
        ids = torch.randint(50, (2, 7))
        token_nll(lm(ids).logits, ids).mean().backward()
        gradients.append([p.grad for p in lm.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_generates_and_is_near(lm: DecoderLM, autocast: bool) -> None:
    ids = torch.randint(50, (2, 6))
    exact = lm(ids).logits
    half = lm if autocast else copy.deepcopy(lm).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        cache = half.transformer.cache(2, 8)
        parts = torch.cat([half(ids[:, i : i + 1], None, cache).logits for i in range(6)], dim=1)
        whole = half(ids).logits
    assert (whole - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert (parts - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_operations_are_those_that_torch_counts() -> None:
    lm = DecoderLM(50, **SIZES)
    with FlopCounterMode(display=False) as counter:
        x = torch.randn(1, 10, 32)
        q = torch.randn(1, 4, 10, 8)
        lm.head(lm.transformer.norm(x))
        for block in lm.transformer.blocks:
            block.mlp(x), block.attention.out(x), x @ block.attention.qkv.T, q @ q.transpose(-1, -2) @ q
    assert counter.get_total_flops() == 10 * lm.flops_per_token(10)
    assert lm.flops_per_token(10, training=True) == 3 * lm.flops_per_token(10)
    windowed = DecoderLM(50, **SIZES, window=4)
    assert windowed.flops_per_token(10) == lm.flops_per_token(4)


def test_the_likelihood_of_tokens_leaves_out_what_does_not_count() -> None:
    logits, ids = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    expected = -logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(token_nll(logits, ids), expected)
    mask = torch.tensor([[True] * 5, [True, True, False, False, True]])
    padded = ids.masked_fill(~mask, -100)
    torch.testing.assert_close(token_nll(logits, padded, mask), expected * mask[:, 1:])
    weights = torch.rand(2, 5)
    torch.testing.assert_close(token_nll(logits, ids, weights), expected * weights[:, 1:])


def test_wrong_sizes_are_refused_in_words(lm: DecoderLM) -> None:
    with pytest.raises(ValueError, match="even width"):
        Transformer(dim=30, heads=4)
    with pytest.raises(ValueError, match="cache holds 2 rows of 3 steps"):
        lm(torch.zeros(2, 4).long(), None, lm.transformer.cache(2, 3))
