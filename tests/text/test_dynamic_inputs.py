"""Merged batches as input of models: without merges the model is as it was; padding, pairs, words, bad input."""

from __future__ import annotations

import pytest
import torch

from tests.text import tiny_models
from tokenizers_mm.text.base_tokens import fewest_parts
from tokenizers_mm.text.dynamic_inputs import DynamicInputs
from tokenizers_mm.text.generate import load_model
from tokenizers_mm.text.prefill import Prefill

pytest.importorskip("transformers")
LINES = ["The government said", "on Friday that the government's plan, the plan, would not change.", "said"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.tokenizer()


@pytest.fixture(scope="module")
def prompts():
    return tiny_models.tokenizer(template=False)


@pytest.fixture(scope="module")
def shipped():
    return load_model("bpe-small")


def test_an_encoder_without_merges_is_as_it_was(tokenizer) -> None:
    model = tiny_models.encoder(len(tokenizer))
    batch = DynamicInputs.of(model, tokenizer)(LINES, LINES[::-1])
    plain = tokenizer(LINES, LINES[::-1], padding=True, return_tensors="pt")
    assert torch.equal(batch.mask, plain["attention_mask"])
    expected = model(input_ids=plain["input_ids"], attention_mask=plain["attention_mask"]).logits
    assert torch.allclose(model(**batch.model_inputs).logits, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_decoder_without_merges_is_as_it_was(prompts, kind: str) -> None:
    model = tiny_models.decoder(len(prompts), kind)
    inputs = DynamicInputs.of(model, prompts)
    batch = inputs(LINES)
    assert bool((batch.mask[:, -1] == 1).all()), "decoders are padded on the left"
    logits = Prefill(model, inputs).decoder.logits(batch.embeddings, batch.mask, 1)[:, 0]
    for line, found in zip(LINES, logits, strict=True):  # one by one there is no padding
        expected = model(**prompts(line, return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
        assert torch.allclose(found, expected, atol=1e-5)


def test_our_decoder_without_merges_is_as_it_was(shipped) -> None:
    prefill = Prefill(shipped, DynamicInputs.of(shipped))
    batch = prefill.inputs(LINES)
    session = shipped.session([line.encode() for line in LINES], 1)
    with torch.no_grad():
        found = prefill.decoder.start(batch.embeddings, batch.mask, 4)
    assert torch.allclose(found.logits, session.logits, atol=1e-4)


def test_merged_rows_are_shorter_and_say_the_same(tokenizer) -> None:
    inputs = DynamicInputs.of(tiny_models.encoder(len(tokenizer)), tokenizer)
    before, after = inputs(LINES, LINES), inputs(LINES, LINES, merges=None)
    assert after.mask.sum() < before.mask.sum()
    names = [*inputs.base.tokens, *after.merged.added]
    special = inputs.base.special
    for old, new in zip(before.merged.rows, after.merged.rows, strict=True):
        assert b"".join(names[i] for i in old) == b"".join(names[i] for i in new)
        assert [i for i in old if i in special] == [i for i in new if i in special], "special tokens stay by themselves"


def test_each_row_sits_where_its_mask_says(tokenizer) -> None:
    model = tiny_models.encoder(len(tokenizer))
    batch = DynamicInputs.of(model, tokenizer)(LINES, merges=None)
    for row, mask, x in zip(batch.merged.rows, batch.mask, batch.embeddings, strict=True):
        assert mask.tolist() == [1] * len(row) + [0] * (batch.mask.shape[1] - len(row))
        assert torch.equal(x[mask == 0], torch.zeros_like(x[mask == 0]))
        own = [at for at, i in enumerate(row) if i < len(tokenizer)]
        assert torch.equal(x[own], model.get_input_embeddings().weight[[row[at] for at in own]])


def test_padding_changes_nothing_of_merged_rows(tokenizer) -> None:
    model = tiny_models.encoder(len(tokenizer))
    inputs = DynamicInputs.of(model, tokenizer)
    together = inputs(LINES, merges=None)
    x = together.embeddings[0][together.mask[0] == 1][None]
    alone = model(inputs_embeds=x, attention_mask=torch.ones(x.shape[:2])).logits
    assert torch.allclose(model(**together.model_inputs).logits[:1], alone, atol=1e-5)


def test_merged_words_have_the_number_of_their_first_part(tokenizer) -> None:
    words = [["The", " government", " said"], [" plan"]]
    inputs = DynamicInputs.of(tiny_models.encoder(len(tokenizer), "TokenClassification"), tokenizer)
    batch = inputs(words, merges=None)
    assert batch.words is not None
    names = [*inputs.base.tokens, *batch.merged.added]
    for row, numbers, own in zip(batch.merged.rows, batch.words, words, strict=True):
        assert [n for n in numbers if n is not None] == list(range(len(own)))
        assert [names[i].decode() for i, n in zip(row, numbers, strict=True) if n is not None] == own


def test_segments_of_pairs() -> None:
    import transformers
    from tokenizers import processors

    tokenizer = tiny_models.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s>:0 $A:0 </s>:0 $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    bert = transformers.BertModel(config).eval()
    inputs = DynamicInputs.of(bert, tokenizer)
    batch = inputs(LINES, LINES)
    expected = bert(**tokenizer(LINES, LINES, padding=True, return_tensors="pt", return_token_type_ids=True))[0]
    real = batch.mask == 1
    assert torch.allclose(bert(**batch.model_inputs)[0][real], expected[real], atol=1e-5)
    merged = inputs(LINES, LINES, merges=None)
    for row, kinds in zip(merged.merged.rows, merged.types.tolist(), strict=True):  # type: ignore[union-attr]
        middle = row.index(2) + 1
        assert kinds[: len(row)] == [0] * middle + [1] * (len(row) - middle)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generating_after_an_unmerged_prompt_is_what_transformers_does(prompts, kind: str) -> None:
    model = tiny_models.decoder(len(prompts), kind)
    prefill = Prefill(model, DynamicInputs.of(model, prompts), ends=[2])
    batch = prefill.inputs(LINES, merges=3)
    expected = model.generate(
        **batch.model_inputs, max_new_tokens=5, do_sample=False, pad_token_id=1, eos_token_id=None
    )
    assert [row[:5] for row in Prefill(model, prefill.inputs).generate(LINES, 5, merges=3)] == expected.tolist()


def test_scores_are_those_of_the_model(prompts, shipped) -> None:
    answers = [" government", " said the", "x"]
    hf = tiny_models.decoder(len(prompts))
    with torch.no_grad():
        found = Prefill(hf, DynamicInputs.of(hf, prompts)).score(LINES, answers)
        for line, answer, score in zip(LINES, answers, found.tolist(), strict=True):
            a, b = prompts(line)["input_ids"], prompts(answer)["input_ids"]
            logp = hf(input_ids=torch.tensor([a + b])).logits[0].log_softmax(-1)
            own = sum(float(logp[len(a) + i - 1, token]) for i, token in enumerate(b))
            assert score == pytest.approx(own, abs=1e-4)
    ours = Prefill(shipped, DynamicInputs.of(shipped))
    alone = torch.cat([ours.score([line], [answer]) for line, answer in zip(LINES, answers, strict=True)])
    assert torch.allclose(ours.score(LINES, answers), alone, atol=1e-4)
    assert ours.score(LINES, answers, merges=None).isfinite().all()


@pytest.mark.parametrize("prompt", ["said", "a", b"said \xc3", "🦜".encode()[:2]])
def test_a_batch_of_one_short_prompt(shipped, prompts, prompt) -> None:
    for model, tokenizer in ((shipped, None), (tiny_models.decoder(len(prompts)), prompts)):
        prefill = Prefill(model, DynamicInputs.of(model, tokenizer))
        rows = prefill.generate([prompt], 3, merges=None)
        assert [len(row) for row in rows] == [3]
        batch = prefill.inputs([prompt])
        data = prompt if isinstance(prompt, bytes) else prompt.encode()
        assert prefill.inputs.base.bytes_of(batch.merged.rows[0]) == data


def test_bad_input_is_refused_by_name(tokenizer, prompts) -> None:
    model = tiny_models.encoder(len(tokenizer))
    inputs = DynamicInputs.of(model, tokenizer)
    with pytest.raises(ValueError, match="empty batch"):
        inputs([])
    with pytest.raises(ValueError, match="pairs must be as many"):
        inputs(LINES, ["a"])
    with pytest.raises(ValueError, match="max_merges"):
        inputs(LINES, merges=-1)
    with pytest.raises(ValueError, match="prompt must be UTF-8"):
        inputs([b"\xff a"])
    with pytest.raises(ValueError, match="the model embeds 20"):
        DynamicInputs.of(tiny_models.encoder(20), tokenizer)
    with pytest.raises(ValueError, match="left"):
        Prefill(tiny_models.decoder(len(prompts)), inputs)
    bare = tiny_models.decoder(len(prompts))
    with pytest.raises(ValueError, match="every text must have a token"):
        DynamicInputs.of(bare, prompts)(["", "a"])
    with pytest.raises(ValueError, match="answers"):
        Prefill(bare, DynamicInputs.of(bare, prompts)).score(["a"], [""])
    with pytest.raises(TypeError, match="language-modelling head"):
        Prefill(model, DynamicInputs.of(model, tokenizer, padding="left"))


def test_special_tokens_in_texts_never_merge(tokenizer) -> None:
    inputs = DynamicInputs.of(tiny_models.encoder(len(tokenizer)), tokenizer)
    batch = inputs(["said</s>said</s>said"] * 3, merges=None)
    assert batch.merged.rows[0].count(2) == 3
    assert not any(b"</s>" in token for token in batch.merged.added)


def test_surfaces_stay_within_their_limit(tokenizer) -> None:
    inputs = DynamicInputs.of(tiny_models.encoder(len(tokenizer)), tokenizer, max_bytes=4)
    assert max(map(len, inputs(LINES, merges=None).merged.added)) <= 4


def test_fewest_parts() -> None:
    parts = fewest_parts([b"a", b"ab", b"bcd", b"abc", b"d", b""])
    assert parts(b"abcd") == [0, 2] or parts(b"abcd") == [3, 4]
    assert [len(parts(token)) for token in (b"abcd", b"ab", b"add")] == [2, 1, 3]
    assert parts(b"abcd") == [3, 4], "the longest first"
    assert not parts(b"abx")


def test_a_wordpiece_tokenizer_keeps_words(tmp_path) -> None:
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {t: i for i, t in enumerate(["[UNK]", "[PAD]", "un", "##happi", "##ness", "is", "##n", "."])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    wordpiece = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    inputs = DynamicInputs.of(tiny_models.encoder(8), wordpiece)
    batch = inputs(["Unhappiness isn. unhappiness xyz"], merges=None)
    names = [*inputs.base.tokens, *batch.merged.added]
    assert [names[i] for i in batch.merged.rows[0]] == [b" unhappiness", b" isn", b" .", b" unhappiness", b""]
