"""Retrofitting: sampled tokenizers keep texts, the frozen model reads embeddings as it reads ids, scores leak nothing."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm import cli, registry
from tokenizers_mm.text import BatchMerges, Hypernetwork, Retrofit, SampledUnigram, SubwordBase, TransformersBase
from tokenizers_mm.text.embedders import MeanOfParts, parts_of
from tokenizers_mm.text.merge_eval import RandomEmbeddings, mean_of, merge_eval
from tokenizers_mm.text.retrofit import Objective, Read, divergence, layout, texts_of
from tokenizers_mm.text.rows import END, signal_of
from tokenizers_mm.text.sampled import Sampled, Sampler, merge_prefixes
from tokenizers_mm.text.surface import HypernetworkEmbedder, SurfaceForms, load_hypernetwork

LINES = [
    "The government said on Friday that the government's plan, the plan of the government, would not change.",
    "Der Minister sagte am Freitag, dass die Regierung nichts ändern werde; 日本語 🦜",
    "said",
]
SIZES = {"dim": 160, "vocabulary_size": 4096, "hidden": 16, "intermediate": 16, "layers": 1, "heads": 2, "positions": 7}


@pytest.fixture(scope="module")
def base() -> SubwordBase:
    return SubwordBase("bpe-small")


def joined(sampled: Sampled, base: SubwordBase) -> list[str]:
    table = [*base.pieces.tokens, *sampled.tokens]
    return [b"".join([table[i] for i in row]).decode() for row in sampled.rows]


@pytest.mark.parametrize(
    "sampler", [BatchMerges(1, 50), BatchMerges(1, 50, (1.0, 1.0)), SampledUnigram(500)], ids=["half", "all", "unigram"]
)
def test_sampled_tokenizers_keep_texts(sampler: Sampler, base: SubwordBase) -> None:
    size = len(base.pieces.tokens)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.text(st.sampled_from("ab cé日🦜-.\n\t１"), max_size=24), min_size=1, max_size=4))
    def check(texts: list[str]) -> None:
        torch.manual_seed(0)
        sampled = sampler(texts, base)
        assert joined(sampled, base) == texts
        for row, prefix in zip(sampled.rows, sampled.prefix, strict=True):
            assert all(i < size for i in row[prefix:])
            assert not sampled.closed or all(i >= size for i in row)

    check()


def test_merged_prefixes_end_where_pieces_begin(base: SubwordBase) -> None:
    sampled = merge_prefixes(base, LINES, [0.5, 0.5, 1.0], None)
    size = len(base.pieces.tokens)
    table = [*base.pieces.tokens, *sampled.tokens]
    for line, row, prefix in zip(LINES, sampled.rows, sampled.prefix, strict=True):
        before = b"".join([table[i] for i in row[:prefix]]).decode()
        pieces = base.pieces.split(line)
        assert before in {"".join(pieces[:n]) for n in range(len(pieces) + 1)}
        assert row[prefix:] == base.codec.vocabulary.encode(line[len(before) :]).tolist()
        assert prefix == len(base.pieces.split(before))  # everything merged: a token for each piece
    assert len(sampled.tokens) > 3
    assert max(i for row in sampled.rows for i in row) >= size


def test_a_unigram_vocabulary_is_what_it_was_drawn_from(base: SubwordBase) -> None:
    sampler = SampledUnigram(400, batches=2, noise=0.0)
    first = sampler(["government government government"], base)
    assert len(first.tokens) == len(set(first.tokens)) <= 400
    assert {bytes([b]) for b in range(256)} | {b" " * 15} <= set(first.tokens)
    assert (
        b"government" in first.tokens
    )  # begins at the first character of a piece; " government" at its fourth has "ernment"
    assert b" government" in first.tokens
    assert b"overnment" not in first.tokens
    sampler.eval()
    assert b"Regierung" in sampler(["Regierung"], base).tokens
    assert len(sampler.recent) == 1  # what is validated on is forgotten
    sampler.train()
    sampler(["andere"], base)
    assert b"government" not in sampler(["dritte"], base).tokens
    noisy = SampledUnigram(400)
    torch.manual_seed(1)
    one = noisy.vocabulary([sampler.recent[0]])
    torch.manual_seed(1)
    assert noisy.vocabulary([sampler.recent[0]]) == one


def test_embeddings_are_read_as_ids_are(base: SubwordBase) -> None:
    signal = signal_of(LINES, end=False)
    wanted = base.model.score(signal).nats.double().sum(dim=1)
    for share in (0.4, 1.0):
        sampled = merge_prefixes(base, LINES, [share] * 3, 0)
        read = Read.of(base, sampled, base.inputs[:0])
        logits = (read.features @ base.outputs.T).log_softmax(dim=-1)
        nats = -logits.gather(-1, read.told[..., None])[..., 0].double()
        found = (nats * (read.prefix | read.after)).sum(dim=1)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
        task = Retrofit(base, Hypernetwork(**SIZES, tied=True), BatchMerges())
        cost = task.cost(sampled, base.inputs[:0], base.outputs[:0])
        assert float(cost.double().sum()) == pytest.approx(float(wanted.sum()), rel=1e-5)
    ids, _, _ = layout(merge_prefixes(base, LINES, [0.5] * 3, 0), 4096, 4098, base.start)
    torch.testing.assert_close(
        base.features(base.inputs[ids]), base.model.backbone(base.model.embedding(ids)), atol=1e-5, rtol=0
    )


def test_what_follows_a_prefix_is_scored_without_its_vocabulary(base: SubwordBase) -> None:
    """A closed vocabulary is told among itself; what follows a merged prefix among base tokens, whatever was added."""
    sampled = merge_prefixes(base, LINES, [0.5] * 3, 20)
    inputs = MeanOfParts(parts_of(base.pieces), base.inputs)(sampled.tokens)[0]
    task = Retrofit(base, Hypernetwork(**SIZES, tied=True), BatchMerges())
    count = sum(sampled.prefix)
    one, other = (task.cost(sampled, inputs, outputs) for outputs in (inputs, 50 * torch.randn_like(inputs)))
    assert not torch.allclose(one[:count], other[:count])
    torch.testing.assert_close(one[count:], other[count:])
    unigram = SampledUnigram(300)(LINES, base)
    rows = torch.zeros(len(unigram.tokens), 160)
    torch.testing.assert_close(
        task.cost(unigram, rows, rows), torch.full((sum(unigram.prefix),), math.log(len(unigram.tokens)))
    )


def test_what_the_model_says_after_parts_teaches(base: SubwordBase) -> None:
    plain = merge_prefixes(base, LINES, [1.0] * 3, 0)
    taught = Read.of(base, plain, base.inputs[:0])
    same = divergence(base, plain, taught, plain, taught)
    assert len(same) == sum(plain.prefix) - len(LINES)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-5, rtol=0)
    sampled = merge_prefixes(base, LINES[1:2], [0.7], 3)
    inputs = RandomEmbeddings(base.inputs)(sampled.tokens)[0]
    one = merge_prefixes(base, LINES[1:2], [1.0], 0)
    read = Read.of(base, sampled, inputs)
    found = divergence(base, one, Read.of(base, one, base.inputs[:0]), sampled, read)
    table, whole = [*base.pieces.tokens, *sampled.tokens], torch.cat([base.inputs, inputs])
    parts, tokens = plain.rows[1], sampled.rows[0]
    ids = [[base.start, *parts], [base.start, *(i if i < 4096 else i + 2 for i in tokens)]]
    true, said = ((base.features(whole[torch.tensor([row])])[0] @ base.outputs.T).log_softmax(dim=-1) for row in ids)
    wanted = []
    for place in range(1, len(tokens)):  # plainly: where the bytes read are the same
        read = b"".join(table[i] for i in tokens[:place])
        other = next(n for n in range(99) if b"".join(table[i] for i in parts[:n]) == read)
        wanted.append((true[other].exp() * (true[other] - said[place])).sum())
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=1e-4)
    assert (found > 1e-3).any()
    with pytest.raises(ValueError, match="objective"):
        Retrofit(base, Hypernetwork(**SIZES, tied=True), BatchMerges(), "distilation")  # type: ignore[arg-type]


def test_texts_of_rows() -> None:
    rows = [[*b"ab", END, -1, *"é".encode(), -1, *b"x", 0xE6, -1], [-1, -1]]
    assert list(texts_of(rows)) == ["ab", "é", "x"]


@pytest.mark.parametrize("objective", ["likelihood", "distillation"])
@pytest.mark.parametrize("sampler", [BatchMerges(5, 5), SampledUnigram(400)], ids=["merges", "unigram"])
def test_losses_reach_the_hypernetwork_alone(sampler: Sampler, objective: Objective, base: SubwordBase) -> None:
    task = Retrofit(base, Hypernetwork(**SIZES, tied=True), sampler, objective, identity_tokens=8, lexical_tokens=8)
    task.start()
    torch.manual_seed(0)
    loss, terms = task.loss(signal_of(LINES))
    assert loss.item() == pytest.approx(float(terms["lm"] + 0.5 * terms["lexical"]), rel=1e-5)
    (loss + task.identity_loss()).backward()
    touched = {name for name, p in task.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched
    assert all(name.startswith("hypernetwork.") for name in touched)
    assert not task.train().base.model.training
    with pytest.raises(ValueError, match="vocabulary_size"):
        Retrofit(base, Hypernetwork(**{**SIZES, "vocabulary_size": 4098}, tied=True), sampler)
    with pytest.raises(ValueError, match="text"):
        task.loss(torch.full((2, 8), -1))


def test_models_of_transformers(tmp_path, base: SubwordBase) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    (tmp_path / "tokenizer.json").write_bytes(bytes(base.codec.file.tolist()))
    config = LlamaConfig(
        vocab_size=4100,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=4099,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    other = TransformersBase(str(tmp_path))
    assert not other.tied
    ids = torch.randint(4096, (2, 7))
    with torch.no_grad():
        wanted = other.model(ids).logits
        torch.testing.assert_close(other.features(other.inputs[ids]) @ other.outputs.T, wanted, atol=1e-5, rtol=0)
    network = Hypernetwork(**{**SIZES, "dim": 16})
    task = Retrofit(other, network, SampledUnigram(400), identity_tokens=8)
    task.start()
    (task.loss(signal_of(LINES))[0] + task.identity_loss()).backward()
    assert network.output_projection_out[1].weight.grad.abs().sum() > 0


def test_evaluation_on_texts(base: SubwordBase, tmp_path) -> None:
    documents = [line.encode() for line in LINES]
    mean, random = MeanOfParts(parts_of(base.pieces), base.inputs), RandomEmbeddings(base.inputs)
    first, few, every = merge_eval(base, {"mean": mean, "random": random}, documents, (2, None), batch_size=2)
    assert first.prefix_tokens > few.prefix_tokens > every.prefix_tokens
    assert list(first.bits_per_byte) == ["unmerged"]
    sampled = merge_prefixes(base, LINES[:1], [0.5], 0)
    (alone, _) = merge_eval(base, {"mean": mean}, documents[:1], (3,))
    table = base.pieces.tokens
    after = b"".join([table[i] for i in sampled.rows[0][sampled.prefix[0] :]])
    cost = float(base.model.score(signal_of(LINES[:1], end=False)).nats[0, -len(after) :].sum())
    assert alone.bits_per_byte["unmerged"] == pytest.approx(cost / len(after) / math.log(2), rel=1e-5)
    assert mean_of([few, every]).bits_per_byte["mean"] == pytest.approx(
        (few.bits_per_byte["mean"] + every.bits_per_byte["mean"]) / 2
    )
    assert torch.equal(random([b"a", b"b"])[0][1], random([b"b"])[0][0])
    with pytest.raises(ValueError, match="embedders"):
        merge_eval(base, {}, documents)
    with pytest.raises(ValueError, match="share"):
        merge_eval(base, {"mean": mean}, documents, share=1.0)


def test_the_shipped_network_is_nearer_to_the_model_than_the_mean_and_chance_far_off(base: SubwordBase) -> None:
    network, parts = load_hypernetwork("hypernetwork-bpe-small"), parts_of(base.pieces)
    ways = {
        "network": HypernetworkEmbedder(network, SurfaceForms(parts), base.inputs),
        "mean": MeanOfParts(parts, base.inputs),
        "random": RandomEmbeddings(base.inputs),
    }
    folder = registry.data_path("eval") / "samples" / "text"
    for language in ("en", "de", "fr", "es"):
        texts = (folder / f"{language}.txt").read_text(encoding="utf-8").splitlines()
        plain, sampled = (merge_prefixes(base, texts, [1.0] * len(texts), merges) for merges in (0, 60))
        taught, found = Read.of(base, plain, base.inputs[:0]), {}
        for name, embed in ways.items():
            read = Read.of(base, sampled, embed(sampled.tokens)[0])
            found[name] = float(divergence(base, plain, taught, sampled, read).mean())
        assert found["network"] < 0.7 * found["mean"] < found["random"], (language, found)
    assert sum(p.numel() for p in network.parameters()) < 1e6


def test_the_command_reports_what_it_shows(tmp_path, capsys: pytest.CaptureFixture) -> None:
    report, plot = tmp_path / "report.json", tmp_path / "plot.png"
    folder = registry.data_path("eval") / "samples" / "text"
    options = [
        "text", "merge-eval", "hypernetwork-bpe-small", "--data", str(folder), "--names", "en,de", "--merges", "5,all",
        "-o", str(report), "--plot", str(plot),
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        cli.main(options)
    assert stop.value.code == 0
    found = json.loads(report.read_text())
    rows = found["models"]["languages"]["de"]
    assert [row["merges"] for row in rows] == [0, 5, None]
    assert f"{rows[2]['bits_per_byte']['hypernetwork']:.4f}" in capsys.readouterr().out
    assert plot.stat().st_size > 1000
    with pytest.raises(SystemExit) as stop:
        cli.main(["text", "merge-eval", "bpe-small", "--data", str(folder)])
    assert stop.value.code == 1
